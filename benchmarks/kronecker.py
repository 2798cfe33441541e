"""Kronecker products, plain and damped, against the matrices that they are."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from jaxla.operators import (
    DampedKronecker,
    Dense,
    Kronecker,
    kronecker_svd,
    nearest_kronecker,
    to_lineax,
)

from ._compare import timing_table, worst_ratio
from ._harness import Findings, run_script, Settings
from ._report import Figure, Table


QUESTION = """How much do products with a Kronecker product of symmetric float32 matrices,
and solves and log-determinants with a multiple of the identity added, gain over the same
matrix formed, and over lineax? And power iteration for the nearest Kronecker product over
the singular value decomposition?"""

SHIFT = 0.1
OURS, FORMED, DECOMPOSITION = "jaxla", "formed", "decomposition"
LIMITS = {"mv": 0.2, "solve": 0.05, "logdet": 0.05}
NOTE = """`formed` and `lineax Cholesky` get the formed matrix as an argument, which is
not timed. CG has the tolerance 1e-5 and multiplies by the factors."""


def main(arguments=None):
    return run_script("kronecker", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    shapes = settings.choose(((64, 64), (16, 16, 16)), ((4, 4),))
    inputs = {_name(sizes): _arguments(sizes, formed=True) for sizes in shapes}
    tables, figures = [], []
    for task, limit in LIMITS.items():
        table, ratios = timing_table(
            f"Time of {task}", inputs, _methods(task), FORMED, settings, budget=30,
            note=NOTE,
        )  # fmt: skip
        tables.append(table)
        first = next(iter(inputs))
        gain = worst_ratio(ratios, OURS, [first])
        figures.append(
            Figure(f"time of {task} / of the formed matrix, {first}", limit, gain)
        )
    nearest, more = _nearest(settings)
    return Findings(
        [*tables, _large(settings), *nearest], figures + more, peers=["lineax"]
    )


def _arguments(sizes: tuple[int, ...], *, formed: bool) -> tuple:
    """The product and the damped one, if formed, a vector, and the factors."""
    factors = [_symmetric(i, n) for i, n in enumerate(sizes)]
    b = jnp.asarray(np.random.default_rng(9).standard_normal(np.prod(sizes)), jnp.float32)
    plain = Kronecker(*factors).as_matrix() if formed else None
    return plain, _damped(*factors).as_matrix() if formed else None, b, *factors


def _damped(*factors) -> DampedKronecker:
    return DampedKronecker(*factors, shift=SHIFT)


def _ours() -> dict[str, Callable]:
    return {
        "mv": lambda _, __, b, *factors: Kronecker(*factors).mv(b),
        "solve": lambda _, __, b, *factors: _damped(*factors).solve(b),
        "logdet": lambda _, __, b, *factors: _damped(*factors).logdet(),
    }


def _methods(task: str) -> dict[str, Callable]:
    """The competitors at a task."""
    spd = lx.positive_semidefinite_tag

    def by_cg(_, __, b, *factors):
        operator = to_lineax(_damped(*factors), tags=spd)
        return lx.linear_solve(operator, b, lx.CG(1e-5, 1e-5)).value

    def by_cholesky(_, damped, b, *factors):
        operator = lx.MatrixLinearOperator(damped, spd)
        return lx.linear_solve(operator, b, lx.Cholesky()).value

    others = {
        "mv": {FORMED: lambda plain, _, b, *factors: Dense(plain).mv(b)},
        "solve": {
            "lineax CG, factors": by_cg,
            FORMED: lambda _, damped, b, *factors: jnp.linalg.solve(damped, b),
            "lineax Cholesky, formed": by_cholesky,
        },
        "logdet": {FORMED: lambda _, damped, b, *factors: jnp.linalg.slogdet(damped)[1]},
    }
    return {OURS: _ours()[task], **others[task]}


def _large(settings: Settings) -> Table:
    """A matrix of 32768 rows would take 4 GiB."""
    sizes = settings.choose((32, 32, 32), (4, 2))
    inputs = {_name(sizes): _arguments(sizes, formed=False)}
    # No lineax: in float32 it calls a matrix singular, and gives NaN, whose eigenvalues
    # are below 100 eps times its number of rows.
    return timing_table("Too large to be formed", inputs, _ours(), "mv", settings)[0]


def _nearest(settings: Settings) -> tuple[list[Table], list[Figure]]:
    """Power iteration against the decomposition: time, and the error."""
    n = settings.choose(24, 3)
    matrix = _second_moment(n)
    methods = {DECOMPOSITION: functools.partial(_first_term, n=n)}
    methods |= {
        f"{OURS}, {steps} steps": functools.partial(_power, n=n, steps=steps)
        for steps in (1, 3, 10)
    }
    title = f"the nearest product of {n} x {n} matrices to a second moment"
    inputs = {f"{n * n} x {n * n}": (matrix,)}
    times, ratios = timing_table(
        f"Time of {title}", inputs, methods, DECOMPOSITION, settings, budget=30
    )
    best = _error(matrix, methods[DECOMPOSITION])
    errors = {name: _error(matrix, fn) / best for name, fn in methods.items()}
    last = f"{OURS}, 10 steps"
    gain = worst_ratio(ratios, last)
    figures = [
        Figure("time of nearest_kronecker / of the decomposition", 0.2, gain),
        Figure("error of nearest_kronecker / of the best, 10 steps", 1.001, errors[last]),
    ]
    table = Table(f"Error of {title}", ("method", "error / best"), [*errors.items()])
    return [times, table], figures


def _second_moment(n: int) -> jax.Array:
    g = np.random.default_rng(0).standard_normal((2 * n * n, n, n))
    scaled = _symmetric(1, n) @ g @ _symmetric(2, n)
    moment = np.einsum("tij,tkl->ijkl", scaled, scaled).reshape(n * n, n * n)
    return jnp.asarray(moment / len(g), jnp.float32)


def _power(a: jax.Array, *, n: int, steps: int) -> tuple[jax.Array, jax.Array]:
    found = nearest_kronecker(a, (n, n), steps=steps)
    return found.left, found.right


def _first_term(a: jax.Array, *, n: int) -> tuple[jax.Array, jax.Array]:
    terms = kronecker_svd(a, (n, n), rank=1)
    return terms.singular_values[0] * terms.left[0], terms.right[0]


def _error(matrix: jax.Array, fn: Callable) -> float:
    """The norm of what the product leaves of the matrix, in float64."""
    left, right = (np.asarray(part, np.float64) for part in jax.jit(fn)(matrix))
    return float(np.linalg.norm(np.asarray(matrix, np.float64) - np.kron(left, right)))


def _symmetric(seed: int, n: int) -> jax.Array:
    """A positive definite matrix of condition 1e3."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return jnp.asarray((q * np.geomspace(1e-3, 1, n)) @ q.T, jnp.float32)


def _name(sizes) -> str:
    return " x ".join(f"{n}^2" for n in sizes)


if __name__ == "__main__":
    main()

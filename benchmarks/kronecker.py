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

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table
from ._timing import compile_interleaved, ratio, summary, time_interleaved


QUESTION = """How much do products with a Kronecker product of symmetric float32 matrices,
and solves and log-determinants with a multiple of the identity added, gain over the same
matrix formed, and over lineax? And power iteration for the nearest Kronecker product over
the singular value decomposition?"""

SHIFT = 0.1
OURS = "jaxla"

Job = tuple[Callable, tuple]


def main(arguments=None):
    return run_script("kronecker", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    shapes = settings.choose(((64, 64), (16, 16, 16), (32, 32, 32)), ((4, 4),))
    tables, figures = [], []
    for sizes in shapes:
        # A matrix of 32768 rows would take 4 GiB: there, only what forms none.
        table, gains = _operators(sizes, settings, formed=np.prod(sizes) <= 4096)
        tables.append(table)
        if sizes == shapes[0]:
            limits = {"mv": 0.2, "solve": 0.05, "logdet": 0.05}
            figures += [
                Figure(
                    f"time of {task} / of the formed matrix, {_name(sizes)}", limit, gain
                )
                for (task, limit), gain in zip(limits.items(), gains, strict=True)
            ]
    nearest, gain, error = _nearest(settings)
    tables.append(nearest)
    figures += [
        Figure("time of nearest_kronecker / of the decomposition", 0.2, gain),
        Figure("error of nearest_kronecker / of the best, 10 steps", 1.001, error),
    ]
    return Findings(tables, figures, peers=["lineax"])


def _operators(sizes, settings: Settings, *, formed: bool) -> tuple[Table, list[float]]:
    factors = [_symmetric(i, n) for i, n in enumerate(sizes)]
    b = jnp.asarray(np.random.default_rng(9).standard_normal(np.prod(sizes)), jnp.float32)
    rows, gains = [], []
    for task, jobs in _tasks(factors, b, formed).items():
        samples, made = _timed(jobs, settings)
        base = samples["formed"] if formed else samples[OURS]
        for name, sample in samples.items():
            wall = summary(1e3 * sample.wall)
            rows.append((
                task, name, wall["median"], wall["q1"], wall["q3"],
                1e3 * float(np.median(sample.cpu)), ratio(sample.wall, base.wall),
                made[name].peak_bytes / 2**20, wall["samples"],
            ))  # fmt: skip
        gains.append(ratio(samples[OURS].wall, base.wall))
        say(f"{_name(sizes)}: {task} timed")
    columns = (
        "task", "method", "median ms", "quartile 1", "quartile 3", "CPU ms",
        "time / formed" if formed else "time / jaxla", "MiB", "samples",
    )  # fmt: skip
    note = (
        "MiB counts arguments, results and temporaries; `formed` and `lineax` get the "
        "formed matrix as an argument, which is not timed. CG has the tolerance 1e-5 "
        "and multiplies by the factors."
    )
    return Table(f"Factors of {_name(sizes)}", columns, rows, note), gains


def _tasks(factors: list, b: jax.Array, formed: bool) -> dict[str, dict[str, Job]]:
    """The competitors at every task."""
    damped = lambda *factors: DampedKronecker(*factors, shift=SHIFT)
    spd, cg = lx.positive_semidefinite_tag, lx.CG(1e-5, 1e-5)

    def by_cg(b, *factors):
        return lx.linear_solve(to_lineax(damped(*factors), tags=spd), b, cg).value

    tasks: dict[str, dict[str, Job]] = {
        "mv": {OURS: (lambda b, *f: Kronecker(*f).mv(b), (b, *factors))},
        "solve": {
            OURS: (lambda b, *f: damped(*f).solve(b), (b, *factors)),
        },
        "logdet": {OURS: (lambda *f: damped(*f).logdet(), tuple(factors))},
    }
    if formed:
        plain = Kronecker(*factors).as_matrix()
        matrix = damped(*factors).as_matrix()

        def by_lineax(matrix, b):
            operator = lx.MatrixLinearOperator(matrix, spd)
            return lx.linear_solve(operator, b, lx.Cholesky()).value

        tasks["mv"]["formed"] = (lambda a, b: Dense(a).mv(b), (plain, b))
        # Not for the larger ones: in float32 lineax calls a matrix singular, and gives
        # NaN, whose eigenvalues are below 100 eps times its number of rows.
        tasks["solve"]["lineax CG, factors"] = (by_cg, (b, *factors))
        tasks["solve"]["formed"] = (jnp.linalg.solve, (matrix, b))
        tasks["solve"]["lineax Cholesky, formed"] = (by_lineax, (matrix, b))
        tasks["logdet"]["formed"] = (lambda a: jnp.linalg.slogdet(a)[1], (matrix,))
    return tasks


def _nearest(settings: Settings) -> tuple[Table, float, float]:
    """Power iteration against the decomposition: time, and the error."""
    n = settings.choose(24, 3)
    g = np.random.default_rng(0).standard_normal((2 * n * n, n, n))
    scaled = _symmetric(1, n) @ g @ _symmetric(2, n)
    moment = np.einsum("tij,tkl->ijkl", scaled, scaled).reshape(n * n, n * n)
    matrix = jnp.asarray(moment / len(g), jnp.float32)
    best = _error(matrix, lambda a: _first_term(a, n))
    jobs = {"decomposition": (lambda a: _first_term(a, n), (matrix,))}
    for steps in (1, 3, 10):
        fn = functools.partial(_power, n=n, steps=steps)
        jobs[f"{OURS}, {steps} steps"] = (fn, (matrix,))
    samples, _ = _timed(jobs, settings)
    rows, ratios, errors = [], {}, {}
    for name, (fn, _) in jobs.items():
        wall = summary(1e3 * samples[name].wall)
        ratios[name] = ratio(samples[name].wall, samples["decomposition"].wall)
        errors[name] = _error(matrix, fn) / best
        rows.append((name, wall["median"], ratios[name], errors[name], wall["samples"]))
    columns = ("method", "median ms", "time / decomposition", "error / best", "samples")
    title = f"The nearest product of {n} x {n} matrices to a second moment"
    last = f"{OURS}, 10 steps"
    return Table(title, columns, rows), ratios[last], errors[last]


def _power(a: jax.Array, *, n: int, steps: int) -> tuple[jax.Array, jax.Array]:
    found = nearest_kronecker(a, (n, n), steps=steps)
    return found.left, found.right


def _first_term(a: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    terms = kronecker_svd(a, (n, n), rank=1)
    return terms.singular_values[0] * terms.left[0], terms.right[0]


def _error(matrix: jax.Array, fn: Callable) -> float:
    """The norm of what the product leaves of the matrix, in float64."""
    left, right = (np.asarray(part, np.float64) for part in jax.jit(fn)(matrix))
    return float(np.linalg.norm(np.asarray(matrix, np.float64) - np.kron(left, right)))


def _timed(jobs: dict[str, Job], settings: Settings):
    made = compile_interleaved(jobs, rounds=1, warmup=0)
    made = {name: compiled[-1] for name, compiled in made.items()}
    thunks = {
        name: functools.partial(made[name].call, *args)
        for name, (_, args) in jobs.items()
    }
    rounds = settings.num_rounds(25, 2)
    return time_interleaved(thunks, rounds=rounds, budget=30), made


def _symmetric(seed: int, n: int) -> jax.Array:
    """A positive definite matrix of condition 1e3."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return jnp.asarray((q * np.geomspace(1e-3, 1, n)) @ q.T, jnp.float32)


def _name(sizes) -> str:
    return " x ".join(f"{n}^2" for n in sizes)


if __name__ == "__main__":
    main()

"""What does projecting the eigenvalues add to the eigendecomposition, and is it right?"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.scipy.linalg import solve_triangular

from jaxla import matfun
from jaxla.factor import eigh
from jaxla.matfun import _perspective_cones as perspective, _vector_cones as vector

from ._harness import Findings, run_script, Settings
from ._report import Figure, Table
from ._timing import ratio, summary, time_interleaved


QUESTION = """How long does the projection onto a spectral matrix cone take beside the
eigendecomposition alone (or the singular value decomposition, for the nuclear norm), and
how does it compare with general methods that know nothing of eigenvalues: alternating
projections, and a solver for constrained problems?"""

NOTE = """The paper (arXiv:2511.01089) reports that projecting the vector of eigenvalues
is negligible beside the decomposition, and that SCS with these projections is up to ten
times as fast. Only the first is measured here. `projection` is the whole; it
contains the product that puts the matrix together, $2 n^3$ flops. `vector` is the
projection of the eigenvalues alone, with the overhead of a call of its own."""

CONES = ("psd", "log det", "trace inverse", "sum of largest", "nuclear")


def main(arguments=None):
    return run_script("spectral_cones", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    sizes = settings.choose((50, 100, 200, 500), (8,))
    rounds = settings.num_rounds(15)
    with jax.enable_x64(True):
        rows = [row for n in sizes for row in _shares(n, rounds)]
        against = [_dykstra(settings.choose(40, 4), settings.choose(1000, 20))]
        against += _solver(settings.choose(8, 2))
    columns = (
        "cone", "n", "decomposition ms", "projection ms", "projection / decomposition",
        "vector us", "vector / decomposition",
    )  # fmt: skip
    largest = [row for row in rows if row[1] == sizes[-1]]
    worst = max(float(row[-1]) for row in largest)
    solver = max(float(row[3]) for row in against[1:])
    figures = [
        Figure(f"vector projection / decomposition, n={sizes[-1]}, worst", 0.01, worst),
        Figure("projection / alternating projections", 0.01, float(against[0][3])),
        Figure("projection / constrained solver, worst cone", 0.01, solver),
    ]
    names = ("problem", "ours ms", "general ms", "ours / general", "difference")
    note = (
        "`difference` is the largest of all entries, relative to the largest entry of "
        "ours; for the solver it is limited by the solver's own tolerance."
    )
    tables = [
        Table("Beside the decomposition, float64", columns, rows, NOTE),
        Table("Against general methods, float64", names, against, note),
    ]
    return Findings(tables, figures, peers=("scipy",))


def _shares(n: int, rounds: int):
    """Rows of the first table."""
    rng = np.random.default_rng(n)
    g = jnp.asarray(rng.standard_normal((n, n)))
    x = (g + g.T) / 2 / n**0.5
    t, v = jnp.asarray(-0.3), jnp.asarray(0.5)
    calls = {
        "psd": (matfun.project_psd, (x,)),
        "log det": (matfun.project_log_det_cone, (t, v, x)),
        "trace inverse": (matfun.project_trace_inverse_cone, (-t, v, x)),
        "sum of largest": (
            functools.partial(matfun.project_sum_of_largest_epigraph, k=max(1, n // 10)),
            (v, x),
        ),
        "nuclear": (matfun.project_nuclear_epigraph, (v, g)),
    }
    thunks: dict[str, Callable] = {}
    for name, (fn, args) in calls.items():
        thunks[name] = functools.partial(jax.jit(fn), *args)
    thunks["eigh"] = functools.partial(jax.jit(eigh), x)
    thunks["svd"] = functools.partial(
        jax.jit(functools.partial(jnp.linalg.svd, full_matrices=False)), g
    )
    for name, thunk in _vectors(n, jnp.linalg.eigvalsh(x), t, v).items():
        thunks[f"vector {name}"] = thunk
    taken = time_interleaved(thunks, rounds=rounds, budget=60)
    for name in CONES:
        base = taken["svd" if name == "nuclear" else "eigh"].wall
        whole, vector = taken[name].wall, taken[f"vector {name}"].wall
        yield (
            name, n, 1e3 * summary(base)["median"], 1e3 * summary(whole)["median"],
            ratio(whole, base), 1e6 * summary(vector)["median"], ratio(vector, base),
        )  # fmt: skip


def _vectors(n: int, w: jax.Array, t: jax.Array, v: jax.Array) -> dict[str, Callable]:
    """The projections of the eigenvalues alone."""
    maps = {
        "psd": (vector.positive_part(), ()),
        "log det": (perspective.perspective_cone(perspective.LOG), (t, v)),
        "trace inverse": (perspective.perspective_cone(perspective.INVERSE), (-t, v)),
        "sum of largest": (vector.sum_of_largest_epigraph(max(1, n // 10)), (v,)),
        "nuclear": (vector.l1_epigraph(), (v,)),
    }
    return {
        # JAX can only keep functions, not named tuples that can be called.
        name: functools.partial(jax.jit(vector_map.__call__), scalars, w)
        for name, (vector_map, scalars) in maps.items()
    }


def _dykstra(n: int, steps: int):
    """The unit ball of the spectral norm in symmetric matrices: `-I <= X <= I`.

    Dykstra's alternating projections onto the two cones that it is an intersection of.
    """
    g = np.random.default_rng(0).standard_normal((n, n))
    x, eye = jnp.asarray((g + g.T) / 2), jnp.eye(n)

    @jax.jit
    def alternate(x):
        def step(_, state):
            y, p, q = state
            below = eye - matfun.project_psd(eye - (y + p))
            p = y + p - below
            above = matfun.project_psd(below + q + eye) - eye
            return above, p, below + q - above

        zero = jnp.zeros_like(x)
        return jax.lax.fori_loop(0, steps, step, (x, zero, zero))[0]

    ours = jax.jit(lambda x: matfun.project_spectral_ball(x, 1.0))
    thunks = {"ours": lambda: ours(x), "general": lambda: alternate(x)}
    taken = time_interleaved(thunks, rounds=3, warmup=1)
    return _row(
        f"spectral ball, n={n}, Dykstra, {steps} steps",
        taken["ours"].wall,
        taken["general"].wall,
        ours(x),
        alternate(x),
    )


def _solver(n: int):
    """SLSQP over the entries of a symmetric matrix, with gradients, from the identity."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal((n, n)) / n**0.5
    z = np.concatenate([[0.4, 0.8], ((g + g.T) / 2).ravel()])
    # Of Cholesky factors: NaN where the matrix is not positive definite.
    functions = {
        "log det": (
            matfun.project_log_det_cone,
            lambda c: -2 * jnp.sum(jnp.log(jnp.diag(c))),
        ),
        "trace inverse": (
            matfun.project_trace_inverse_cone,
            lambda c: jnp.sum(solve_triangular(c, jnp.eye(n), lower=True) ** 2),
        ),
    }
    for name, (fn, f) in functions.items():
        solve = functools.partial(_slsqp, z, n, *_constraint(f, n))
        solve()
        begin = time.perf_counter()
        solved = solve()
        general = time.perf_counter() - begin
        ours = functools.partial(jax.jit(fn), z[0], z[1], z[2:].reshape(n, n))
        wall = time_interleaved({"ours": ours}, rounds=5)["ours"].wall
        actual = np.concatenate([np.ravel(a) for a in ours()])
        general = np.full_like(wall, general)
        yield _row(f"{name}, n={n}, SLSQP", wall, general, actual, solved)


def _constraint(f: Callable, n: int):
    """`t - v f(x / v)` of all entries in one vector, and its gradient."""

    def slack(q):
        a = q[2:].reshape(n, n)
        return q[0] - q[1] * f(jnp.linalg.cholesky((a + a.T) / 2 / q[1]))

    return jax.jit(slack), jax.jit(jax.grad(slack))


def _slsqp(z: np.ndarray, n: int, value: Callable, gradient: Callable) -> np.ndarray:
    return scipy.optimize.minimize(
        lambda q: np.sum((q - z) ** 2) / 2,
        np.concatenate([[n + 1.0, 1.0], np.eye(n).ravel()]),
        jac=lambda q: q - z,
        bounds=[(None, None), (1e-6, None), *[(None, None)] * (n * n)],
        constraints={
            "type": "ineq",
            "fun": lambda q: np.nan_to_num(float(value(q)), nan=-1e3),
            "jac": lambda q: np.nan_to_num(np.asarray(gradient(q))),
        },
        options={"ftol": 1e-12, "maxiter": 300},
    ).x


def _row(problem, ours, general, actual, other):
    difference = np.abs(np.asarray(actual) - np.asarray(other)).max()
    return (
        problem, 1e3 * summary(ours)["median"], 1e3 * summary(general)["median"],
        ratio(ours, general), float(difference / np.abs(np.asarray(actual)).max()),
    )  # fmt: skip


if __name__ == "__main__":
    main()

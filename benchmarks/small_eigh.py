"""How fast are eigenproblems of many small matrices, and how exact?"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxla.factor import eigh, eigh_relative, svd

from ._compare import timing_table
from ._harness import Findings, run_script, Settings
from ._report import Figure, Table


QUESTION = """How long do jaxla.factor.eigh and svd take for many small matrices in
float32, with each method, against jnp.linalg.eigh and svd; what are their residuals; and
how exact are the eigenvalues of graded matrices?"""

MANY = [(1000, n) for n in (2, 3, 4, 6, 8, 10, 16, 32)]
MANY += [(100_000, n) for n in (2, 3, 4)]
FEW = [(1, n) for n in (2, 3, 4, 8, 16, 64)]
FEW += [(b, n) for b in (8, 64) for n in (3, 4, 10)] + [(1000, 2), (1000, 3)]
CALLS = 100
LIMITS = {
    (1000, 2): 1 / 10, (1000, 3): 1 / 10, (1000, 4): 1 / 8, (1000, 8): 1 / 3,
    (100_000, 2): 1 / 10, (100_000, 3): 1 / 10, (100_000, 4): 1 / 2.5,
}  # fmt: skip
THEIRS = "jnp.linalg"


def main(arguments=None):
    return run_script("small_eigh", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    many = settings.choose(MANY, [(20, 3), (70, 4)])
    few = settings.choose(FEW, [(1, 4)])
    tables, figures = [], []
    for name in ("eigh", "svd"):
        inputs = {case: (_matrices(name, *case),) for case in many}
        title = f"Time of {name}, float32"
        tables.append(_times(title, inputs, _methods(name), settings, figures))
        errors = {case: _errors(name, *args) for case, args in inputs.items()}
        tables.append(_table_of_errors(name, errors))
        worst = max(residual for residual, _ in errors.values())
        figures.append(Figure(f"{name}: residual", 2e-6, worst))
    loops = {method: _in_a_loop(fn) for method, fn in _methods("eigh").items()}
    inputs = {case: (jnp.stack([_matrices("eigh", *case)] * CALLS),) for case in few}
    title = f"Time of {CALLS} calls of eigh for few matrices in a compiled loop"
    tables.append(_times(title, inputs, loops, settings, figures))
    return Findings([*tables, _graded()], figures)


def _matrices(name: str, batch: int, size: int) -> jax.Array:
    """Normal entries."""
    a = np.random.default_rng(size).standard_normal((batch, size, size))
    return jnp.asarray(a + a.swapaxes(1, 2) if name == "eigh" else a, jnp.float32)


def _methods(name: str) -> dict[str, Callable]:
    ours, theirs = (eigh, jnp.linalg.eigh) if name == "eigh" else (svd, jnp.linalg.svd)
    fns = {THEIRS: theirs if name == "eigh" else lambda a: theirs(a, full_matrices=False)}
    return fns | {m: functools.partial(ours, method=m) for m in ("auto", "jacobi")}


def _in_a_loop(fn: Callable) -> Callable:
    return lambda stack: jax.lax.map(lambda a: tuple(fn(a)), stack)


def _times(title, inputs, methods, settings: Settings, figures: list[Figure]) -> Table:
    """Times, and the figures that they say something of."""
    label = lambda case: f"{case[0]:,} x {case[1]}"
    named = {label(case): args for case, args in inputs.items()}
    table, ratios = timing_table(title, named, methods, THEIRS, settings, rounds=200)
    for case in inputs:
        limit = LIMITS.get(case, 1.05) if " of eigh" in title else 1.05
        what = f"{title}: {label(case)}, auto / {THEIRS}"
        figures.append(Figure(what, limit, ratios[label(case), "auto"]))
    return table


def _table_of_errors(name: str, errors: dict) -> Table:
    rows = [(f"{b:,} x {n}", *both) for (b, n), both in errors.items()]
    columns = ("input", "residual", "departure from orthogonality")
    note = (
        "The largest, in Frobenius norms; residuals relative to the norm of the matrix."
    )
    return Table(f"Errors of {name}, auto, float32", columns, rows, note)


def _errors(name: str, a: jax.Array) -> tuple[float, float]:
    """The largest residual relative to the norm, and departure from orthogonality."""
    out = _methods(name)["auto"](a)
    a = np.asarray(a[:2000], "float64")
    out = [np.asarray(x[:2000], "float64") for x in out]
    if name == "svd":
        u, s, vt = out
        rest = (u * s[:, None]) @ vt - a
        bases = [u, vt.swapaxes(1, 2)]
    else:
        w, v = out
        rest, bases = a @ v - v * w[:, None], [v]
    norm = functools.partial(np.linalg.norm, axis=(1, 2))
    eye = np.eye(a.shape[-1])
    departure = max(float(norm(v.swapaxes(1, 2) @ v - eye).max()) for v in bases)
    return float((norm(rest) / norm(a)).max()), departure


def _graded() -> Table:
    """`D H D` of size 12 with diagonal D from 1e-6 to 1, as in Demmel and Veselic."""
    n, rng, rows = 12, np.random.default_rng(0), []
    g = rng.standard_normal((n, 3 * n))
    h = g @ g.T
    h /= np.sqrt(np.outer(np.diag(h), np.diag(h)))
    d = np.geomspace(1, 1e-6, n)
    orders = {
        "large to small": d,
        "small to large": d[::-1],
        "random": rng.permutation(d),
    }
    for dtype in ("float32", "float64"):
        for order, scales in orders.items():
            matrix = (h * scales[:, None] * scales).astype(dtype)
            exact = _long_jacobi(matrix)
            with jax.enable_x64(dtype == "float64"):
                given = jnp.asarray(matrix)
                found = (jnp.linalg.eigvalsh(given), eigh_relative(given).eigenvalues)
            errors = (abs(np.asarray(w, np.longdouble) / exact - 1).max() for w in found)
            rows.append((dtype, order, *map(float, errors)))
    columns = ("dtype", "order of D", "jnp.linalg.eigvalsh", "jaxla eigh_relative")
    note = "Largest relative error of an eigenvalue, against Jacobi in long double."
    return Table("Graded matrices, condition 1e12", columns, rows, note)


def _long_jacobi(matrix: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.diag(matrix))
    a = matrix[np.ix_(order, order)].astype(np.longdouble)
    a = (a + a.T) / 2
    for _ in range(12):
        for i, j in zip(*np.triu_indices(len(a), 1), strict=True):
            if a[i, j] != 0:
                theta = (a[j, j] - a[i, i]) / (2 * a[i, j])
                t = (1 if theta >= 0 else -1) / (abs(theta) + np.sqrt(1 + theta**2))
                c = 1 / np.sqrt(1 + t * t)
                turn = np.array([[c, -t * c], [t * c, c]])
                a[[i, j]] = turn @ a[[i, j]]
                a[:, [i, j]] = a[:, [i, j]] @ turn.T
    return np.sort(np.diag(a))


if __name__ == "__main__":
    main()

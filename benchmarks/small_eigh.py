"""How fast are eigenproblems of many small matrices, and how exact?"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxla.factor import eigh, eigh_relative, svd

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table
from ._timing import compile_interleaved, ratio, summary, time_interleaved


QUESTION = """How long do jaxla.factor.eigh and svd take for many small matrices in
float32, with each method, against jnp.linalg.eigh and svd; what are their residuals; and
how exact are the eigenvalues of graded matrices?"""

THOUSAND = [(1000, n) for n in (2, 3, 4, 6, 8, 10, 16, 32)]
MORE = [(100_000, n) for n in (2, 3, 4)]
FEW = [(1, n) for n in (2, 3, 4, 8, 16, 64)] + [
    (b, n) for b in (8, 64) for n in (3, 4, 10)
]
LIMITS = {(1000, 2): 1 / 10, (1000, 3): 1 / 10, (1000, 4): 1 / 8, (1000, 8): 1 / 3}
THEIRS = "jnp.linalg"


def main(arguments=None):
    return run_script("small_eigh", QUESTION, measure, arguments)


def measure(settings: Settings) -> Findings:
    cases = settings.choose([*THOUSAND, *MORE, *FEW], [(20, 3), (70, 4), (1, 4)])
    tables, figures = [], []
    for name, number in (("eigh", len(cases)), ("svd", settings.choose(8, 2))):
        rows = []
        for batch, size in cases[:number]:
            rows += _compare(name, batch, size, settings)
        tables.append(Table(f"{name}, float32", COLUMNS, rows))
        figures += _figures(name, rows)
    tables.append(_graded())
    return Findings(tables, figures)


COLUMNS = (
    "batch", "size", "method", "ms", "quartile 1", "quartile 3", "time / jnp.linalg",
    "CPU time / jnp.linalg", "residual", "departure from orthogonality", "compile s",
)  # fmt: skip


def _compare(name: str, batch: int, size: int, settings: Settings) -> list[tuple]:
    """The rows of one batch of matrices with normal entries."""
    a = np.random.default_rng(size).standard_normal((batch, size, size))
    a = jnp.asarray(a + a.swapaxes(1, 2) if name == "eigh" else a, jnp.float32)
    jobs = {method: (fn, (a,)) for method, fn in _methods(name, size).items()}
    made = compile_interleaved(jobs, rounds=1, warmup=0, progress=lambda _: None)
    calls = {method: made[method][-1].call for method in jobs}
    thunks = {method: functools.partial(call, a) for method, call in calls.items()}
    rounds = settings.num_rounds(30 if batch > 1000 else 200, 2)
    taken = time_interleaved(thunks, rounds=rounds, warmup=3, budget=20)
    rows, base = [], taken[THEIRS]
    for method, samples in taken.items():
        ms = summary(1e3 * samples.wall)
        residual, departure = _errors(name, a, calls[method](a))
        rows.append((
            batch, size, method, ms["median"], ms["q1"], ms["q3"],
            ratio(samples.wall, base.wall), ratio(samples.cpu, base.cpu.clip(1e-9)),
            residual, departure, made[method][-1].seconds,
        ))  # fmt: skip
        say(f"{name} {batch} x {size}, {method}: {rows[-1][6]:.3f}")
    return rows


def _methods(name: str, size: int) -> dict[str, Callable]:
    if name == "svd":
        ours, methods = svd, ["auto", "jacobi"]
        theirs = functools.partial(jnp.linalg.svd, full_matrices=False)
    else:
        ours, theirs = eigh, jnp.linalg.eigh
        methods = ["auto", "jacobi"] + (["closed"] if size <= 3 else [])
    return {THEIRS: theirs} | {m: functools.partial(ours, method=m) for m in methods}


def _errors(name: str, a, out) -> tuple[float, float]:
    """The largest residual relative to the norm, and departure from orthogonality."""
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


def _figures(name: str, rows: list[tuple]) -> list[Figure]:
    auto = [row for row in rows if row[2] == "auto"]
    out = []
    for batch, size, *rest in auto:
        limit = LIMITS.get((batch, size), 1.05) if name == "eigh" else 1.05
        what = f"{name} of {batch} matrices of size {size}: time / jnp.linalg"
        out.append(Figure(what, limit, rest[4]))
    small = [row[8] for row in auto if row[1] <= 10]
    out.append(Figure(f"{name}: residual up to size 10", 2e-6, max(small)))
    return out


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

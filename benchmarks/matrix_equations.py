"""Sylvester, Lyapunov, Stein and Riccati equations: time beside what else solves them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import scipy.linalg

from jaxla.matfun import (
    solve_continuous_are,
    solve_continuous_lyapunov,
    solve_discrete_are,
    solve_discrete_lyapunov,
    solve_sylvester,
)

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table
from ._timing import compile_interleaved, ratio, summary, time_interleaved


QUESTION = """How fast and how accurate are matrix equations in float32, beside
jax.scipy.linalg.solve_sylvester (on CPU only) and SciPy's solvers, in float32 too? The
residual is what the equation leaves, computed in float64, relative to the norms of its
terms."""

OURS = "jaxla"
SCHUR, EIGEN = "jax.scipy, schur", "jax.scipy, eigen"
# The least real part of an eigenvalue, relative to the radius of the spectrum.
SPECTRA = {"apart": 0.5, "close to the axis": 1e-2}


def main(arguments=None):
    return run_script("matrix_equations", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    cells = settings.choose([(64, 1), (128, 1), (256, 1), (16, 100)], [(8, 1)])
    rows, reached = [], {}
    for spectrum, margin in SPECTRA.items():
        for n, batch in cells:
            say(f"Sylvester, n = {n}, batch {batch}, spectra {spectrum}")
            found = sylvester_rows(n, batch, spectrum, margin, settings)
            rows += found
            reached[spectrum, n] = found
    columns = (
        "spectra", "n", "batch", "method", "time ms", "time / schur",
        "CPU time / schur", "residual", "compile s",
    )  # fmt: skip
    table = Table("Sylvester: A X + X B = C", columns, rows, NOTE)
    largest = settings.choose(256, 8)
    ours = reached["apart", largest][0]
    figures = [
        Figure(f"CPU time of solve_sylvester, n = {largest}, / schur", 0.25, ours[6]),
        Figure(f"residual of solve_sylvester, n = {largest}, float32", 1e-6, ours[7]),
    ]
    return Findings([table, others(settings)], figures)


NOTE = """The matrices are normal random ones with a multiple of the identity added, so
that the least real part of an eigenvalue is 0.5, or 0.01, times their spectral radius
before. The residual is the largest of a batch."""


def sylvester_rows(n: int, batch: int, spectrum: str, margin: float, settings: Settings):
    rng = np.random.default_rng(n)
    a, b = (np.stack([shifted(rng, n, margin) for _ in range(batch)]) for _ in "ab")
    c = rng.standard_normal((batch, n, n))
    args = [jnp.asarray(x, jnp.float32) for x in (a, b, c)]
    methods: dict[str, Callable] = {
        OURS: lambda a, b, c: solve_sylvester(a, b, c).solution,
        SCHUR: jax.vmap(functools.partial(jax_sylvester, method="schur")),
        EIGEN: jax.vmap(functools.partial(jax_sylvester, method="eigen")),
    }
    made, taken = run(methods, args, settings)
    rows = []
    for name in methods:
        x = made[name].call(*args)
        a, b, c, x = (np.asarray(z, "float64") for z in (*args, x))
        rest = norm(a @ x + x @ b - c) / (norm(c) + (norm(a) + norm(b)) * norm(x))
        rows.append((
            spectrum, n, batch, name, summary(1e3 * taken[name].wall)["median"],
            ratio(taken[name].wall, taken[SCHUR].wall),
            ratio(taken[name].cpu, taken[SCHUR].cpu),
            float(rest.max()), made[name].seconds,
        ))  # fmt: skip
    return rows


def jax_sylvester(a, b, c, method: str):
    return jax.scipy.linalg.solve_sylvester(a, b, c, method=method)


def others(settings: Settings) -> Table:
    """The other equations, beside SciPy's solvers on the host."""
    rows = []
    for n in settings.choose((32, 128), (6,)):
        for name, (ours, theirs, arrays) in equations(n).items():
            say(f"{name}, n = {n}")
            args = [jnp.asarray(x, jnp.float32) for x in arrays]
            host = [np.asarray(x) for x in args]
            made, _ = run({OURS: ours}, args, settings, rounds=0)
            thunks = {
                OURS: functools.partial(made[OURS].call, *args),
                "SciPy": functools.partial(theirs, *host),
            }
            taken = time_interleaved(
                thunks, rounds=settings.num_rounds(15), warmup=1, budget=30
            )
            exact = theirs(*(np.asarray(x, "float64") for x in args))
            for method, x in ((OURS, thunks[OURS]()), ("SciPy", thunks["SciPy"]())):
                error = norm(np.asarray(x, "float64") - exact) / norm(exact)
                rows.append((
                    name, n, method, summary(1e3 * taken[method].wall)["median"],
                    ratio(taken[method].cpu, taken["SciPy"].cpu), float(error),
                ))  # fmt: skip
    columns = ("equation", "n", "method", "time ms", "CPU time / SciPy", "error")
    note = (
        """The error is relative to SciPy's solution of the same matrices in float64."""
    )
    return Table("The other equations", columns, rows, note)


def equations(n: int):
    rng = np.random.default_rng(n)
    stable = -shifted(rng, n, 0.5)
    inside = rng.standard_normal((n, n))
    inside *= 0.9 / np.abs(np.linalg.eigvals(inside)).max()
    q = rng.standard_normal((n, n)) / n**0.5
    q, b = q @ q.T, rng.standard_normal((n, n // 4 + 1))
    r, a = np.eye(n // 4 + 1), rng.standard_normal((n, n)) / n**0.5
    pairs = {
        "continuous Lyapunov": (solve_continuous_lyapunov, (stable, q)),
        "discrete Lyapunov": (solve_discrete_lyapunov, (inside, q)),
        "continuous Riccati": (solve_continuous_are, (a, b, q, r)),
        "discrete Riccati": (solve_discrete_are, (a, b, q, r)),
    }
    return {
        name: (
            lambda *z, ours=ours: ours(*z).solution,
            getattr(scipy.linalg, ours.__name__),
            arrays,
        )
        for name, (ours, arrays) in pairs.items()
    }


def run(methods: dict[str, Callable], args, settings: Settings, rounds: int = 40):
    jobs = {name: (method, args) for name, method in methods.items()}
    compiled = compile_interleaved(
        jobs, rounds=settings.num_rounds(2), warmup=settings.choose(1, 0)
    )
    made = {name: runs[-1] for name, runs in compiled.items()}
    thunks = {name: functools.partial(made[name].call, *args) for name in methods}
    if not rounds:
        return made, {}
    timed = time_interleaved(thunks, rounds=settings.num_rounds(rounds), budget=30)
    return made, timed


def shifted(rng: np.random.Generator, n: int, margin: float) -> np.ndarray:
    a = rng.standard_normal((n, n)) / n**0.5
    values = np.linalg.eigvals(a)
    return a + (margin * np.abs(values).max() - values.real.min()) * np.eye(n)


def norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum((-2, -1)))


if __name__ == "__main__":
    main()

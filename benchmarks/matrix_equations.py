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

from ._compare import timing_table, worst_ratio
from ._harness import Findings, run_script, Settings
from ._report import Figure, Table


QUESTION = """How fast and how accurate are matrix equations in float32, beside
jax.scipy.linalg.solve_sylvester (on CPU only) and SciPy's solvers, given float32 too? The
residual is what the equation leaves, computed in float64, relative to the norms of its
terms."""

OURS, SCHUR, EIGEN, SCIPY = "jaxla", "jax.scipy, schur", "jax.scipy, eigen", "SciPy"
# The least real part of an eigenvalue, relative to the radius of the spectrum.
SPECTRA = {"apart": 0.5, "close to the axis": 1e-2}
NOTE = """The matrices are normal random ones with a multiple of the identity added, so
that the least real part of an eigenvalue is 0.5, or 0.01, times their spectral radius
before."""


def main(arguments=None):
    return run_script("matrix_equations", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    cells = settings.choose([(1, 64), (1, 128), (1, 256), (100, 16)], [(1, 8)])
    inputs = {
        f"{b} x {n}, spectra {spectrum}": _sylvester(b, n, margin)
        for spectrum, margin in SPECTRA.items()
        for b, n in cells
    }
    times, ratios = timing_table(
        "Time of the Sylvester equation, A X + X B = C", inputs, METHODS, SCHUR, settings,
        note=NOTE,
    )  # fmt: skip
    largest = f"1 x {settings.choose(256, 8)}, spectra apart"
    residual = _residual(METHODS[OURS], inputs[largest])
    ours = worst_ratio(ratios, OURS, [largest])
    figures = [
        Figure(f"time of solve_sylvester / schur, {largest}", 0.25, ours),
        Figure(f"residual of solve_sylvester, {largest}", 1e-6, residual),
    ]
    return Findings([times, _residuals(inputs), *_others(settings)], figures)


def _jax_sylvester(method: str) -> Callable:
    return jax.vmap(functools.partial(jax.scipy.linalg.solve_sylvester, method=method))


METHODS = {
    OURS: lambda a, b, c: solve_sylvester(a, b, c).solution,
    SCHUR: _jax_sylvester("schur"),
    EIGEN: _jax_sylvester("eigen"),
}


def _sylvester(batch: int, n: int, margin: float) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(n)
    a, b = (np.stack([_shifted(rng, n, margin) for _ in range(batch)]) for _ in "ab")
    c = rng.standard_normal((batch, n, n))
    return tuple(jnp.asarray(x, jnp.float32) for x in (a, b, c))


def _residuals(inputs: dict[str, tuple]) -> Table:
    rows = [
        (label, *(_residual(method, args) for method in METHODS.values()))
        for label, args in inputs.items()
    ]
    note = "The largest of a batch."
    return Table("Residuals of the Sylvester equation", ("input", *METHODS), rows, note)


def _residual(method: Callable, args: tuple) -> float:
    a, b, c, x = (np.asarray(z, "float64") for z in (*args, jax.jit(method)(*args)))
    rest = _norm(a @ x + x @ b - c) / (_norm(c) + (_norm(a) + _norm(b)) * _norm(x))
    return float(rest.max())


def _others(settings: Settings) -> list[Table]:
    """The other equations, beside SciPy's solvers on the host."""
    sizes, tables, rows = settings.choose((32, 128), (6,)), [], []
    for solver in (
        solve_continuous_lyapunov,
        solve_discrete_lyapunov,
        solve_continuous_are,
        solve_discrete_are,
    ):
        name = solver.__name__
        ours = lambda *args, solver=solver: solver(*args).solution
        theirs = getattr(scipy.linalg, name)
        inputs = {f"n = {n}": _equation(name, n) for n in sizes}
        table, _ = timing_table(
            f"Time of {name}", inputs, {OURS: ours}, SCIPY, settings, host={SCIPY: theirs}
        )
        tables.append(table)
        for label, args in inputs.items():
            exact = theirs(*(np.asarray(x, "float64") for x in args))
            found = jax.jit(ours)(*args), theirs(*map(np.asarray, args))
            errors = (
                _norm(np.asarray(x, "float64") - exact) / _norm(exact) for x in found
            )
            rows.append((name, label, *map(float, errors)))
    note = (
        "Relative to SciPy's solution of the same matrices in float64. Zero where SciPy "
        "computes in float64 whatever it is given."
    )
    columns = ("equation", "input", OURS, SCIPY)
    return [*tables, Table("Error of the other equations", columns, rows, note)]


def _equation(name: str, n: int) -> tuple[jax.Array, ...]:
    """The matrices of an equation, in float32."""
    rng = np.random.default_rng(n)
    stable, inside = -_shifted(rng, n, 0.5), rng.standard_normal((n, n))
    inside *= 0.9 / np.abs(np.linalg.eigvals(inside)).max()
    q = rng.standard_normal((n, n)) / n**0.5
    q, b = q @ q.T, rng.standard_normal((n, n // 4 + 1))
    regulated = (rng.standard_normal((n, n)) / n**0.5, b, q, np.eye(n // 4 + 1))
    arrays = {
        "solve_continuous_lyapunov": (stable, q),
        "solve_discrete_lyapunov": (inside, q),
    }.get(name, regulated)
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def _shifted(rng: np.random.Generator, n: int, margin: float) -> np.ndarray:
    a = rng.standard_normal((n, n)) / n**0.5
    values = np.linalg.eigvals(a)
    return a + (margin * np.abs(values).max() - values.real.min()) * np.eye(n)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum((-2, -1)))


if __name__ == "__main__":
    main()

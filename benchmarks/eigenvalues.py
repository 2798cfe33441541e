"""Eigenvalues of symmetric and tridiagonal matrices: time, error, and derivatives."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxla.factor import eigvals_tridiagonal, eigvalsh

from ._compare import timing_table, worst_ratio
from ._harness import Findings, run_script, Settings
from ._report import Figure, Table


QUESTION = """How fast are eigenvalues without eigenvectors, of symmetric and of
tridiagonal float32 matrices with normal entries, how accurate are they, and are their
derivatives right? Errors are against NumPy in float64."""

SINGLE = [(1, n) for n in (64, 128, 256, 512, 1024)]
MANY = [(1000, 16), (200, 32), (64, 64)]
OURS, THEIRS = "jaxla eigvalsh", "jnp.linalg.eigvalsh"
DENSE = {OURS: eigvalsh, THEIRS: jnp.linalg.eigvalsh, "jnp.linalg.eigh": jnp.linalg.eigh}


def their_tridiagonal(d, e):
    fn = functools.partial(jax.scipy.linalg.eigh_tridiagonal, eigvals_only=True)
    return jnp.vectorize(fn, signature="(n),(m)->(n)")(d, e)


THEIR_TRIDIAGONAL = "jax.scipy.linalg.eigh_tridiagonal"
TRIDIAGONAL = {
    "jaxla eigvals_tridiagonal": eigvals_tridiagonal,
    THEIR_TRIDIAGONAL: their_tridiagonal,
}


def main(arguments=None):
    return run_script("eigenvalues", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    single, many = settings.choose((SINGLE, MANY), ([(2, 40)], []))
    dense = {_label(*case): _matrices(*case) for case in [*single, *many]}
    bands = {_label(*case): _bands(*case) for case in single}
    times, ratios = timing_table(
        "Time of the eigenvalues of symmetric matrices", dense, DENSE, THEIRS, settings
    )
    times_of_bands, _ = timing_table(
        "Time of the eigenvalues of tridiagonal matrices", bands, TRIDIAGONAL,
        THEIR_TRIDIAGONAL, settings,
    )  # fmt: skip
    slopes, worst = _derivatives(settings)
    large = [_label(b, n) for b, n in single if n >= settings.choose(128, 1)]
    figures = [
        Figure(
            f"time of {OURS} / {THEIRS}, {label}", 0.5, worst_ratio(ratios, OURS, [label])
        )
        for label in large
    ]
    figures.append(
        Figure("relative error of the tridiagonal derivative, float64", 1e-6, worst)
    )
    tables = [
        times,
        _errors("Error, symmetric matrices", dense, DENSE),
        times_of_bands,
        _errors("Error, tridiagonal matrices", bands, TRIDIAGONAL),
        slopes,
    ]
    return Findings(tables, figures)


def _label(batch: int, n: int) -> str:
    return f"{batch:,} x {n}"


def _matrices(batch: int, n: int) -> tuple[np.ndarray]:
    g = np.random.default_rng(0).normal(size=(batch, n, n)).astype(np.float32)
    return ((g + g.mT) / 2,)


def _bands(batch: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(0).normal(size=(2, batch, n)).astype(np.float32)
    return g[0], g[1, :, 1:]


def _dense(args: Sequence[np.ndarray]) -> np.ndarray:
    """The matrices in float64."""
    if len(args) == 1:
        return np.asarray(args[0], np.float64)
    d, e = (np.asarray(a, np.float64) for a in args)
    n, before = d.shape[-1], np.arange(d.shape[-1] - 1)
    out = np.zeros((*d.shape, n))
    out[..., np.arange(n), np.arange(n)] = d
    out[..., before, before + 1] = out[..., before + 1, before] = e
    return out


def _errors(title: str, inputs: dict, methods: dict[str, Callable]) -> Table:
    rows = []
    for label, args in inputs.items():
        desired = np.linalg.eigvalsh(_dense(args))
        row = [_error(jax.jit(method)(*args), desired) for method in methods.values()]
        rows.append((label, *row))
    note = "The largest error of an eigenvalue, relative to the norm of the matrix."
    return Table(f"{title}, float32", ("input", *methods), rows, note)


def _error(actual, desired: np.ndarray) -> float:
    values = actual[0] if isinstance(actual, tuple) else actual
    error = np.abs(np.asarray(values, np.float64) - desired).max(-1)
    return float((error / np.abs(desired).max(-1)).max())


def _derivatives(settings: Settings) -> tuple[Table, float]:
    """Directional derivatives of all eigenvalues, in float64."""
    rows, ours = [], []
    with jax.enable_x64(True):
        for n in settings.choose((6, 32, 128), (6,)):
            args = [a.astype(np.float64)[0] for a in _bands(1, n)]
            tangents = [np.random.default_rng(1).normal(size=a.shape) for a in args]
            _, v = np.linalg.eigh(_dense(args))
            desired = np.einsum("ji,jk,ki->i", v, _dense(tangents), v)
            for name, fn in TRIDIAGONAL.items():
                actual = jax.jvp(fn, tuple(args), tuple(tangents))[1]
                error = np.linalg.norm(actual - desired) / np.linalg.norm(desired)
                rows.append((n, name, float(error)))
                if name.startswith("jaxla"):
                    ours.append(float(error))
    note = (
        "Forward mode, against the formula with NumPy's eigenvectors. JAX's function "
        "refuses reverse mode, and says nothing in forward mode."
    )
    columns = ("n", "method", "relative error of the derivative")
    return Table("Derivatives of tridiagonal eigenvalues", columns, rows, note), max(ours)


if __name__ == "__main__":
    main()

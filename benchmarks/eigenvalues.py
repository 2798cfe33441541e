"""Eigenvalues of symmetric and tridiagonal matrices: time, error, and derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxla.factor import eigvals_tridiagonal, eigvalsh

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table
from ._timing import compile_interleaved, ratio, summary, time_interleaved


QUESTION = """How fast are eigenvalues without eigenvectors, of symmetric and of
tridiagonal float32 matrices with normal entries, how accurate are they, and are their
derivatives right? Errors are against NumPy in float64."""

DENSE = {
    "jaxla eigvalsh": eigvalsh,
    "jnp.linalg.eigvalsh": jnp.linalg.eigvalsh,
    "jnp.linalg.eigh": jnp.linalg.eigh,
}


def their_tridiagonal(d, e):
    fn = functools.partial(jax.scipy.linalg.eigh_tridiagonal, eigvals_only=True)
    return jnp.vectorize(fn, signature="(n),(m)->(n)")(d, e)


TRIDIAGONAL = {
    "jaxla eigvals_tridiagonal": eigvals_tridiagonal,
    "jax.scipy.linalg.eigh_tridiagonal": their_tridiagonal,
}


def main(arguments=None):
    return run_script("eigenvalues", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    cells = settings.choose(
        (
            (64, 1),
            (128, 1),
            (256, 1),
            (512, 1),
            (1024, 1),
            (16, 1000),
            (32, 200),
            (64, 64),
        ),
        ((40, 2),),
    )
    dense, ratios = _timings(
        "Symmetric matrices", DENSE, "jnp.linalg.eigvalsh", cells, settings
    )
    diagonal, _ = _timings(
        "Tridiagonal matrices",
        TRIDIAGONAL,
        "jax.scipy.linalg.eigh_tridiagonal",
        [c for c in cells if c[1] == 1] or cells,
        settings,
    )
    slopes, worst = _derivatives(settings)
    figures = [
        Figure(
            "time of eigvalsh / jnp.linalg.eigvalsh, the largest of n = 128 to 1024",
            0.5,
            max(r for (n, _), r in ratios.items() if n >= 128 or settings.smoke),
        ),
        Figure("relative error of the tridiagonal derivative, float64", 1e-6, worst),
    ]
    return Findings([dense, diagonal, slopes], figures)


def _timings(title, methods, base, cells, settings):
    rows, ratios = [], {}
    for n, batch in cells:
        args = _matrices(n, batch) if methods is DENSE else _bands(n, batch)
        jobs = {name: (fn, args) for name, fn in methods.items()}
        made = compile_interleaved(jobs, rounds=1, warmup=0)
        thunks = {k: functools.partial(v[-1].call, *args) for k, v in made.items()}
        rounds = settings.num_rounds(25, 2)
        taken = time_interleaved(thunks, rounds=rounds, budget=10)
        for name, samples in taken.items():
            wall, value = summary(1e3 * samples.wall), thunks[name]()
            share = ratio(samples.wall, taken[base].wall)
            if name.startswith("jaxla"):
                ratios[n, batch] = share
            rows.append((
                n, batch, name, wall["median"], wall["q1"], wall["q3"],
                1e3 * float(np.median(samples.cpu)), share,
                ratio(samples.cpu, taken[base].cpu),
                _error(value[0] if isinstance(value, tuple) else value, args),
                made[name][-1].seconds, wall["samples"],
            ))  # fmt: skip
        say(f"{title}, {batch} of {n} x {n}: timed")
    columns = (
        "n", "batch", "method", "median ms", "quartile 1", "quartile 3", "CPU ms",
        f"time / {base}", "CPU / the same", "error / norm", "compile s", "samples",
    )  # fmt: skip
    note = "Ratios are the medians of the ratios within each round."
    return Table(title, columns, rows, note), ratios


def _matrices(n: int, batch: int) -> tuple[np.ndarray]:
    g = np.random.default_rng(0).normal(size=(batch, n, n)).astype(np.float32)
    return ((g + g.mT) / 2,)


def _bands(n: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(0).normal(size=(2, batch, n)).astype(np.float32)
    return g[0], g[1, :, 1:]


def _dense(args) -> np.ndarray:
    """The matrices in float64."""
    if len(args) == 1:
        return np.asarray(args[0], np.float64)
    d, e = (np.asarray(a, np.float64) for a in args)
    n, before = d.shape[-1], np.arange(d.shape[-1] - 1)
    out = np.zeros((*d.shape, n))
    out[..., np.arange(n), np.arange(n)] = d
    out[..., before, before + 1] = out[..., before + 1, before] = e
    return out


def _error(values, args) -> float:
    """The largest error, relative to the norm of the matrix."""
    desired = np.linalg.eigvalsh(_dense(args))
    error = np.abs(np.asarray(values, np.float64) - desired).max(-1)
    return float((error / np.abs(desired).max(-1)).max())


def _derivatives(settings: Settings) -> tuple[Table, float]:
    """Directional derivatives of all eigenvalues, in float64."""
    rows, ours = [], []
    with jax.enable_x64(True):
        for n in settings.choose((6, 32, 128), (6,)):
            args = [a.astype(np.float64)[0] for a in _bands(n, 1)]
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

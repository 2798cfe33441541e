"""Inverse p-th roots of batches of matrices: time, and the error that it buys."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxla.matfun import (
    _minimax,
    eigenvalue_bound,
    inverse_pth_root,
    num_products,
    psd_power,
)

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table
from ._timing import compile_interleaved, ratio, summary, time_interleaved


QUESTION = """How fast are inverse p-th roots of symmetric positive definite float32
matrices, and how accurate? Every method damps by 1e-6 relative to its own estimate of
the largest eigenvalue, and is compared with the exact root, in float64, of the matrix
with that damping."""

DAMPING = 1e-6
NEWTON_STEPS = 20
# The largest n^3 * batch to time: a call of the slowest method then takes seconds.
LARGEST = 8 * 512**3

Method = Callable[[jax.Array], jax.Array]


def main(arguments=None):
    return run_script("roots", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    error_table, reached = accuracy(settings)
    tables = [*timings(settings), error_table, orders(settings), cushions(settings)]
    figure = Figure(
        "relative error of inverse_pth_root, p = 4, condition 1e6", 2e-3, reached
    )
    return Findings(tables, [figure])


def methods(p: int) -> dict[str, Method]:
    """The competitors."""
    return {
        "jaxla inverse_pth_root": lambda a: inverse_pth_root(a, p, damping=DAMPING).root,
        "jaxla psd_power": lambda a: psd_power(a, -1 / p, damping=DAMPING),
        "jnp.linalg.eigh": lambda a: eigh_root(a, p),
        f"coupled Newton, {NEWTON_STEPS} steps": lambda a: newton_root(a, p),
        "optax.matrix_inverse_pth_root": lambda a: optax_root(a, p),
    }


def eigh_root(a: jax.Array, p: int) -> jax.Array:
    """The root as most people write it."""
    values, vectors = jnp.linalg.eigh(a)
    values = jnp.maximum(values, 0)
    values = values + DAMPING * values.max(-1, keepdims=True)
    return (vectors * (values ** (-1 / p))[..., None, :]) @ vectors.mT


def newton_root(a: jax.Array, p: int) -> jax.Array:
    """Newton's coupled iteration, scaled by the Frobenius norm.

    This is what Shampoo in google-research's repository iterates, here with a fixed
    number of steps. Damped as `inverse_pth_root` is.
    """
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    a = a + DAMPING * eigenvalue_bound(a)[..., None, None] * eye
    z = (1 + p) / (2 * jnp.linalg.norm(a, axis=(-2, -1), keepdims=True))
    multiply = lambda x, y: jnp.matmul(x, y, precision="highest")

    def step(carry, _):
        x, m = carry
        t = ((p + 1) * eye - m) / p
        x = multiply(x, t)
        for _ in range(p):
            m = multiply(t, m)
        return (x, m), None

    start = (jnp.broadcast_to(eye, a.shape) * z ** (1 / p), a * z)
    return jax.lax.scan(step, start, length=NEWTON_STEPS)[0][0]


def optax_root(a: jax.Array, p: int) -> jax.Array:
    def root(matrix):
        return optax.matrix_inverse_pth_root(matrix, p, ridge_epsilon=DAMPING)[0]

    return jax.vmap(root)(a)


def timings(settings: Settings) -> list[Table]:
    """Time of every size and batch, relative to the eigendecomposition."""
    sizes = settings.choose((32, 64, 128, 256, 512), (8,))
    batches = settings.choose((1, 8, 64), (2,))
    cells = [(n, b) for n in sizes for b in batches if n**3 * b <= LARGEST]
    return [_timing_table(p, cells, settings) for p in settings.choose((4, 2), (4,))]


def _timing_table(p: int, cells: list[tuple[int, int]], settings: Settings) -> Table:
    rows = []
    for n, batch in cells:
        a = jnp.asarray(matrices(n, 1e4, batch), jnp.float32)
        jobs = {name: (fn, (a,)) for name, fn in methods(p).items()}
        made = compile_interleaved(jobs, rounds=1, warmup=0)
        thunks = {
            name: functools.partial(all_[-1].call, a) for name, all_ in made.items()
        }
        rounds = settings.num_rounds(25, 2)
        taken = time_interleaved(thunks, rounds=rounds, budget=6)
        base = taken["jnp.linalg.eigh"]
        for name, samples in taken.items():
            wall, best = summary(1e3 * samples.wall), made[name][-1]
            rows.append((
                n, batch, name, wall["median"], wall["q1"], wall["q3"],
                1e3 * float(np.median(samples.cpu)),
                ratio(samples.wall, base.wall),
                float(np.median([c.seconds for c in made[name]])),
                best.instructions, best.peak_bytes / 2**20, wall["samples"],
            ))  # fmt: skip
        say(f"p = {p}, {batch} of {n} x {n}: timed")
    columns = (
        "n", "batch", "method", "median ms", "quartile 1", "quartile 3", "CPU ms",
        "time / eigh", "compile s", "HLO instructions", "peak MiB", "samples",
    )  # fmt: skip
    note = (
        "The ratio is the median of the ratios within each round. CPU ms count all "
        "threads. LAPACK is compiled already, so that `eigh` has little to compile."
    )
    return Table(f"Time of the inverse root, p = {p}", columns, rows, note)


def accuracy(settings: Settings) -> tuple[Table, float]:
    """Error of every method, at three condition numbers and two orders."""
    n, batch = settings.choose((128, 4), (8, 2))
    conditions = (1e2, 1e4, 1e6)
    rows, ours = [], float("nan")
    for p in (4, 2):
        for name, fn in methods(p).items():
            errors = [error(name, fn, p, matrices(n, c, batch)) for c in conditions]
            rows.append((p, name, *errors))
            if p == 4 and name == "jaxla inverse_pth_root":
                ours = errors[-1]
    columns = ("p", "method", *(f"condition {c:.0e}" for c in conditions))
    title = f"Relative error in the Frobenius norm, n = {n}"
    note = f"The largest of {batch} matrices with geometric spectra."
    return Table(title, columns, rows, note), ours


def orders(settings: Settings) -> Table:
    """Error for every p."""
    n, batch = settings.choose((128, 4), (8, 2))
    rows = []
    for p in settings.choose(range(1, 9), (1, 3)):
        a = matrices(n, 1e6, batch)
        errors = [error(name, fn, p, a) for name, fn in methods(p).items()]
        rows.append((p, num_products(p), *errors))
    columns = ("p", "products of inverse_pth_root", *methods(1))
    return Table(f"Relative error at condition 1e6, n = {n}, by p", columns, rows)


def cushions(settings: Settings) -> Table:
    """What the cushion of the minimax polynomials costs and buys."""
    n, batch = settings.choose((128, 4), (8, 2))
    rows = []
    for p in settings.choose((1, 2, 4, 8), (4,)):
        for value in (0.003, 0.03, 0.3):
            with cushion(value):
                fn = methods(p)["jaxla inverse_pth_root"]
                errors = [
                    error("jaxla inverse_pth_root", fn, p, matrices(n, c, batch))
                    for c in (1e1, 1e2, 1e4, 1e6)
                ]
                rows.append((p, value, num_products(p), *errors))
    columns = (
        "p", "cushion", "products", "condition 1e1", "condition 1e2", "condition 1e4",
        "condition 1e6",
    )  # fmt: skip
    note = "Each stage's polynomial is made for an interval at most 1/cushion long."
    return Table(f"Relative error by cushion, n = {n}", columns, rows, note)


@contextlib.contextmanager
def cushion(value: float) -> Iterator[None]:
    """Inside, coefficients are made with another cushion."""
    usual = _minimax.CUSHION
    _minimax.CUSHION = value
    _minimax.inverse_root_stages.cache_clear()
    try:
        yield
    finally:
        _minimax.CUSHION = usual
        _minimax.inverse_root_stages.cache_clear()


def matrices(n: int, condition: float, batch: int) -> np.ndarray:
    """Matrices with eigenvalues in geometric progression, in float64."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(batch, n, n)))
    return (q * np.geomspace(1, 1 / condition, n)) @ np.swapaxes(q, -1, -2)


def error(name: str, fn: Method, p: int, a: np.ndarray) -> float:
    """The largest relative error of a method over a batch of matrices."""
    single = np.asarray(a, np.float32)
    # A fresh function: the coefficients may have changed since the last trace.
    actual = np.asarray(jax.jit(lambda x: fn(x))(single), np.float64)
    by_bound = name.startswith(("jaxla", "coupled"))
    expected = exact_root(np.asarray(single, np.float64), p, by_bound=by_bound)
    norm = lambda x: np.linalg.norm(x, axis=(-2, -1))
    return float((norm(actual - expected) / norm(expected)).max())


def exact_root(a: np.ndarray, p: int, by_bound: bool) -> np.ndarray:
    """The root in float64 of what a method damps, as that method damps it."""
    values, vectors = np.linalg.eigh((a + np.swapaxes(a, -1, -2)) / 2)
    values = np.maximum(values, 0)
    # `eigenvalue_bound`, or the largest eigenvalue itself.
    scale = (values**8).sum(-1) ** (1 / 8) if by_bound else values.max(-1)
    powers = (values + DAMPING * scale[..., None]) ** (-1 / p)
    return (vectors * powers[..., None, :]) @ np.swapaxes(vectors, -1, -2)


if __name__ == "__main__":
    main()

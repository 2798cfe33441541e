"""Inverse p-th roots of batches of matrices: time, and the error that it buys."""

import contextlib
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

from ._compare import timing_table
from ._harness import Findings, run_script, Settings
from ._report import Figure, Table


QUESTION = """How fast are inverse p-th roots of symmetric positive definite float32
matrices, and how accurate? Every method damps by 1e-6 relative to its own estimate of
the largest eigenvalue, and is compared with the exact root, in float64, of the matrix
with that damping."""

DAMPING = 1e-6
NEWTON_STEPS = 20
LARGEST = 512**3  # the largest batch * n^3 to time
PRODUCTS, BY_EIGH, AUTO = (f"jaxla, {m}" for m in ("minimax", "eigh", "auto"))
THEIRS = "jnp.linalg.eigh"
NOTE = """The first three are methods of inverse_pth_root, which also returns a residual,
at the cost of some products; of the others only optax's does. LAPACK is compiled already,
so that eigh has little to compile."""

Method = Callable[[jax.Array], jax.Array]


def main(arguments=None):
    return run_script("roots", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    times, figures = timings(settings)
    errors, more = accuracy(settings)
    tables = [*times, errors, orders(settings), cushions(settings)]
    return Findings(tables, [*more, *figures])


def methods(p: int) -> dict[str, Method]:
    """The competitors."""

    def ours(method):
        return lambda a: inverse_pth_root(a, p, method=method, damping=DAMPING).root

    return {
        PRODUCTS: ours("minimax"),
        BY_EIGH: ours("eigh"),
        AUTO: ours("auto"),
        "jaxla psd_power": lambda a: psd_power(a, -1 / p, damping=DAMPING),
        THEIRS: lambda a: eigh_root(a, p),
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


def timings(settings: Settings) -> tuple[list[Table], list[Figure]]:
    """Time of every size and batch, and of "auto" beside the fastest."""
    sizes = settings.choose((8, 16, 32, 48, 64, 128, 256, 512), (8,))
    batches = settings.choose((1, 8, 64, 1000), (2,))
    inputs = {
        f"{b} x {n} x {n}": (jnp.asarray(matrices(n, 1e4, b), jnp.float32),)
        for n in sizes
        for b in batches
        if b * n**3 <= LARGEST
    }
    tables, among_ours, among_all = [], [], []
    for p in settings.choose((4, 2), (4,)):
        table, ratios = timing_table(
            f"Time of the inverse root, p = {p}", inputs, methods(p), THEIRS, settings,
            rounds=60, budget=2, note=NOTE,
        )  # fmt: skip
        tables.append(table)
        for label in inputs:
            times = {name: ratios[label, name] for name in methods(p)}
            among_ours.append(times[AUTO] / min(times[PRODUCTS], times[BY_EIGH]))
            among_all.append(times[AUTO] / min(times.values()))
    title = "largest time of auto / of the fastest"
    figures = [
        Figure(f"{title} of minimax and eigh", 1.1, max(among_ours)),
        Figure(f"{title} of all, also those without a residual", 1.1, max(among_all)),
    ]
    return tables, figures


def accuracy(settings: Settings) -> tuple[Table, list[Figure]]:
    """Error of every method, at three condition numbers and two orders."""
    n, batch = settings.choose((128, 4), (8, 2))
    conditions = (1e2, 1e4, 1e6)
    rows, errors = [], {}
    for p in (4, 2):
        for name, fn in methods(p).items():
            found = [error(name, fn, p, matrices(n, c, batch)) for c in conditions]
            rows.append((p, name, *found))
            errors[p, name] = dict(zip(conditions, found, strict=True))
    columns = ("p", "method", *(f"condition {c:.0e}" for c in conditions))
    title = f"Relative error in the Frobenius norm, n = {n}"
    note = f"The largest of {batch} matrices with geometric spectra."
    ours, theirs = errors[4, PRODUCTS], errors[4, THEIRS]
    products = [num_products(4, method=method) for method in ("minimax", "newton")]
    what = "relative error of inverse_pth_root, p = 4, condition"
    figures = [
        Figure(f"{what} 1e6", 2e-3, ours[1e6]),
        Figure(f"{what} 1e4, / of eigh", 1 / 5, ours[1e4] / theirs[1e4]),
        Figure(f"{what} 1e6, / of eigh", 1 / 5, ours[1e6] / theirs[1e6]),
        Figure("products, p = 4 / of coupled Newton", 1 / 2, products[0] / products[1]),
    ]
    return Table(title, columns, rows, note), figures


def orders(settings: Settings) -> Table:
    """Error for every p."""
    n, batch = settings.choose((128, 4), (8, 2))
    rows = []
    for p in settings.choose(range(1, 9), (1, 3)):
        a = matrices(n, 1e6, batch)
        errors = [error(name, fn, p, a) for name, fn in methods(p).items()]
        rows.append((p, num_products(p), *errors))
    columns = ("p", "products of minimax", *methods(1))
    return Table(f"Relative error at condition 1e6, n = {n}, by p", columns, rows)


def cushions(settings: Settings) -> Table:
    """What the cushion of the minimax polynomials costs and buys."""
    n, batch = settings.choose((128, 4), (8, 2))
    rows = []
    for p in settings.choose((1, 2, 4, 8), (4,)):
        for value in (0.003, 0.03, 0.3):
            with cushion(value):
                fn = methods(p)[PRODUCTS]
                errors = [
                    error(PRODUCTS, fn, p, matrices(n, c, batch))
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

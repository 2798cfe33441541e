"""Polar factors: time and error beside SVD and QDWH, and gradients at hard points."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from jaxla.matfun import orthogonalize, polar

from ._compare import timing_table, worst_ratio
from ._harness import Findings, run_script, Settings
from ._report import Figure, Table


QUESTION = """How fast and how accurate is the polar factor of float32 matrices, and
is its gradient finite where that of others is not?"""

OURS, SVD, QDWH = "jaxla polar", "SVD", "jax.scipy.linalg.polar (QDWH)"
METHODS = {
    OURS: lambda a: polar(a).unitary,
    "jaxla orthogonalize": orthogonalize,
    SVD: lambda a: _svd_factor(a),
    QDWH: lambda a: _qdwh_factor(a),
}


def main(arguments=None):
    return run_script("polar", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    shapes = settings.choose(
        ((1, 512, 256), (1, 128, 128), (64, 64, 64), (256, 32, 16), (1, 1024, 256)),
        ((2, 8, 4),),
    )
    inputs = {}
    for batch, m, n in shapes:
        a = np.random.default_rng(0).standard_normal((batch, m, n))
        inputs[f"{batch} x {m} x {n}"] = (jnp.asarray(a, jnp.float32),)
    if not settings.smoke:
        inputs["1 x 256 x 256, condition 1e5"] = (
            jnp.asarray(with_condition(256, 1e5)[None], jnp.float32),
        )
    times, ratios = timing_table(
        "Time of the polar factor, normal entries", inputs, METHODS, SVD, settings
    )
    main_input = settings.choose(("1 x 512 x 256",), ())
    ours = worst_ratio(ratios, OURS, main_input)
    gradients, finite = _gradients()
    figures = [
        Figure("time of polar / SVD, 512 x 256", 1 / 1.5, ours),
        Figure(
            "time of polar / QDWH, 512 x 256",
            1 / 2,
            ours / worst_ratio(ratios, QDWH, main_input),
        ),
        Figure("gradients of polar that are not right", 0.0, float(not finite)),
    ]
    return Findings([times, _errors(), gradients], figures)


def _errors() -> Table:
    conditions, rows = (1e0, 1e1, 1e3, 1e5), []
    for name, method in METHODS.items():
        for what in ("error of U", "departure from orthogonality"):
            cells = []
            for condition in conditions:
                a = np.asarray(with_condition(64, condition), np.float32)
                u, _, vt = np.linalg.svd(a.astype(np.float64))
                actual = np.asarray(jax.jit(method)(a), np.float64)
                gap = actual - u @ vt if what == "error of U" else _gram_gap(actual)
                cells.append(float(np.linalg.norm(gap) / np.sqrt(64)))
            rows.append((name, what, *cells))
    columns = ("method", "what", *(f"condition {c:.0e}" for c in conditions))
    note = "n = 64, geometric singular values; Frobenius norms over the root of n."
    return Table("Error, float32", columns, rows, note)


def _gradients() -> tuple[Table, bool]:
    """Of the sum of W * U, against differences of an SVD in float64."""
    rng = np.random.default_rng(0)
    weights, direction = rng.standard_normal((2, 4, 4))
    orthogonal = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    points = {
        "generic": rng.standard_normal((4, 4)),
        "orthogonal": orthogonal,
        "repeated singular values": orthogonal @ np.diag([1.0, 1, 2, 3]),
    }
    rows, good = [], True
    for label, point in points.items():
        ahead, behind = (_numpy_factor(point + h * direction) for h in (1e-6, -1e-6))
        desired = (weights * (ahead - behind)).sum() / 2e-6
        cells = [
            _gradient_along(method, point, direction, weights)
            for method in METHODS.values()
        ]
        good &= abs(cells[0] - desired) < 1e-4 * abs(desired)
        rows.append((label, float(desired), *cells))
    columns = ("point", "truth", *METHODS)
    note = "None: reverse-mode differentiation raises."
    return Table("Gradient along a direction, float32", columns, rows, note), good


def _gradient_along(method, point, direction, weights) -> float | None:
    loss = lambda a: jnp.sum(method(a) * jnp.asarray(weights, a.dtype))
    try:
        gradient = jax.grad(loss)(jnp.asarray(point, jnp.float32))
    except (NotImplementedError, ValueError):
        return None
    return float((np.asarray(gradient, np.float64) * direction).sum())


def _numpy_factor(a: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(a, full_matrices=False)
    return u @ vt


def _svd_factor(a: jax.Array) -> jax.Array:
    u, _, vt = jnp.linalg.svd(a, full_matrices=False)
    return u @ vt


def _qdwh_factor(a: jax.Array) -> jax.Array:
    factor = lambda x: jsl.polar(x, method="qdwh")[0]
    return factor(a) if a.ndim == 2 else jax.vmap(factor)(a)


def _gram_gap(u: np.ndarray) -> np.ndarray:
    return u.T @ u - np.eye(u.shape[-1])


def with_condition(n: int, condition: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return (u * np.geomspace(1, 1 / condition, n)) @ v


if __name__ == "__main__":
    main()

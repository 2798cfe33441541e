"""Square roots of positive definite matrices: time, error, and the paper's methods."""

import functools

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from jaxla.matfun import _taylor_pade, pade_sqrtm, sqrtm, taylor_sqrtm

from ._compare import timing_table, worst_ratio
from ._harness import Findings, run_script, Settings
from ._report import Figure, Table


QUESTION = """How fast and how accurate are square roots of symmetric positive definite
matrices, and what do the Taylor (MTP) and Padé (MPA) forms of Song, Sebe and Wang (Fast
Differentiable Matrix Square Root, 2022) reach, forward and backward? The paper reports,
on GPU, that both are faster than SVD and Newton-Schulz at equal accuracy of
the networks trained with them."""

NEWTON_SCHULZ_STEPS = 5  # as in global covariance pooling (iSQRT-COV)


def main(arguments=None):
    return run_script("square_roots", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    forward, ratios = timing_table(
        "Forward, float32",
        {label: (a,) for label, a in inputs(settings).items()},
        {
            "jaxla sqrtm": lambda a: sqrtm(a).root,
            "jaxla sqrtm, products": lambda a: sqrtm(a, method="minimax").root,
            "jaxla taylor_sqrtm": lambda a: taylor_sqrtm(a).root,
            "jaxla pade_sqrtm": lambda a: pade_sqrtm(a).root,
            "SVD": svd_root,
            f"Newton-Schulz, {NEWTON_SCHULZ_STEPS} steps": newton_schulz_root,
            "jax.scipy.linalg.sqrtm": their_root,
        },
        "jax.scipy.linalg.sqrtm",
        settings,
    )
    both = _both_ways(settings)
    largest = settings.choose(("1 x 256 x 256",), ())
    figures = [
        Figure(
            "time of sqrtm / jax.scipy.linalg.sqrtm, n = 256",
            0.1,
            worst_ratio(ratios, "jaxla sqrtm", largest),
        ),
        Figure("error of sqrtm, float32, condition 1e4", 1e-3, _error_in_float32()),
    ]
    return Findings([forward, both, _accuracy(), _backward_accuracy()], figures)


def inputs(settings: Settings) -> dict[str, jax.Array]:
    shapes = settings.choose(((256, 32), (64, 64), (8, 128), (1, 256)), ((2, 8),))
    return {
        f"{batch} x {n} x {n}": jnp.asarray(
            np.stack([matrix(n, 1e2, seed) for seed in range(batch)]), jnp.float32
        )
        for batch, n in shapes
    }


def _both_ways(settings: Settings) -> Table:
    def gradient(root):
        return jax.grad(lambda a: jnp.sum(root(a) ** 3))

    table, _ = timing_table(
        "Forward and backward, float32",
        {label: (a,) for label, a in inputs(settings).items()},
        {
            "jaxla sqrtm": gradient(lambda a: sqrtm(a).root),
            "jaxla sqrtm, products": gradient(lambda a: sqrtm(a, method="minimax").root),
            "jaxla taylor_sqrtm": gradient(lambda a: taylor_sqrtm(a).root),
            "jaxla pade_sqrtm": gradient(lambda a: pade_sqrtm(a).root),
            "SVD": gradient(svd_root),
            f"Newton-Schulz, {NEWTON_SCHULZ_STEPS} steps": gradient(newton_schulz_root),
        },
        "SVD",
        settings,
        note="jax.scipy.linalg.sqrtm has no derivative.",
    )
    return table


def _accuracy() -> Table:
    """Of the methods themselves, in float64."""
    methods = {
        "taylor_sqrtm, degree 10": lambda a: taylor_sqrtm(a).root,
        "pade_sqrtm, degree 5": lambda a: pade_sqrtm(a).root,
        "pade_sqrtm, degree 10": lambda a: pade_sqrtm(a, degree=10).root,
        "taylor_sqrtm, inverse": lambda a: taylor_sqrtm(a, inverse=True).root,
        "pade_sqrtm, inverse": lambda a: pade_sqrtm(a, inverse=True).root,
        f"Newton-Schulz, {NEWTON_SCHULZ_STEPS} steps": newton_schulz_root,
        "sqrtm, products": lambda a: sqrtm(a, method="minimax").root,
        "sqrtm": lambda a: sqrtm(a).root,
    }
    conditions = (1e1, 1e2, 1e3, 1e4)
    rows = []
    with jax.enable_x64(True):
        for name, method in methods.items():
            errors = []
            for condition in conditions:
                a = matrix(64, condition)
                power = -0.5 if "inverse" in name else 0.5
                errors.append(distance(jax.jit(method)(a), exact(a, power)))
            rows.append((name, *errors))
    columns = ("method", *(f"condition {c:.0e}" for c in conditions))
    note = "One matrix with a geometric spectrum, n = 64; relative Frobenius error."
    return Table("Error of the methods, float64", columns, rows, note)


def _backward_accuracy() -> Table:
    conditions, rows = (1e1, 1e2, 1e3, 1e4), []
    with jax.enable_x64(True):
        direction = np.random.default_rng(1).standard_normal((64, 64))
        direction = direction + direction.T

        def equation_alone(steps, a):
            root = jnp.asarray(exact(a, 0.5))
            return _taylor_pade.lyapunov_by_sign(root, jnp.asarray(direction), steps)

        def derivative(root, a):
            return jax.jvp(jax.jit(root), (a,), (direction,))[1]

        methods = {
            f"Newton-Schulz for the Lyapunov equation, {steps} steps": functools.partial(
                equation_alone, steps
            )
            for steps in (8, 12, 20)
        }
        for name, root in {
            "taylor_sqrtm": lambda a: taylor_sqrtm(a).root,
            "pade_sqrtm": lambda a: pade_sqrtm(a).root,
            "sqrtm, products": lambda a: sqrtm(a, method="minimax").root,
            "sqrtm": lambda a: sqrtm(a).root,
        }.items():
            methods[name] = functools.partial(derivative, root)
        for name, method in methods.items():
            matrices = [matrix(64, condition) for condition in conditions]
            truths = [exact_derivative(a, direction) for a in matrices]
            errors = [
                distance(method(a), truth)
                for a, truth in zip(matrices, truths, strict=True)
            ]
            rows.append((name, *errors))
    columns = ("method", *(f"condition {c:.0e}" for c in conditions))
    note = (
        "The first three are given the exact root; the paper runs 8 steps, normalized by "
        "the Frobenius norm, which at n = 64 is up to 8 times the largest eigenvalue."
    )
    return Table("Error of the derivatives, float64", columns, rows, note)


def _error_in_float32() -> float:
    a = matrix(64, 1e4)
    return distance(sqrtm(jnp.asarray(a, jnp.float32)).root, exact(a, 0.5))


def svd_root(a: jax.Array) -> jax.Array:
    """The root as people write it."""
    u, s, vt = jnp.linalg.svd(a)
    return (u * jnp.sqrt(s)[..., None, :]) @ vt


def newton_schulz_root(a: jax.Array) -> jax.Array:
    """Coupled Newton-Schulz, normalized by the trace, as in iSQRT-COV."""
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    trace = jnp.trace(a, axis1=-2, axis2=-1)[..., None, None]
    y, z = a / trace, jnp.broadcast_to(eye, a.shape)
    for _ in range(NEWTON_SCHULZ_STEPS):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return y * jnp.sqrt(trace)


def their_root(a: jax.Array) -> jax.Array:
    """It takes one matrix at a time, and returns complex numbers."""
    return jnp.real(jnp.vectorize(jsl.sqrtm, signature="(n,n)->(n,n)")(a))


def matrix(n: int, condition: float, seed: int = 0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    a = (q * np.geomspace(1 / condition, 1, n)) @ q.T
    return (a + a.T) / 2


def exact(a: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(a)
    return (vectors * values**power) @ vectors.T


def exact_derivative(a: np.ndarray, direction: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(a)
    kernel = 1 / (np.sqrt(values)[:, None] + np.sqrt(values))
    return vectors @ (kernel * (vectors.T @ direction @ vectors)) @ vectors.T


def distance(actual, desired) -> float:
    difference = np.asarray(actual, np.float64) - desired
    return float(np.linalg.norm(difference) / np.linalg.norm(desired))


if __name__ == "__main__":
    main()

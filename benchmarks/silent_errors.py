"""Where the standard route is silently wrong, and what comes here: derivatives mostly."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
import scipy.linalg

from jaxla.factor import eigvals_tridiagonal, eigvalsh
from jaxla.matfun import (
    inverse_pth_root,
    logm,
    polar,
    project_psd,
    prox_nuclear,
    psd_power,
    sqrtm,
    symmetric_function,
)
from jaxla.operators import Kronecker

from ._harness import Findings, run_script, say, Settings
from ._report import Cell, Figure, Table


QUESTION = """What do the functions of jax.numpy.linalg and jax.scipy.linalg return,
without an error, where their result or its derivative is wrong, and what do those of
jaxla?"""

# (f32, f64): how far a derivative may be off, relative to its norm.
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
DEGENERATE = {
    "distinct": (0.5, 0.8, 1.5, 2.0),
    "gap 1e-3": (1.0, 1.001, 2.0, 3.0),
    "gap 1e-5": (1.0, 1.00001, 2.0, 3.0),
    "gap 1e-7": (1.0, 1.0000001, 2.0, 3.0),
    "gap 1e-12": (1.0, 1.000000000001, 2.0, 3.0),
    "two equal": (1.0, 1.0, 2.0, 3.0),
    "identity": (1.0, 1.0, 1.0, 1.0),
    "times 2^25": tuple(2.0**25 * x for x in (0.5, 0.8, 1.5, 2.0)),
}
ILL_CONDITIONED = {
    "condition 1e2": tuple(np.geomspace(1e-2, 1, 4)),
    "condition 1e3": tuple(np.geomspace(1e-3, 1, 4)),
    "condition 1e3, smallest two equal": (1e-3, 1e-3, 0.1, 1.0),
    "condition 1e3, largest two equal": (1e-3, 0.1, 1.0, 1.0),
    "condition 1e4": tuple(np.geomspace(1e-4, 1, 4)),
}
SPECTRA = {"degenerate": DEGENERATE, "ill-conditioned": ILL_CONDITIONED}
BY = "jaxla", "jnp.linalg.eigh"


def main(arguments=None):
    return run_script("silent_errors", QUESTION, measure, arguments)


def measure(settings: Settings) -> Findings:
    tables, figures, number = [*_listed()], [], settings.choose(None, 1)
    for name, limit in list(TOLERANCE.items())[:number]:
        with jax.enable_x64(name == "float64"):
            (degenerate, worst), (ill, _) = (
                _derivatives(kind, dict(list(spectra.items())[:number]), np.dtype(name))
                for kind, spectra in SPECTRA.items()
            )
        tables += [degenerate, ill]
        what = f"largest error of a derivative of jaxla at condition 4 or less, {name}"
        figures.append(Figure(what, limit, worst))
        say(f"derivatives in {name}: done")
    return Findings(tables, figures)


class Case(NamedTuple):
    """A function of a symmetric matrix, both ways, and its divided differences."""

    ours: Callable
    theirs: Callable
    difference: Callable


def by_eigh(function: Callable) -> Callable:
    """A function of a symmetric matrix as people write it."""

    def fn(a):
        w, v = jnp.linalg.eigh(a)
        return (v * function(w)) @ v.T

    return fn


def _power_slope(e: float) -> Callable:
    def slope(x, y):
        z = (x - y) / y
        safe = np.where(z == 0, 1, z)
        ratio = np.where(z == 0, e, np.expm1(e * np.log1p(safe)) / safe)
        return y ** (e - 1) * ratio

    return slope


def _log_slope(x, y):
    z = (x - y) / y
    return np.where(z == 0, 1, np.log1p(z) / np.where(z == 0, 1, z)) / y


CASES = {
    "square root": Case(lambda a: sqrtm(a).root, by_eigh(jnp.sqrt), _power_slope(0.5)),
    "inverse fourth root, products": Case(
        lambda a: inverse_pth_root(a, 4, damping=0.0).root,
        by_eigh(lambda w: w**-0.25),
        _power_slope(-0.25),
    ),
    "inverse fourth root, eigh": Case(
        lambda a: inverse_pth_root(a, 4, method="eigh", damping=0.0).root,
        by_eigh(lambda w: w**-0.25),
        _power_slope(-0.25),
    ),
    "power -0.3": Case(
        lambda a: psd_power(a, -0.3), by_eigh(lambda w: w**-0.3), _power_slope(-0.3)
    ),
    "logarithm": Case(
        lambda a: symmetric_function(a, jnp.log), by_eigh(jnp.log), _log_slope
    ),
    "logarithm, general": Case(lambda a: logm(a).value, by_eigh(jnp.log), _log_slope),
    "projection of A to the cone": Case(
        project_psd,
        by_eigh(lambda w: jnp.maximum(w, 0)),
        lambda x, y: np.ones_like(x * y),
    ),
}


def _derivatives(kind: str, spectra: dict, dtype: np.dtype) -> tuple[Table, float]:
    """Error of the directional derivative at some spectra, and the largest of ours."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    direction = rng.standard_normal((4, 4))
    direction = direction + direction.T
    matrices = [(basis * np.array(spectrum)) @ basis.T for spectrum in spectra.values()]
    matrices = [np.asarray((a + a.T) / 2, dtype) for a in matrices]
    rows: list[tuple[Cell, ...]] = []
    for name, case in CASES.items():
        for by, fn in zip(BY, (case.ours, case.theirs), strict=True):
            errors = [_error(fn, case.difference, a, direction) for a in matrices]
            rows.append((name, by, *errors))
    largest = [np.max([row[2:] for row in rows if row[1] == by], 0) for by in BY]
    for by, errors in zip(BY, largest, strict=True):
        rows.append(("the largest of these", by, *map(float, errors)))
    note = "Relative to its norm, against divided differences in NumPy's float64."
    title = f"Error of derivatives at {kind} spectra, {dtype}"
    return Table(title, ("function", "by", *spectra), rows, note), float(largest[0].max())


def _error(fn: Callable, difference: Callable, a: np.ndarray, direction) -> float:
    truth = _derivative(a.astype("float64"), direction, difference)
    _, actual = jax.jvp(fn, (jnp.asarray(a),), (jnp.asarray(direction, a.dtype),))
    gap = np.asarray(actual, np.float64) - truth
    return float(np.linalg.norm(gap) / np.linalg.norm(truth))


def _derivative(a: np.ndarray, direction: np.ndarray, difference: Callable) -> np.ndarray:
    w, v = np.linalg.eigh(a)
    kernel = difference(w[:, None], w)
    return v @ (kernel * (v.T @ direction @ v)) @ v.T


def _listed() -> list[Table]:
    """One line for each result: the truth, JAX's, ours."""
    with jax.enable_x64(True):
        wrong = [
            _tridiagonal(),
            _spectral_function(),
            _jordan_block(),
            _rank_deficient_polar(),
            _identity_map(),
            _damped_kronecker(),
        ]
        right = [_large_eigenvalues()]
    columns = ("what", "truth", "jax", "jaxla", "called")
    note = (
        "Each number stands for an array: a sum, or a part of it. The derivative of a QR "
        "factorization of a rank-deficient matrix, in JAX finite and meaningless, has no "
        "counterpart here yet."
    )
    lost = (
        "With JAX 0.10.2 the result of JAX is NaN: its derivative of `eigh` adds 1 to an "
        "eigenvalue, where it is lost, and then takes differences. JAX 0.12 adds it to "
        "these."
    )
    return [
        Table("Silently wrong or NaN", columns, wrong, note),
        Table("Right in both here", columns, right, lost),
    ]


def _tridiagonal():
    d, e = np.array([2.0, 1, 3, 0.5, 1.5, 2.5]), np.array([1.0, 0.5, 2, 1, 0.3])
    dd = np.linspace(-1, 1, 6)
    _, v = scipy.linalg.eigh_tridiagonal(d, e)
    truth = (v**2 * dd[:, None]).sum(0)
    theirs = lambda d: jsl.eigh_tridiagonal(d, e, eigvals_only=True)
    ours = lambda d: eigvals_tridiagonal(d, e)
    numbers = [jax.jvp(f, (d,), (dd,))[1][0] for f in (theirs, ours)]
    return (
        "derivative of the smallest eigenvalue of a tridiagonal matrix",
        float(truth[0]), *map(float, numbers), "eigvals_tridiagonal",
    )  # fmt: skip


def _spectral_function():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    a = (q * np.array([1.0, 1, 2, 3])) @ q.T
    weights, direction = rng.standard_normal((2, 4, 4))
    direction = direction + direction.T
    truth = (weights * _derivative(a, direction, _power_slope(-0.25))).sum()
    numbers = [
        (jax.grad(lambda a, f=f: (weights * f(a)).sum())(a) * direction).sum()
        for f in (by_eigh(lambda w: w**-0.25), lambda a: psd_power(a, -0.25))
    ]
    return (
        "gradient of a function of A^(-1/4) where two eigenvalues agree",
        float(truth), *map(float, numbers), "psd_power",
    )  # fmt: skip


def _large_eigenvalues():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    a = (1.6e7 * (q * np.arange(1.0, 6)) @ q.T).astype("float32")
    numbers = [
        jax.grad(lambda a, f=f: f(a)[..., -1].sum())(jnp.asarray(a))[0, 0]
        for f in (
            lambda a: jnp.linalg.eigh(a)[0] + 0 * jnp.linalg.eigh(a)[1][0],
            eigvalsh,
        )
    ]
    return (
        "gradient of the largest of float32 eigenvalues above 2^24",
        float(q[0, -1] ** 2), *map(float, numbers), "eigvalsh",
    )  # fmt: skip


def _jordan_block():
    a = np.eye(4) + np.eye(4, k=1)
    theirs = np.real(jsl.funm(jnp.asarray(a), lambda w: jnp.log(w)))
    return (
        "entry (0, 1) of the logarithm of a Jordan block",
        1.0, float(theirs[0, 1]), float(logm(a).value[0, 1]), "logm",
    )  # fmt: skip


def _rank_deficient_polar():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 4))

    def theirs(a):
        u, _, vt = jnp.linalg.svd(a, full_matrices=False)
        return u @ vt

    weights = rng.standard_normal((6, 4))
    numbers = [
        jnp.abs(jax.grad(lambda a, f=f: (weights * f(a)).sum())(a)).max()
        for f in (theirs, lambda a: polar(a).unitary)
    ]
    return (
        "largest entry of the gradient of a polar factor, rank deficient",
        None, *map(float, numbers), "polar",
    )  # fmt: skip


def _identity_map():
    def theirs(a):
        u, s, vt = jnp.linalg.svd(a)
        return (u * s) @ vt

    numbers = [
        jax.grad(lambda a, f=f: f(a).sum())(jnp.eye(3))[0, 1]
        for f in (theirs, lambda a: prox_nuclear(a, 0.0))
    ]
    return (
        "gradient of U S V' = A at the identity",
        1.0, *map(float, numbers), "prox_nuclear, step 0",
    )  # fmt: skip


def _damped_kronecker():
    """(A x B + s I)^-1 b with all eigenvalues equal, through eigendecompositions."""
    eye, b = np.eye(3), np.arange(9.0)
    direction = np.arange(9.0).reshape(3, 3)
    direction = direction + direction.T

    def theirs(a):
        (w, v), (x, u) = jnp.linalg.eigh(a), jnp.linalg.eigh(eye)
        y = v.T @ b.reshape(3, 3) @ u
        return v @ (y / (w[:, None] * x + 0.5)) @ u.T

    def ours(a):
        return Kronecker(a, jnp.asarray(eye), symmetric=True).plus_identity(0.5).solve(b)

    dense = np.kron(direction, eye)
    truth = -(np.ones(9) @ dense @ b) / 1.5**2
    numbers = [
        (jax.grad(lambda a, f=f: f(a).sum())(eye) * direction).sum()
        for f in (theirs, ours)
    ]
    return (
        "gradient of a damped Kronecker solve at the identity",
        float(truth), *map(float, numbers), "Kronecker",
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""All spectral projections and proximal operators, called in one way."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxla import matfun


class Case(NamedTuple):
    """A function of a matrix and of scalars, which gives scalars and a matrix.

    - `call`: from `x` and the scalars to a tuple, the matrix last.
    - `scalars`: values that make it do something.
    - `degree`: the power of the matrix that the scalars grow like.
    """

    call: Callable
    scalars: tuple[float, ...]
    symmetric: bool
    degree: int | None = 1


def _projection(fn: Callable, **static) -> Callable:
    return lambda x, *scalars: tuple(fn(*scalars, x, **static))


def _alone(fn: Callable, **static) -> Callable:
    return lambda x, *scalars: (fn(x, *scalars, **static),)


CASES = {
    "project_psd": Case(_alone(matfun.project_psd), (), True),
    "project_nuclear_ball": Case(_alone(matfun.project_nuclear_ball), (1.5,), False),
    "project_spectral_ball": Case(_alone(matfun.project_spectral_ball), (1.5,), False),
    "project_nuclear_epigraph": Case(
        _projection(matfun.project_nuclear_epigraph), (0.5,), False
    ),
    "project_spectral_epigraph": Case(
        _projection(matfun.project_spectral_epigraph), (0.5,), False
    ),
    "project_sum_of_largest_epigraph": Case(
        _projection(matfun.project_sum_of_largest_epigraph, k=2), (0.5,), True
    ),
    "project_log_det_cone": Case(
        _projection(matfun.project_log_det_cone), (-0.3, 0.5), True
    ),
    "project_trace_inverse_cone": Case(
        _projection(matfun.project_trace_inverse_cone), (0.4, 0.8), True
    ),
    "prox_nuclear": Case(_alone(matfun.prox_nuclear), (0.7,), False),
    "prox_spectral_norm": Case(_alone(matfun.prox_spectral_norm), (1.3,), False),
    "prox_sum_of_largest": Case(_alone(matfun.prox_sum_of_largest, k=2), (0.6,), True),
    "prox_neg_log_det": Case(_alone(matfun.prox_neg_log_det), (0.7,), True, 2),
    "prox_trace_inverse": Case(_alone(matfun.prox_trace_inverse), (0.7,), True, 3),
    "prox_entropy": Case(_alone(matfun.prox_entropy), (0.7,), True, None),
}

SPECTRA = {
    "apart": [3.0, 1.6, 0.8, -1.1],
    "repeated": [2.0, 2.0, 0.4, 0.4],
    "one value": [1.2, 1.2, 1.2, 1.2],
    "zeros": [2.5, 1.1, 0.0, 0.0],
}


@functools.cache
def jitted(name: str) -> Callable:
    return jax.jit(CASES[name].call)


def matrix(key, case: Case, spectrum) -> np.ndarray:
    """With these eigenvalues, or 6x4 with the singular values of these sizes."""
    spectrum = np.asarray(spectrum, "float64")
    return recomposed(key, case, spectrum if case.symmetric else np.abs(spectrum))


def recomposed(key, case: Case, values) -> np.ndarray:
    """The matrix that has `values` where `matrix` with this key has its own."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    n = len(values)
    v, _ = np.linalg.qr(rng.standard_normal((n, n)))
    u, _ = np.linalg.qr(rng.standard_normal((n + 2, n)))
    return ((v if case.symmetric else u) * np.asarray(values, "float64")) @ v.T

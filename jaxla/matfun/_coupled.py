r"""The coupled iteration for inverse $p$-th roots, from products alone.

$X_k \to A^{-1/p}$ and $M_k = X_k^p A \to I$ side by side (Iannazzo 2006):

$$X_{k+1} = X_k T_k, \quad M_{k+1} = T_k^p M_k, \quad T_k = t_k(M_k).$$

The polynomials $t_k$ are data, one row of coefficients a step.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxla._dtypes import matmul

from ._minimax import Coefficients, inverse_root_stages


def coupled_iteration(m: Array, p: int, rows: Coefficients) -> tuple[Array, Array]:
    """`m ** (-1/p)` and what became of `m`, with eigenvalues of `m` in (0, 1]."""

    def eye():
        return jnp.eye(m.shape[-1], dtype=m.dtype)

    def stage(carry, c):
        x, m = carry
        t = c[0] * eye() + c[1] * m
        if len(c) == 3:
            t = t + c[2] * matmul(m, m)
        return (matmul(x, t), power_times(t, p, m)), None

    start = (jnp.broadcast_to(eye(), m.shape), m)
    (x, m), _ = jax.lax.scan(stage, start, jnp.array(rows, m.dtype))
    return x, m


def power_times(t: Array, p: int, m: Array) -> Array:
    """`t^p @ m` by repeated squaring."""
    while p:
        if p % 2:
            m = matmul(t, m)
        p //= 2
        if p:
            t = matmul(t, t)
    return m


def minimax_rows(p: int, floor: float, tolerance: float) -> Coefficients:
    """In each step the best quadratic for the interval of the eigenvalues."""
    return inverse_root_stages(p, floor, tolerance).rows


@functools.cache
def newton_rows(p: int, floor: float, tolerance: float) -> Coefficients:
    r"""Newton's method, $t(m) = ((p + 1) - m)/p$, until the smallest eigenvalue is there.

    The first step starts from $X_0 = z^{1/p} I$ with $z = (1 + p)/2$, by which the
    eigenvalues lie in $(0, (1 + p)/2]$, where Newton's method converges (Iannazzo
    2006); here that factor is part of the first row.
    """
    z = (1 + p) / 2
    start = z ** (1 / p)
    rows = [(start * (p + 1) / p, -start * z / p)]
    low, high = (_newton(z * m, p) for m in (floor, 1.0))
    while max(1 - low, abs(1 - high)) > tolerance:
        rows.append(((p + 1) / p, -1 / p))
        low, high = _newton(low, p), _newton(high, p)
    return tuple(rows)


def _newton(m: float, p: int) -> float:
    return m * ((p + 1 - m) / p) ** p

r"""Inverse $p$-th roots by eigendecomposition, with derivatives of every order.

With $S = A^{1/p}$ the equation $S^p = A$ gives

$$\sum_{k=0}^{p-1} S^k \,dS\, S^{p-1-k} = dA, \qquad dX = -X \,dS\, X$$

for $X = S^{-1}$. It is solved in the eigenbasis, where it is a division by positive
numbers, and differentiated as an equation (`jax.lax.custom_linear_solve`).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxla._dtypes import matmul
from jaxla.factor import eigh

from ._coupled import power_times


def eigh_root(a: Array, p: int) -> Array:
    """`a ** (-1/p)` for symmetric `a` with eigenvalues up to about 1.

    Eigenvalues below the rounding errors count as `eps`.
    """
    return _eigh_root((a + a.mT) / 2, p)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _eigh_root(a: Array, p: int) -> Array:
    s, v = _roots_and_vectors(a, p)
    return matmul(v / s[..., None, :], v.mT)


@_eigh_root.defjvp
def _eigh_root_jvp(p, primals, tangents):
    (a,), (da,) = primals, tangents
    x = _eigh_root(a, p)
    s = power_times(x, p - 1, a)
    roots, v = _roots_and_vectors(a, p)
    kernel = _power_sum(roots[..., :, None], roots[..., None, :], p)

    def in_eigenbasis(_, r):
        inner = matmul(v.mT, matmul(r, v)) / kernel
        return matmul(v, matmul(inner, v.mT))

    ds = jax.lax.custom_linear_solve(
        lambda y: _sum_of_products(s, y, p),
        da,
        in_eigenbasis,
        symmetric=True,
    )
    return x, -matmul(x, matmul(ds, x))


def _roots_and_vectors(a: Array, p: int) -> tuple[Array, Array]:
    w, v = eigh(jax.lax.stop_gradient(a))
    return jnp.maximum(w, jnp.finfo(a.dtype).eps) ** (1 / p), v


def _power_sum(x: Array, y: Array, p: int) -> Array:
    """`x^(p-1) + x^(p-2) y + ... + y^(p-1)`."""
    total = jnp.ones_like(x * y)
    for k in range(1, p):
        total = x * total + y**k
    return total


def _sum_of_products(s: Array, y: Array, p: int) -> Array:
    """`s^(p-1) y + s^(p-2) y s + ... + y s^(p-1)`."""
    total = last = y
    for _ in range(p - 1):
        last = matmul(last, s)
        total = matmul(s, total) + last
    return total

r"""The principal logarithm of a square matrix, by inverse scaling and squaring.

Square roots until $A^{1/2^k}$ is near $I$, by the product form of the iteration of
Denman and Beavers (Cheng, Higham, Kenney and Laub, 2001); there the Padé
approximant in partial fractions; and $\log A = 2^k \log A^{1/2^k}$.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, finiteness_and_unit, matmul
from jaxla._errors import as_square_matrix, check_int

from ._certified import flat_where_not_finite, frobenius, MatrixFunction, norm_ratio


def logm(matrix: Float[ArrayLike, "*batch n n"], *, roots: int = 10) -> MatrixFunction:
    r"""Computes the principal logarithm of square matrices.

    For symmetric positive definite matrices
    [`jaxla.matfun.symmetric_function`][] with `jnp.log` is faster and more accurate.

    **Arguments:**

    - `matrix`: square, not necessarily symmetric. Half precision is computed in
        `float32`.
    - `roots`: the largest number of square roots to take; a matrix that is near the
        identity earlier takes fewer. (Static.)

    **Returns:**

    [`jaxla.matfun.MatrixFunction`][]: the logarithm $L$ in the dtype of `matrix`, and
    the residual $\|\exp(L) - A\|_F / \|A\|_F$, which costs an exponential, if it is used.
    A matrix that has no principal logarithm, because an eigenvalue is zero or on the
    negative real axis, has zeros, an infinite residual, and a derivative of zero.

    **Cost:** up to `10 * roots` inverses, and one linear solve with seven matrices.

    **Differentiation:** both modes and every order, through the iterations.

    !!! example

        >>> import jax.numpy as jnp
        >>> rotation = jnp.array([[0.0, -1.0], [1.0, 0.0]])
        >>> logarithm, residual = jaxla.matfun.logm(rotation)
        >>> print(logarithm[1, 0].round(4))
        1.5708

    ??? cite "Reference"

        Higham, *Functions of Matrices*, SIAM 2008, Chapter 11.
    """
    matrix = as_square_matrix("matrix", matrix)
    check_int("roots", roots, low=1)
    a = matrix.astype(compute_dtype(matrix.dtype))
    usable, unit = finiteness_and_unit(a)
    # Near the identity a scale would cost the small digits of the logarithm.
    unit = jnp.where((unit > 16) | (unit < 1 / 16), unit, 1)
    eye = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
    a = jnp.where(usable, a / unit, eye)
    logarithm = flat_where_not_finite(lambda a: (_log_by_roots(a, eye, roots),))
    (out,) = logarithm(a)
    fixed = jax.lax.stop_gradient(out)
    residual = norm_ratio(jax.scipy.linalg.expm(fixed) - jax.lax.stop_gradient(a), a)
    good = usable[..., 0, 0] & jnp.isfinite(residual)
    out = jnp.where(good[..., None, None], out + jnp.log(unit) * eye, 0)
    return MatrixFunction(out.astype(matrix.dtype), jnp.where(good, residual, jnp.inf))


def _log_by_roots(a: Array, eye: Array, roots: int) -> Array:
    """The logarithm, or NaN where a square root was not found."""

    def take_root(carry, _):
        x, count, found = carry
        far = frobenius(x - eye) > 0.25

        def again(x):
            root, rest = _square_root(x, eye)
            return jnp.where(far[..., None, None], root, x), ~far | (rest < 0.01)

        x, good = jax.lax.cond(far.any(), again, lambda x: (x, ~far), x)
        return (x, count + far.astype(count.dtype), found & good), None

    batch = a.shape[:-2]
    start = (a, jnp.zeros(batch, a.dtype), jnp.ones(batch, bool))
    (x, count, found), _ = jax.lax.scan(take_root, start, length=roots)
    out = jnp.exp2(count)[..., None, None] * _log_near_identity(x - eye, eye)
    return jnp.where(found[..., None, None], out, jnp.nan)


def _square_root(a: Array, eye: Array) -> tuple[Array, Array]:
    """The principal square root, by the scaled product form of Denman and Beavers.

    And how far its second matrix is from I: it does not come there if there is none.
    """

    def step(carry, _):
        x, m = carry
        inverse = jnp.linalg.inv(m)
        mu = jax.lax.stop_gradient(_scale(m, inverse, eye))
        x = mu * matmul(x, eye + inverse / mu**2) / 2
        m = (eye + (mu**2 * m + inverse / mu**2) / 2) / 2
        return (x, m), None

    (x, m), _ = jax.lax.scan(step, (a, a), length=10)
    return x, frobenius(m - eye)


def _scale(m: Array, inverse: Array, eye: Array) -> Array:
    """Makes $m$ and its inverse equally large, until the iteration converges."""
    ratio = jnp.sqrt(frobenius(inverse) / frobenius(m))
    far = frobenius(m - eye) > 0.1
    mu = jnp.where(far & jnp.isfinite(ratio) & (ratio > 0), jnp.sqrt(ratio), 1)
    return mu[..., None, None]


def _log_near_identity(z: Array, eye: Array) -> Array:
    r"""$\log(I + Z) = \sum_j w_j Z (I + x_j Z)^{-1}$, nodes of Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(7)
    nodes = jnp.array((nodes + 1) / 2, z.dtype).reshape(-1, *[1] * z.ndim)
    weights = jnp.array(weights / 2, z.dtype).reshape(-1, *[1] * z.ndim)
    # One batched solve: Z commutes with the inverse.
    eye, z = (jnp.broadcast_to(x, (7, *z.shape)) for x in (eye, z))
    terms = jnp.linalg.solve(eye + nodes * z, z)
    return jnp.sum(weights * terms, 0)

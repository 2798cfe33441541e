r"""The symmetric Lyapunov equation $X Y + Y X = R$ for $Y$.

It is what the derivatives of square roots, polar factors and whitening solve. In
the eigenbasis of $X$ it is a division by $w_i + w_j$. The derivative follows from the
equation, not from the eigenvectors (`jax.lax.custom_linear_solve`), and is right
at repeated eigenvalues, to every order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, matmul
from jaxla._errors import as_square_matrix
from jaxla.factor import eigh


class MatrixSolution(NamedTuple):
    r"""The solution of a matrix equation, and what speaks for it.

    - `solution`: zero where `residual` is infinite.
    - `residual`: the Frobenius norm of what the equation leaves, relative to the sum
        of the norms that its terms can have; of the order of the dtype's `eps` where
        all is well. Infinite where an entry of the input is not finite, and where the
        method did not converge. It has no derivative.
    """

    solution: Float[Array, "*batch m n"]
    residual: Float[Array, "*batch"]


def solve_symmetric_lyapunov(
    x: Float[ArrayLike, "*batch n n"], r: Float[ArrayLike, "*batch n n"]
) -> MatrixSolution:
    r"""Solves $X Y + Y X = R$ for $Y$, where $X$ is symmetric.

    **Arguments:**

    - `x`: $X$, symmetric; its symmetric part is taken. Usually positive definite.
        Half precision is computed in `float32`.
    - `r`: $R$, any square matrix of the same size.

    **Returns:**

    [`jaxla.matfun.MatrixSolution`][]. Where eigenvalues of $X$ add up to zero, which
    in a positive semi-definite matrix only those of its kernel do, the equation does
    not determine that part of $Y$; it is then zero, and what $R$ has there shows in the
    residual.

    **Cost:** one `eigh` and six $2 n^3$ products.

    **Differentiation:** both modes and every order, with respect to both arguments;
    right at repeated eigenvalues.

    !!! example

        >>> import jax.numpy as jnp
        >>> y = jaxla.matfun.solve_symmetric_lyapunov(2 * jnp.eye(2), jnp.ones((2, 2)))
        >>> print(y.solution)
        [[0.25 0.25]
         [0.25 0.25]]
    """
    x, r = as_square_matrix("x", x), as_square_matrix("r", r)
    if x.shape[-1] != r.shape[-1]:
        raise ValueError(
            f"`r` must have matrices of the size of `x`, {x.shape[-1]}; got {r.shape}."
        )
    out_dtype = jnp.result_type(x, r)
    dtype = compute_dtype(out_dtype)
    shape = jnp.broadcast_shapes(x.shape, r.shape)
    x, r = (jnp.broadcast_to(a, shape).astype(dtype) for a in (x, r))
    x = (x + x.mT) / 2
    largest = jnp.maximum(*(jnp.abs(a).max((-2, -1), initial=0) for a in (x, r)))
    usable = jnp.isfinite(largest)[..., None, None]
    x, r = jnp.where(usable, x, 0), jnp.where(usable, r, 0)
    y = symmetric_lyapunov(x, r)
    residual = relative_residual(matmul(x, y) + matmul(y, x) - r, [(x, y), (x, y)], r)
    residual = jnp.where(usable[..., 0, 0], residual, jnp.inf)
    return MatrixSolution(y.astype(out_dtype), residual)


def symmetric_lyapunov(x: Array, r: Array) -> Array:
    """The solution alone, without checks, of arrays of one shape and dtype."""
    w, v = eigh(jax.lax.stop_gradient(x))
    sums = w[..., :, None] + w[..., None, :]
    eps = jnp.finfo(x.dtype).eps
    least = x.shape[-1] * eps * jnp.abs(w).max(-1, initial=0)[..., None, None]
    regular = jnp.abs(sums) > least
    kernel = jnp.where(regular, 1 / jnp.where(regular, sums, 1), 0)

    def in_eigenbasis(_, r):
        inner = kernel * matmul(v.mT, matmul(r, v))
        return matmul(v, matmul(inner, v.mT))

    return jax.lax.custom_linear_solve(
        lambda y: matmul(x, y) + matmul(y, x), r, in_eigenbasis, symmetric=True
    )


def relative_residual(rest: Array, products: list[tuple[Array, Array]], r: Array) -> Array:
    """The norm of `rest` over the sum of the norms that its terms can have."""
    norm = lambda a: jnp.sqrt(jnp.sum(a * a, (-2, -1)))
    rest, products, r = jax.lax.stop_gradient((rest, products, r))
    size = norm(r) + sum(norm(a) * norm(b) for a, b in products)
    return jnp.where(size == 0, 0, norm(rest) / jnp.where(size == 0, 1, size))

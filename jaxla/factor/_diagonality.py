"""How far from diagonal positive definite matrices are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype
from jaxla._errors import as_square_matrix


def diagonality_potential(
    matrix: Float[ArrayLike, "*batch n n"],
) -> Float[Array, "*batch"]:
    r"""Computes $\Gamma(B) = \mathrm{tr}(B \circ B^{-1} - I)$ of matrices $B$.

    It is zero if $B$ is diagonal, positive for any other, and does not change if rows and
    columns are scaled. One step of [`jaxla.factor.pivoted_diagonalization`][] with `k`
    uniformly random pivots multiplies it by $1 - k (k - 1) / (n (n - 1))$ on average.

    **Arguments:**

    - `matrix`: $B$, symmetric and positive definite; its symmetric part is taken. Half
        precision is computed in `float32`.

    **Returns:**

    The potential; infinite where $B$ is not positive definite to working precision, and
    where an entry is not finite.

    **Cost:** a Cholesky factorization and a triangular solve, $4 n^3 / 3$ flops.

    **Accuracy:** without cancellation: small values are accurate, too.

    **Differentiation:** both modes and every order, where it is finite.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.factor.diagonality_potential(jnp.array([[2.0, 1.0], [1.0, 2.0]])))
        0.66667

    ??? cite "Reference"

        *A Unified Perspective on Orthogonalization and Diagonalization*, arXiv
        2505.02023.
    """
    matrix = as_square_matrix("matrix", matrix)
    b = matrix.astype(compute_dtype(matrix.dtype))
    eye = jnp.broadcast_to(jnp.eye(b.shape[-1], dtype=b.dtype), b.shape)
    diagonal = jnp.diagonal(b, axis1=-2, axis2=-1)
    usable = jnp.isfinite(b).all((-2, -1)) & (diagonal > 0).all(-1)
    b = jnp.where(usable[..., None, None], (b + b.mT) / 2, eye)
    scale = jax.lax.rsqrt(jnp.diagonal(b, axis1=-2, axis2=-1))
    # With B = I + E: B^{-1} = I - E + E B^{-1} E, and E has no diagonal.
    e = b * scale[..., None] * scale[..., None, :] * (1 - eye)
    lower = jnp.linalg.cholesky(e + eye, symmetrize_input=False)
    x = jax.lax.linalg.triangular_solve(lower, e, left_side=True, lower=True)
    gamma = jnp.sum(x * x, (-2, -1))
    return jnp.where(usable & jnp.isfinite(gamma), gamma, jnp.inf).astype(matrix.dtype)

"""A cheap upper bound of the largest eigenvalue, from products alone."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, matmul, next_power_of_two
from jaxla._errors import as_square_matrix


def eigenvalue_bound(matrix: Float[ArrayLike, "*batch n n"]) -> Float[Array, "*batch"]:
    r"""Bounds the largest absolute eigenvalue of a symmetric matrix from above.

    $\|A^4\|_F^{1/4} = (\sum_i \lambda_i^8)^{1/8}$, which exceeds
    $\max_i |\lambda_i|$ by a factor of at most $n^{1/8}$ (1.84 at $n = 128$),
    where the Frobenius norm may exceed it by $n^{1/2}$. It depends on the
    eigenvalues alone, so that it is the same in every orthogonal basis.

    **Arguments:**

    - `matrix`: real and symmetric. Half precision is computed in `float32`.

    **Returns:**

    The bound of each matrix, in the dtype that it was computed in; zero for a
    zero matrix, NaN or inf for a matrix with a non-finite entry.

    **Cost:** two $2 n^3$ products.

    **Differentiation:** to every order, both modes; the gradient at a zero
    matrix is zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.eigenvalue_bound(jnp.diag(jnp.array([3.0, 4.0]))).round(3))
        4.049
    """
    matrix = as_square_matrix("matrix", matrix)
    matrix = matrix.astype(compute_dtype(matrix.dtype))
    largest = jnp.abs(matrix).max((-2, -1), initial=0)
    # Entries near 1, so that no eighth power over- or underflows.
    unit = next_power_of_two(largest)
    return unit * bound_of_scaled(matrix / unit[..., None, None])


def bound_of_scaled(matrix: Array) -> Array:
    """`eigenvalue_bound` of a matrix whose eighth powers do not over- or underflow."""
    return bound_of_square(matmul(matrix, matrix))


def bound_of_square(square: Array) -> Array:
    """The same, from the square of the matrix."""
    total = jnp.sum(matmul(square, square) ** 2, axis=(-2, -1))
    nonzero = jnp.where(total == 0, 1, total)  # NaN must get through
    # The last factor outweighs the rounding of the products.
    safety = 1 + 16 * jnp.finfo(square.dtype).eps
    return jnp.where(total == 0, 0, safety * nonzero ** (1 / 8))

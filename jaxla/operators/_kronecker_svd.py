"""A matrix as a sum of Kronecker products: the SVD of its rearrangement."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._errors import as_real_matrix, check_int, refuse_derivative

from ._nearest import rearranged, right_shape_of, sign_of


class KroneckerSVD(NamedTuple):
    r"""The first terms of $M = \sum_k \sigma_k A_k \otimes B_k$.

    - `singular_values`: $\sigma_k$, in descending order.
    - `left`: the $A_k$, orthonormal in the inner product $\mathrm{tr}(A_j^\top A_k)$.
    - `right`: the $B_k$, likewise.
    """

    singular_values: Float[Array, "*batch rank"]
    left: Float[Array, "*batch rank m1 n1"]
    right: Float[Array, "*batch rank m2 n2"]


def kronecker_svd(
    matrix: Float[ArrayLike, "*batch m n"],
    left_shape: tuple[int, int],
    *,
    rank: int | None = None,
) -> KroneckerSVD:
    r"""Writes a matrix as a sum of Kronecker products, with the fewest possible terms.

    The first $r$ terms are the sum of $r$ Kronecker products that is nearest to $M$ in
    the Frobenius norm; what they leave out has the norm
    $(\sum_{k > r} \sigma_k^2)^{1/2}$. Computed as the singular value decomposition of
    the rearrangement of $M$ whose rows are its blocks.

    **Arguments:**

    - `matrix`: $M$, $m \times n$.
    - `left_shape`: the shape of the $A_k$, whose sides must divide $m$ and $n$.
    - `rank`: the number of terms; all by default. A static choice.

    **Returns:**

    [`jaxla.operators.KroneckerSVD`][], with the sign rule of
    [`jaxla.operators.nearest_kronecker`][]. A matrix with a non-finite entry gives NaN,
    and touches no other of its batch.

    **Cost:** a singular value decomposition of a matrix as large as $M$, whatever `rank`
    is: much more than the steps of [`jaxla.operators.nearest_kronecker`][].

    **Differentiation:** refused, with a `NotImplementedError`: singular vectors of
    repeated singular values have no derivative.

    !!! example

        >>> import jax.numpy as jnp
        >>> terms = jaxla.operators.kronecker_svd(jnp.diag(jnp.arange(4.0)), (2, 2))
        >>> print(terms.singular_values)
        [3.702459  0.5401815 0.        0.       ]
    """
    matrix = as_real_matrix("matrix", matrix)
    right_shape = right_shape_of(matrix, left_shape)
    rows, unit = rearranged(matrix, left_shape)
    most = min(rows.shape[-2:])
    if rank is not None:
        check_int("rank", rank, low=1, high=most)
    usable = jnp.isfinite(rows).all((-2, -1), keepdims=True)
    svd = refuse_derivative(_svd, "`kronecker_svd` has no derivative.")
    u, s, vt = svd(jnp.where(usable, rows, 0))
    u, s, vt = (jnp.where(part, x, jnp.nan) for part, x in (
        (usable, u), (usable[..., 0], s), (usable, vt)
    ))  # fmt: skip
    rank = most if rank is None else rank
    left = u.mT[..., :rank, :].reshape(*u.shape[:-2], rank, *left_shape)
    right = vt[..., :rank, :].reshape(*u.shape[:-2], rank, *right_shape)
    sign = sign_of(left)
    parts = (s[..., :rank] * unit[..., None], sign * left, sign * right)
    return KroneckerSVD(*(part.astype(matrix.dtype) for part in parts))


def _svd(rows: Array) -> tuple[Array, Array, Array]:
    u, s, vt = jnp.linalg.svd(rows, full_matrices=False)
    return u, s, vt

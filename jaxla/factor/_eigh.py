"""Eigenvalues and eigenvectors of symmetric matrices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, next_power_of_two
from jaxla._errors import as_square_matrix, refuse_derivative


class Eigh(NamedTuple):
    r"""An eigendecomposition $A = V \mathrm{diag}(w) V^\top$.

    - `eigenvalues`: $w$, in ascending order.
    - `eigenvectors`: $V$, orthogonal; column $i$ belongs to $w_i$.
    """

    eigenvalues: Float[Array, "*batch n"]
    eigenvectors: Float[Array, "*batch n n"]


def eigh(matrix: Float[ArrayLike, "*batch n n"]) -> Eigh:
    r"""Computes the eigenvalues and eigenvectors of symmetric matrices.

    **Arguments:**

    - `matrix`: real and symmetric; its symmetric part is taken. Half precision is
        computed in `float32`.

    **Returns:**

    [`jaxla.factor.Eigh`][], in the dtype of `matrix`. A matrix with a non-finite entry
    has NaN in all of its eigenvalues and eigenvectors, and touches no other of its batch.

    **Differentiation:** refused, with a `NotImplementedError`: eigenvectors of
    repeated eigenvalues have no derivative.

    !!! example

        >>> import jax.numpy as jnp
        >>> jaxla.factor.eigh(jnp.array([[2.0, 1.0], [1.0, 2.0]])).eigenvalues
        Array([1., 3.], dtype=float32)
    """
    matrix = as_square_matrix("matrix", matrix)
    a = matrix.astype(compute_dtype(matrix.dtype))
    w, v = refuse_derivative(_eigh, _NO_DERIVATIVE)(a)
    return Eigh(w.astype(matrix.dtype), v.astype(matrix.dtype))


_NO_DERIVATIVE = (
    "`eigh` has no derivative: eigenvectors of repeated eigenvalues have none."
)


def _eigh(a: Array) -> tuple[Array, Array]:
    largest = jnp.abs(a).max((-2, -1), initial=0, keepdims=True)
    usable = jnp.isfinite(largest)
    unit = next_power_of_two(jnp.where(usable, largest, 1))
    scaled = jnp.where(usable, a / unit, 0)
    w, v = jnp.linalg.eigh((scaled + scaled.mT) / 2, symmetrize_input=False)
    v = jnp.where(usable, v, jnp.nan)
    return jnp.where(usable[..., 0], w * unit[..., 0], jnp.nan), v

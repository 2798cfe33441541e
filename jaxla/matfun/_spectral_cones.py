r"""Projections onto sets of matrices that are defined by eigenvalues or singular values.

The nearest point of such a set has the eigenvectors or singular vectors of the matrix,
and its eigenvalues or singular values are the nearest point of a set of vectors. From
"Projections onto Spectral Matrix Cones" (arXiv:2511.01089).
"""

from typing import NamedTuple

from jaxtyping import Array, ArrayLike, Float, Real

from jaxla._errors import as_square_matrix, check_int

from ._spectral_lift import map_spectrum
from ._vector_cones import (
    clip_at_scalar,
    l1_ball,
    l1_epigraph,
    max_epigraph,
    positive_part,
    sum_of_largest_epigraph,
)


class EpigraphPoint(NamedTuple):
    """A point of the epigraph of a function of matrices.

    - `t`: at least the function of `x`.
    - `x`: the matrix.
    """

    t: Float[Array, "*batch"]
    x: Float[Array, "*batch m n"]


def project_psd(x: Float[ArrayLike, "*batch n n"]) -> Float[Array, "*batch n n"]:
    r"""Projects symmetric matrices onto the positive semi-definite ones.

    Negative eigenvalues become zero.

    **Arguments:**

    - `x`: symmetric; its symmetric part is taken. Half precision is computed in
        `float32`.

    **Returns:**

    A symmetric array in the dtype of `x`. A matrix with a non-finite entry gives NaN in
    all of its entries, and touches no other of its batch. All functions of this section
    do so.

    **Cost:** one `eigh` and a $2 n^3$ product.

    **Differentiation:** once, in both modes; right at repeated eigenvalues. A second
    derivative raises `NotImplementedError`. At an eigenvalue of zero the derivative is
    the one from below, along which the matrix stays.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.project_psd(jnp.array([[0.0, 2.0], [2.0, 0.0]])))
        [[1. 1.]
         [1. 1.]]
    """
    return map_spectrum(positive_part(), "project_psd", x, {}, symmetric=True)[1]


def project_nuclear_ball(
    x: Float[ArrayLike, "*batch m n"], radius: Real[ArrayLike, "*#batch"]
) -> Float[Array, "*batch m n"]:
    r"""Projects matrices onto the ball $\|X\|_* \le r$ of the nuclear norm.

    The singular values are projected onto the $\ell_1$ ball: all go down by the same
    amount, but not below zero.

    **Arguments:**

    - `x`: any real matrices. Half precision is computed in `float32`.
    - `radius`: $r$, one for all or one for each matrix. Negative counts as zero.

    **Returns:**

    An array in the dtype of `x`; of low rank where singular values became zero.

    **Cost:** one `svd`, a sort of its values and a product.

    **Differentiation:** once, in both modes, with respect to both arguments; right at
    repeated and zero singular values. At a kink, where a singular value just becomes zero
    or the norm just is `radius`, a one-sided derivative or a mean of such.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.project_nuclear_ball(jnp.diag(jnp.array([3.0, 1.0])), 1.0))
        [[1. 0.]
         [0. 0.]]

    ??? cite "Reference"

        Duchi, Shalev-Shwartz, Singer and Chandra, *Efficient projections onto the l1-ball
        for learning in high dimensions*, ICML 2008.
    """
    scalars = {"radius": radius}
    name = "project_nuclear_ball"
    return map_spectrum(l1_ball(), name, x, scalars, symmetric=False)[1]


def project_spectral_ball(
    x: Float[ArrayLike, "*batch m n"], radius: Real[ArrayLike, "*#batch"]
) -> Float[Array, "*batch m n"]:
    r"""Projects matrices onto the ball $\|X\|_2 \le r$ of the spectral norm.

    Singular values above $r$ become $r$.

    **Arguments:**

    - `x`: any real matrices. Half precision is computed in `float32`.
    - `radius`: $r$, one for all or one for each matrix. Negative counts as zero.

    **Returns:**

    An array in the dtype of `x`.

    **Cost:** one `svd` and a product.

    **Differentiation:** as [`jaxla.matfun.project_nuclear_ball`][].

    !!! example

        >>> import jax.numpy as jnp
        >>> x = jnp.diag(jnp.array([3.0, 1.0]))
        >>> print(jaxla.matfun.project_spectral_ball(x, 2.0))
        [[2. 0.]
         [0. 1.]]
    """
    scalars = {"radius": radius}
    name = "project_spectral_ball"
    return map_spectrum(clip_at_scalar(), name, x, scalars, symmetric=False)[1]


def project_nuclear_epigraph(
    t: Real[ArrayLike, "*#batch"], x: Float[ArrayLike, "*batch m n"]
) -> EpigraphPoint:
    r"""Projects pairs onto the cone $\{(t, X): \|X\|_* \le t\}$ of the nuclear norm.

    **Arguments:**

    - `t`: one for all or one for each matrix.
    - `x`: any real matrices. Half precision is computed in `float32`.

    **Returns:**

    [`jaxla.matfun.EpigraphPoint`][], in the dtype of `x`. Zero where
    $\|X\|_2 \le -t$.

    **Cost:** one `svd`, a sort of its values and a product.

    **Differentiation:** as [`jaxla.matfun.project_nuclear_ball`][].

    !!! example

        >>> import jax.numpy as jnp
        >>> x = jnp.diag(jnp.array([3.0, 1.0]))
        >>> point = jaxla.matfun.project_nuclear_epigraph(0.0, x)
        >>> print(point.t)
        1.5
        >>> print(point.x)
        [[1.5 0. ]
         [0.  0. ]]
    """
    name = "project_nuclear_epigraph"
    (t,), x = map_spectrum(l1_epigraph(), name, x, {"t": t}, symmetric=False)
    return EpigraphPoint(t, x)


def project_spectral_epigraph(
    t: Real[ArrayLike, "*#batch"], x: Float[ArrayLike, "*batch m n"]
) -> EpigraphPoint:
    r"""Projects pairs onto the cone $\{(t, X): \|X\|_2 \le t\}$ of the spectral norm.

    **Arguments:**

    - `t`: one for all or one for each matrix.
    - `x`: any real matrices. Half precision is computed in `float32`.

    **Returns:**

    [`jaxla.matfun.EpigraphPoint`][], in the dtype of `x`. Zero where
    $\|X\|_* \le -t$.

    **Cost:** one `svd`, a sort of its values and a product.

    **Differentiation:** as [`jaxla.matfun.project_nuclear_ball`][].

    !!! example

        >>> import jax.numpy as jnp
        >>> x = jnp.diag(jnp.array([3.0, 1.0]))
        >>> point = jaxla.matfun.project_spectral_epigraph(1.0, x)
        >>> print(point.t)
        2.0
        >>> print(point.x)
        [[2. 0.]
         [0. 1.]]
    """
    name = "project_spectral_epigraph"
    (t,), x = map_spectrum(max_epigraph(), name, x, {"t": t}, symmetric=False)
    return EpigraphPoint(t, x)


def project_sum_of_largest_epigraph(
    t: Real[ArrayLike, "*#batch"], x: Float[ArrayLike, "*batch n n"], *, k: int
) -> EpigraphPoint:
    r"""Projects pairs onto $\{(t, X): \lambda_1(X) + \dots + \lambda_k(X) \le t\}$.

    The $\lambda_i$ are the eigenvalues in descending order: with `k=1` it is the
    epigraph of the largest eigenvalue.

    **Arguments:**

    - `t`: one for all or one for each matrix.
    - `x`: symmetric; its symmetric part is taken. Half precision is computed in
        `float32`.
    - `k`: from 1 to the size of the matrices.

    **Returns:**

    [`jaxla.matfun.EpigraphPoint`][], in the dtype of `x`.

    **Cost:** one `eigh`, a sort of its values, 40 passes over them (60 in `float64`) and
    a $2 n^3$ product.

    **Differentiation:** once, in both modes, with respect to `t` and `x`; right at
    repeated eigenvalues. At a kink, where an eigenvalue just reaches those that change, a
    one-sided derivative or a mean of such.

    !!! example

        >>> import jax.numpy as jnp
        >>> x = jnp.diag(jnp.array([4.0, 3.0, 0.0]))
        >>> point = jaxla.matfun.project_sum_of_largest_epigraph(1.0, x, k=2)
        >>> print(point.t)
        3.0
        >>> print(point.x)
        [[2. 0. 0.]
         [0. 1. 0.]
         [0. 0. 0.]]
    """
    x = as_square_matrix("x", x)
    check_int("k", k, low=1, high=x.shape[-1])
    name = "project_sum_of_largest_epigraph"
    vector_map = sum_of_largest_epigraph(k)
    (t,), x = map_spectrum(vector_map, name, x, {"t": t}, symmetric=True)
    return EpigraphPoint(t, x)

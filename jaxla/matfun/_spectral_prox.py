r"""Proximal operators of functions of eigenvalues or singular values.

$\mathrm{prox}_{sf}(X)$ is the minimizer of $s f(Y) + \frac12 \|Y - X\|_F^2$ over $Y$. It
has the eigenvectors or singular vectors of $X$.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from jaxla._errors import as_square_matrix, check_int

from ._perspective_cones import barrier_prox, INVERSE, LOG
from ._spectral_lift import map_spectrum, VectorMap
from ._vector_cones import (
    max_prox,
    nonnegative,
    nonnegative_divided,
    shrink_by_scalar,
    sum_of_largest_prox,
)


def prox_nuclear(
    x: Float[ArrayLike, "*batch m n"], step: Real[ArrayLike, "*#batch"]
) -> Float[Array, "*batch m n"]:
    r"""Computes the proximal operator of the nuclear norm $\|X\|_*$.

    Singular values go down by $s$, but not below zero: singular value thresholding.

    **Arguments:**

    - `x`: any real matrices. Half precision is computed in `float32`.
    - `step`: $s$, one for all or one for each matrix. Negative counts as zero.

    **Returns:**

    An array in the dtype of `x`; of low rank where singular values became zero. A matrix
    with a non-finite entry gives NaN in all of its entries, and touches no other of its
    batch. All functions of this section do so.

    **Cost:** one `svd` and a product.

    **Differentiation:** once, in both modes, with respect to both arguments; right at
    repeated and zero singular values. A singular value of just $s$ counts as below it.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.prox_nuclear(jnp.diag(jnp.array([3.0, 1.0])), 2.0))
        [[1. 0.]
         [0. 0.]]
    """
    scalars = {"step": step}
    return map_spectrum(shrink_by_scalar(), "prox_nuclear", x, scalars, symmetric=False)[
        1
    ]


def prox_spectral_norm(
    x: Float[ArrayLike, "*batch m n"], step: Real[ArrayLike, "*#batch"]
) -> Float[Array, "*batch m n"]:
    r"""Computes the proximal operator of the spectral norm $\|X\|_2$.

    The largest singular values go down to one level, by $s$ in sum.

    **Arguments:**

    - `x`: any real matrices. Half precision is computed in `float32`.
    - `step`: $s$, one for all or one for each matrix. Negative counts as zero.

    **Returns:**

    An array in the dtype of `x`.

    **Cost:** one `svd`, a sort of its values and a product.

    **Differentiation:** as [`jaxla.matfun.project_nuclear_ball`][].

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.prox_spectral_norm(jnp.diag(jnp.array([3.0, 2.0])), 2.0))
        [[1.5 0. ]
         [0.  1.5]]
    """
    scalars = {"step": step}
    return map_spectrum(max_prox(), "prox_spectral_norm", x, scalars, symmetric=False)[1]


def prox_sum_of_largest(
    x: Float[ArrayLike, "*batch n n"], step: Real[ArrayLike, "*#batch"], *, k: int
) -> Float[Array, "*batch n n"]:
    r"""Computes the proximal operator of the sum of the `k` largest eigenvalues.

    **Arguments:**

    - `x`: symmetric; its symmetric part is taken. Half precision is computed in
        `float32`.
    - `step`: $s$, one for all or one for each matrix. Negative counts as zero.
    - `k`: from 1 to the size of the matrices.

    **Returns:**

    A symmetric array in the dtype of `x`.

    **Cost:** one `eigh`, 40 passes over its values (60 in `float64`) and a product.

    **Differentiation:** as [`jaxla.matfun.project_sum_of_largest_epigraph`][].

    !!! example

        >>> import jax.numpy as jnp
        >>> x = jnp.diag(jnp.array([4.0, 3.0, 0.0]))
        >>> print(jaxla.matfun.prox_sum_of_largest(x, 2.0, k=1))
        [[2.5 0.  0. ]
         [0.  2.5 0. ]
         [0.  0.  0. ]]
    """
    x = as_square_matrix("x", x)
    check_int("k", k, low=1, high=x.shape[-1])
    scalars, vector_map = {"step": step}, sum_of_largest_prox(k)
    return map_spectrum(vector_map, "prox_sum_of_largest", x, scalars, symmetric=True)[1]


def prox_neg_log_det(
    x: Float[ArrayLike, "*batch n n"], step: Real[ArrayLike, "*#batch"]
) -> Float[Array, "*batch n n"]:
    r"""Computes the proximal operator of $-\log\det X$.

    Eigenvalues $w$ become $(w + \sqrt{w^2 + 4 s}) / 2$, without cancellation where they
    are negative.

    **Arguments:**

    - `x`: symmetric; its symmetric part is taken. Half precision is computed in
        `float32`.
    - `step`: $s$, one for all or one for each matrix. Negative counts as zero, where
        this is [`jaxla.matfun.project_psd`][].

    **Returns:**

    A symmetric positive definite array in the dtype of `x`.

    **Cost:** one `eigh` and a $2 n^3$ product.

    **Differentiation:** once, in both modes, with respect to both arguments; right at
    repeated eigenvalues.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.prox_neg_log_det(jnp.diag(jnp.array([0.0, 3.0])), 4.0))
        [[2. 0.]
         [0. 4.]]
    """
    scalars, vector_map = {"step": step}, barrier_prox(LOG)
    name = "prox_neg_log_det"
    return map_spectrum(vector_map, name, x, scalars, symmetric=True, degree=2)[1]


def prox_trace_inverse(
    x: Float[ArrayLike, "*batch n n"], step: Real[ArrayLike, "*#batch"]
) -> Float[Array, "*batch n n"]:
    r"""Computes the proximal operator of $\mathrm{tr}(X^{-1})$, where $X \succ 0$.

    Eigenvalues $w$ become the positive root $y$ of $y^3 - w y^2 = s$.

    **Arguments:**

    - `x`: symmetric; its symmetric part is taken. Half precision is computed in
        `float32`.
    - `step`: $s$, one for all or one for each matrix. Negative counts as zero, where
        this is [`jaxla.matfun.project_psd`][].

    **Returns:**

    A symmetric positive definite array in the dtype of `x`.

    **Cost:** one `eigh`, six Newton steps for each eigenvalue and a $2 n^3$ product.

    **Differentiation:** once, in both modes, with respect to both arguments; right at
    repeated eigenvalues.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.prox_trace_inverse(jnp.diag(jnp.array([0.0, 1.0])), 4.0))
        [[1.5874 0.    ]
         [0.     2.    ]]
    """
    scalars, vector_map = {"step": step}, barrier_prox(INVERSE)
    name = "prox_trace_inverse"
    return map_spectrum(vector_map, name, x, scalars, symmetric=True, degree=3)[1]


def prox_entropy(
    x: Float[ArrayLike, "*batch n n"], step: Real[ArrayLike, "*#batch"]
) -> Float[Array, "*batch n n"]:
    r"""Computes the proximal operator of the negative von Neumann entropy.

    This is $\mathrm{tr}(X \log X)$ on positive semi-definite matrices. Eigenvalues $w$
    become the root $y$ of $y + s (\log y + 1) = w$.

    **Arguments:**

    - `x`: symmetric; its symmetric part is taken. Half precision is computed in
        `float32`.
    - `step`: $s$, one for all or one for each matrix. Negative counts as zero, where
        this is [`jaxla.matfun.project_psd`][].

    **Returns:**

    A symmetric positive semi-definite array in the dtype of `x`; eigenvalues far below
    zero become zero where $e^{w/s}$ underflows.

    **Cost:** one `eigh`, six Newton steps for each eigenvalue and a $2 n^3$ product.

    **Differentiation:** once, in both modes, with respect to both arguments; right at
    repeated eigenvalues.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.prox_entropy(jnp.diag(jnp.array([1.0, 2.0])), 1.0))
        [[0.5671 0.    ]
         [0.     1.    ]]
    """
    solve = lambda scalars, w: ((), (jnp.maximum(scalars[0], 0),))
    vector_map = VectorMap(solve, _entropy_entry, _entropy_divided)
    scalars, name = {"step": step}, "prox_entropy"
    return map_spectrum(vector_map, name, x, scalars, symmetric=True, degree=None)[1]


@jax.custom_jvp
def _entropy_entry(w: Array, step: Array) -> Array:
    return jnp.where(step > 0, _entropy_root(w, step)[0], nonnegative(w))


@_entropy_entry.defjvp
def _entropy_entry_jvp(primals, tangents):
    (w, step), (dw, dstep) = primals, tangents
    y, log_y = _entropy_root(w, step)
    dy = (y * dw - y * (log_y + 1) * dstep) / (y + jnp.where(step > 0, step, 1))
    out = jnp.where(step > 0, y, nonnegative(w))
    return out, jnp.where(step > 0, dy, jnp.where(w > 0, dw, 0))


def _entropy_root(w: Array, step: Array) -> tuple[Array, Array]:
    """The root and its logarithm."""
    s = jnp.where(step > 0, step, 1)
    log_s = jnp.log(s)
    c = (w - s) / s - log_s
    # For z = log(y / s): exp(z) + z = c. The left side is convex, and it is too large at
    # c, and at log c where that is above zero.
    z = jnp.where(c > 1, jnp.log(jnp.maximum(c, 1)), c)
    for _ in range(6):
        exp = jnp.exp(z)
        z = z - (exp + z - c) / (exp + 1)
    log_y = z + log_s
    return jnp.where(c > 1, w - s * (1 + log_y), jnp.exp(log_y)), log_y


def _entropy_divided(a: Array, b: Array, step: Array) -> Array:
    (y, log_y), (other, log_other) = _entropy_root(a, step), _entropy_root(b, step)
    gap = jnp.abs(log_y - log_other)
    # The divided differences of the exponential at the logarithms.
    mean = jnp.maximum(y, other) * jnp.where(
        gap == 0, 1, -jnp.expm1(-gap) / jnp.where(gap == 0, 1, gap)
    )
    smooth = mean / (mean + jnp.where(step > 0, step, 1))
    return jnp.where(step > 0, smooth, nonnegative_divided(a, b))

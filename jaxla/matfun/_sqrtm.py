r"""Square roots of symmetric positive semi-definite matrices.

The derivative of $S = A^{1/2}$ solves $S \,dS + dS\, S = dA$, a symmetric Lyapunov
equation, which is right at repeated eigenvalues and to every order.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from jaxla._dtypes import (
    compute_dtype,
    finiteness_and_unit,
    matmul,
    next_power_of_two,
)
from jaxla._errors import as_square_matrix, check_choice
from jaxla.factor import eigh

from ._certified import norm_ratio
from ._lyapunov import symmetric_lyapunov
from ._roots import inverse_pth_root, MatrixRoot


METHODS = ("auto", "eigh", "minimax")


def sqrtm(matrix: Float[ArrayLike, "*batch n n"], *, method: str = "auto") -> MatrixRoot:
    r"""Computes the square root of symmetric positive semi-definite matrices.

    **Arguments:**

    - `matrix`: symmetric positive semi-definite; its symmetric part is taken. Half
        precision is computed in `float32`.
    - `method`: (Static.)
        - `"eigh"`: by eigendecomposition. Negative eigenvalues count as zero.
        - `"minimax"`: from products alone, as $A \cdot A^{-1/2}$ by
            [`jaxla.matfun.inverse_pth_root`][]. Eigenvalues below `1e-6` of the
            largest (`1e-12` in `float64`) get a root that is too small.
        - `"auto"`: `"eigh"` on CPU, `"minimax"` on GPU and TPU, where products are
            much faster than eigendecompositions.

    **Returns:**

    [`jaxla.matfun.MatrixRoot`][]: the root $S$ in the dtype of `matrix`, and the residual
    $\|S^2 - A\|_F / \|A\|_F$, which shows negative eigenvalues, too. The root of zero is
    zero.

    **Cost:** one `eigh` and a $2 n^3$ product, or 35 products; one product for the
    residual, if it is used.

    **Differentiation:** both modes and every order, right at repeated eigenvalues. At
    a singular matrix, where the square root has no derivative, the part that belongs to
    its kernel is zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> root, residual = jaxla.matfun.sqrtm(jnp.array([[5.0, 4.0], [4.0, 5.0]]))
        >>> print(root.round(3))
        [[2. 1.]
         [1. 2.]]

    ??? cite "Reference"

        Higham, *Functions of Matrices*, SIAM 2008, Chapter 6.
    """
    matrix = as_square_matrix("matrix", matrix)
    check_choice("method", method, METHODS)
    a, unit, usable = scaled_symmetric(matrix)
    s = _solver(method)(a)
    # Of the matrix as it is given, so that it shows where that is not symmetric.
    given = jax.lax.stop_gradient(jnp.where(usable, matrix.astype(a.dtype), 0) / unit)
    residual = norm_ratio(jax.lax.stop_gradient(matmul(s, s)) - given, given)
    root = jnp.where(usable, s * jnp.sqrt(unit), 0)
    residual = jnp.where(usable[..., 0, 0], residual, jnp.inf)
    return MatrixRoot(root.astype(matrix.dtype), residual)


def inverse_sqrtm(
    matrix: Float[ArrayLike, "*batch n n"],
    *,
    method: str = "auto",
    damping: ScalarLike = 0.0,
) -> MatrixRoot:
    r"""Computes $(A + \varepsilon I)^{-1/2}$ of symmetric positive definite matrices.

    It is [`jaxla.matfun.inverse_pth_root`][] for $p = 2$, by default without damping
    and by the faster method: for whitening, where that function's default is for
    statistics that may be singular.

    **Arguments:**

    - `matrix`: symmetric positive definite. Half precision is computed in `float32`.
    - `method`, `damping`: as of that function.

    **Returns:**

    [`jaxla.matfun.MatrixRoot`][], with the residual $\|X^2 A - I\|_F$. A singular matrix
    has a large one.

    **Cost**, **Differentiation:** as of that function.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.inverse_sqrtm(jnp.diag(jnp.array([4.0, 16.0]))).root)
        [[0.5  0.  ]
         [0.   0.25]]
    """
    return inverse_pth_root(matrix, 2, method=method, damping=damping)


def scaled_symmetric(matrix: Array) -> tuple[Array, Array, Array]:
    """The symmetric part over an even power of two near its size, that power, and
    whether all is finite; zero where it is not."""
    a = matrix.astype(compute_dtype(matrix.dtype))
    usable, unit = finiteness_and_unit(a)
    # A square, so that its root is a power of two as well.
    root = next_power_of_two(jnp.sqrt(unit))
    a = jnp.where(usable, a, 0) / root / root
    return (a + a.mT) / 2, root * root, usable


def _solver(method: str):
    if method == "auto":
        return lambda a: jax.lax.platform_dependent(a, cpu=_by_eigh, default=_by_products)
    return _by_eigh if method == "eigh" else _by_products


@jax.custom_jvp
def _by_eigh(a: Array) -> Array:
    w, v = eigh(jax.lax.stop_gradient(a))
    return matmul(v * jnp.sqrt(jnp.maximum(w, 0))[..., None, :], v.mT)


@_by_eigh.defjvp
def _by_eigh_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    s = _by_eigh(a)
    return s, symmetric_lyapunov(s, da)


def _by_products(a: Array) -> Array:
    s = matmul(a, inverse_pth_root(a, 2, damping=0.0).root)
    return (s + s.mT) / 2

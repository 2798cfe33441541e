r"""Inverse $p$-th roots of positive definite matrices, from products alone.

The coupled iteration (Iannazzo 2006; Guo and Higham 2006) keeps
$X_k \to A^{-1/p}$ and $M_k = X_k^p A \to I$ side by side:

$$X_{k+1} = X_k T_k, \quad M_{k+1} = T_k^p M_k, \quad T_k = t_k(M_k).$$

Newton's method takes $t(m) = ((p + 1) - m)/p$ in every step. Here $t_k$ is
the quadratic that is best for the interval in which the eigenvalues of $M_k$
lie (`_minimax.py`), which needs less than half as many products.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from jaxla._dtypes import compute_dtype, matmul, next_power_of_two, safe_sqrt
from jaxla._errors import as_square_matrix, check_int

from ._bounds import bound_of_scaled
from ._minimax import Coefficients, inverse_root_coefficients


class InverseRoot(NamedTuple):
    r"""An inverse root, and what speaks for it.

    - `root`: $A^{-1/p}$; zero where `residual` is infinite.
    - `residual`: $\|M - I\|_F$ of the last step, which is about
        $p$ times the relative error that the iteration itself leaves. Infinite
        for a matrix with a non-finite entry, for a zero matrix, and where the
        iteration diverged. Accept a root by `residual <= 1e-2`, say: a NaN
        never passes such a test.
    """

    root: Float[Array, "*batch n n"]
    residual: Float[Array, "*batch"]


def inverse_pth_root(
    matrix: Float[ArrayLike, "*batch n n"],
    p: int,
    *,
    damping: ScalarLike = 1e-6,
    floor: float | None = None,
) -> InverseRoot:
    r"""Computes $(A + \varepsilon I)^{-1/p}$ by a coupled iteration of matrix products.

    $\varepsilon$ is `damping` times [`jaxla.matfun.eigenvalue_bound`][] of $A$.
    There is no factorization in it: a batch costs one batched product after
    the other, on CPU, GPU and TPU alike, and the number of steps is fixed.

    **Arguments:**

    - `matrix`: symmetric positive semi-definite. Half-precision input is computed
        in `float32`.
    - `p`: an integer between 1 and 8. (Static.)
    - `damping`: relative damping. Below `1e-6` in `float32` the smallest
        eigenvalues drown in rounding errors. May be traced.
    - `floor`: the smallest eigenvalue, relative to the bound and after damping,
        that the number of steps is chosen for. Smaller eigenvalues are treated as
        if damped further, and show in the residual. Defaults to `1e-6`, in `float64`
        to `1e-12`; or to what `damping` makes sure of, if that is a Python number
        and larger. (Static.)

    **Returns:**

    [`jaxla.matfun.InverseRoot`][]: the root in the dtype of `matrix`, symmetric up
    to rounding errors, and a residual for each matrix by which a caller can refuse
    it. One bad matrix of a batch does not touch the others.

    **Cost:** [`jaxla.matfun.num_products`][] products of $2 n^3$ flops, 37 for
    $p = 4$ in `float32`.

    **Accuracy:** in `float32` with damping `1e-6`, the relative Frobenius error
    at condition 1e6 is 5e-4 for $p = 4$, where the eigendecomposition has
    1e-2: see `benchmarks/results/roots.md`.

    **Differentiation:** both modes and every order, through the products;
    finite and right at repeated eigenvalues.

    !!! example

        >>> import jax.numpy as jnp
        >>> root, residual = jaxla.matfun.inverse_pth_root(
        ...     jnp.diag(jnp.array([16.0, 81.0])), 4)
        >>> print(root.round(3))
        [[0.5   0.   ]
         [0.    0.333]]
        >>> bool(residual < 1e-4)
        True

    ??? cite "Reference"

        Iannazzo, *On the Newton method for the matrix pth root*, SIAM J. Matrix
        Anal. Appl. 2006; Amsel et al., *The Polar Express*, 2025, for composed
        minimax polynomials.
    """
    matrix = as_square_matrix("matrix", matrix)
    dtype = compute_dtype(matrix.dtype)
    if floor is None and isinstance(damping, (int, float)) and damping > 0:
        floor = max(_default_floor(dtype), min(damping / (1 + damping), 0.5))
    rows = _coefficients(p, floor, dtype)

    def eye():
        return jnp.eye(matrix.shape[-1], dtype=dtype)

    # A maximum is compiled in no time; `isfinite(...).all()` is a loop of its own.
    largest = jnp.abs(matrix).max((-2, -1), keepdims=True, initial=0).astype(dtype)
    usable = (largest > 0) & (largest < jnp.inf)  # zero for a zero matrix
    unit = next_power_of_two(jnp.where(usable, largest, 1))
    a = jnp.where(usable, matrix, 0).astype(dtype) / unit
    bound = bound_of_scaled(a)[..., None, None]
    shift = jnp.where(usable, jnp.asarray(damping).astype(dtype) * bound, 1)
    scale = next_power_of_two(jnp.where(usable, bound, 0) + shift)

    def stage(carry, c):
        x, m = carry
        t = c[0] * eye() + c[1] * m + c[2] * matmul(m, m)
        return (matmul(x, t), _power_times(t, p, m)), None

    start = (jnp.broadcast_to(eye(), a.shape), (a + shift * eye()) / scale)
    (x, m), _ = jax.lax.scan(stage, start, jnp.array(rows, dtype))
    residual, norm = _frobenius(m - eye()), _frobenius(x)
    rescale = unit ** (-1 / p) * scale ** (-1 / p)  # their product may overflow
    # A finite norm: no entry has overflown, nor will it when it is rescaled.
    usable, by = usable[..., 0, 0], rescale[..., 0, 0]
    good = usable & jnp.isfinite(residual) & jnp.isfinite(norm * by)
    root = jnp.where(good[..., None, None], x * rescale, 0)
    return InverseRoot(root.astype(matrix.dtype), jnp.where(good, residual, jnp.inf))


def num_products(p: int, *, floor: float | None = None) -> int:
    """The number of matrix products in [`jaxla.matfun.inverse_pth_root`][] in `float32`.

    **Arguments:**

    - `p`, `floor`: as of that function.

    **Returns:**

    The number of products, for cost estimates.

    !!! example

        >>> jaxla.matfun.num_products(4)
        37
    """
    stages = len(_coefficients(p, floor, jnp.float32))
    # m², x t, and t^p m by repeated squaring; two for the bound.
    return stages * (2 + p.bit_length() - 1 + p.bit_count()) + 2


def _coefficients(p: int, floor: float | None, dtype: DTypeLike) -> Coefficients:
    check_int("p", p, low=1, high=8)
    if floor is None:
        floor = _default_floor(dtype)
    if not 0 < floor < 1:
        raise ValueError(f"`floor` must lie between 0 and 1; got {floor}.")
    # The scale is at most twice the bound.
    error = 2e-7 if dtype == jnp.float32 else 1e-14
    return inverse_root_coefficients(p, floor / 2, error)[0]


def _default_floor(dtype: DTypeLike) -> float:
    return 1e-6 if dtype == jnp.float32 else 1e-12


def _power_times(t: Array, p: int, m: Array) -> Array:
    """`t^p @ m` by repeated squaring."""
    while p:
        if p % 2:
            m = matmul(t, m)
        p //= 2
        if p:
            t = matmul(t, t)
    return m


def _frobenius(x: Array) -> Array:
    return safe_sqrt(jnp.sum(x * x, axis=(-2, -1)))

r"""Inverse $p$-th roots of positive definite matrices, with a certificate.

By default by a coupled iteration of products (`_coupled.py`) with minimax
polynomials (`_minimax.py`), which takes less than half as many products as Newton's
method and, in `float32`, is more accurate than an eigendecomposition.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from jaxla._dtypes import compute_dtype, next_power_of_two
from jaxla._errors import as_square_matrix, check_choice, check_int

from ._bounds import bound_of_scaled
from ._certified import flat_where_not_finite, frobenius
from ._coupled import coupled_iteration, minimax_rows, newton_rows, power_times
from ._eigh_root import eigh_root
from ._minimax import Coefficients


METHODS = ("minimax", "newton", "eigh", "auto")
# On CPU `eigh` is faster for larger matrices, or if there are more of them than these
# entries, which fit a cache (benchmarks/roots.py).
LARGEST_FOR_PRODUCTS_ON_CPU = 64
MANY_ENTRIES, LARGEST_OF_MANY = 2**18, 32


class MatrixRoot(NamedTuple):
    r"""A root of a matrix, and what speaks for it.

    - `root`: zero where `residual` is infinite.
    - `residual`: how far the root is from one, as its function says. Infinite for a
        matrix with a non-finite entry and for one that has no root. Accept a root
        by `residual <= 1e-2`, say: a NaN never passes such a test.
    """

    root: Float[Array, "*batch n n"]
    residual: Float[Array, "*batch"]


def inverse_pth_root(
    matrix: Float[ArrayLike, "*batch n n"],
    p: int,
    *,
    method: str = "minimax",
    damping: ScalarLike = 1e-6,
    floor: float | None = None,
) -> MatrixRoot:
    r"""Computes $(A + \varepsilon I)^{-1/p}$ of positive semi-definite matrices.

    $\varepsilon$ is `damping` times [`jaxla.matfun.eigenvalue_bound`][] of $A$. By
    default there is no factorization in it: a batch costs one batched product after
    the other, on CPU, GPU and TPU alike, and the number of steps is fixed.

    **Arguments:**

    - `matrix`: symmetric positive semi-definite. Half-precision input is computed
        in `float32`.
    - `p`: an integer between 1 and 8. (Static.)
    - `method`: (Static.)
        - `"minimax"`: the coupled iteration with the best polynomial in each step;
        - `"newton"`: the coupled iteration of Newton's method, for comparison;
        - `"eigh"`: the eigendecomposition, on CPU faster for matrices larger than 64,
            and in `float32` about 20 times less accurate at condition 1e4 and more;
        - `"auto"`: `"eigh"` on CPU for matrices larger than 64, or 32 if the batch is
            large, else `"minimax"`.
    - `damping`: relative damping. Below `1e-6` in `float32` the smallest
        eigenvalues drown in rounding errors. May be traced.
    - `floor`: the smallest eigenvalue, relative to the bound and after damping,
        that the number of steps is chosen for. Smaller eigenvalues are treated as
        if damped further, and show in the residual. Defaults to `1e-6`, in `float64`
        to `1e-12`; or to what `damping` makes sure of, if that is a Python number
        and larger. (Static.)

    **Returns:**

    [`jaxla.matfun.MatrixRoot`][]: the root $X$ in the dtype of `matrix`, symmetric up
    to rounding errors, and the residual $\|X^p A - I\|_F$, which is about $p$ times the
    relative error that the method leaves; the iterations keep $X^p A$ beside $X$ and
    know it without the rounding errors of a product. One bad matrix of a batch
    does not touch the others.

    **Cost:** [`jaxla.matfun.num_products`][] products of $2 n^3$ flops, 37 for
    $p = 4$ in `float32`.

    **Accuracy:** in `float32` with damping `1e-6`, the relative Frobenius error
    at condition 1e6 is 6e-4 for $p = 4$, where the eigendecomposition has
    1.4e-2: see `benchmarks/results/roots.md`.

    **Differentiation:** both modes and every order; finite and right at repeated
    eigenvalues. Through the products, or with `"eigh"` by the equation that
    the root solves. A first derivative is as accurate as the root; a second has four
    digits or more with `"minimax"`, whose error is small at every eigenvalue but not
    flat, and all of them with `"newton"` and `"eigh"`.

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
    check_choice("method", method, METHODS)
    dtype = compute_dtype(matrix.dtype)
    if floor is None and isinstance(damping, (int, float)) and damping > 0:
        floor = max(_default_floor(dtype), min(damping / (1 + damping), 0.5))
    solver = _solver(method, p, matrix.shape, floor, dtype)

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

    x, m = flat_where_not_finite(solver)((a + shift * eye()) / scale)
    residual, norm = frobenius(m - eye()), frobenius(x)
    rescale = unit ** (-1 / p) * scale ** (-1 / p)  # their product may overflow
    # A finite norm: no entry has overflown, nor will it when it is rescaled.
    usable, by = usable[..., 0, 0], rescale[..., 0, 0]
    good = usable & jnp.isfinite(residual) & jnp.isfinite(norm * by)
    root = jnp.where(good[..., None, None], x * rescale, 0)
    return MatrixRoot(root.astype(matrix.dtype), jnp.where(good, residual, jnp.inf))


def num_products(p: int, *, method: str = "minimax", floor: float | None = None) -> int:
    """The number of matrix products in [`jaxla.matfun.inverse_pth_root`][] in `float32`.

    **Arguments:**

    - `p`, `floor`: as of that function.
    - `method`: `"minimax"` or `"newton"`.

    **Returns:**

    The number of products, for cost estimates.

    !!! example

        >>> jaxla.matfun.num_products(4)
        37
    """
    check_choice("method", method, ("minimax", "newton"))
    rows = _coefficients(method, p, floor, jnp.float32)
    # m² of a quadratic, x t, and t^p m by repeated squaring; two for the bound.
    return len(rows) * (len(rows[0]) - 1 + p.bit_length() - 1 + p.bit_count()) + 2


def _solver(
    method: str, p: int, shape: tuple[int, ...], floor: float | None, dtype: DTypeLike
):
    """From a matrix with eigenvalues in (0, 1] to its root $X$ and $X^p A$."""
    rows = _coefficients("newton" if method == "newton" else "minimax", p, floor, dtype)

    def by_products(m):
        return coupled_iteration(m, p, rows)

    def by_eigh(m):
        x = eigh_root(m, p)
        return x, power_times(x, p, m)

    many = math.prod(shape) > MANY_ENTRIES
    largest = LARGEST_OF_MANY if many else LARGEST_FOR_PRODUCTS_ON_CPU
    if method == "auto" and shape[-1] > largest:
        return lambda m: jax.lax.platform_dependent(m, cpu=by_eigh, default=by_products)
    return by_eigh if method == "eigh" else by_products


def _coefficients(
    method: str, p: int, floor: float | None, dtype: DTypeLike
) -> Coefficients:
    check_int("p", p, low=1, high=8)
    if floor is None:
        floor = _default_floor(dtype)
    if not 0 < floor < 1:
        raise ValueError(f"`floor` must lie between 0 and 1; got {floor}.")
    error = 2e-7 if dtype == jnp.float32 else 1e-14
    rows = newton_rows if method == "newton" else minimax_rows
    # The scale is at most twice the bound.
    return rows(p, floor / 2, error)


def _default_floor(dtype: DTypeLike) -> float:
    return 1e-6 if dtype == jnp.float32 else 1e-12

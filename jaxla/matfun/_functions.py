r"""Functions of symmetric matrices, $f(A) = V \mathrm{diag}(f(w)) V^\top$.

The derivative is the Daleckii-Krein formula
$L(A, E) = V (K \circ (V^\top E V)) V^\top$ with the divided differences
$K_{ij} = f[w_i, w_j] = (f(w_i) - f(w_j))/(w_i - w_j)$, which tend to $f'$ where the
eigenvalues meet. They are also the mean of $f'$ between $w_i$ and $w_j$, which
is how they are computed where the quotient would cancel.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, matmul
from jaxla._errors import as_square_matrix, refuse_derivative
from jaxla.factor import eigh


ScalarFunction = Callable[[Array], Array]
DividedDifference = Callable[[Array, Array], Array]


def symmetric_function(
    matrix: Float[ArrayLike, "*batch n n"],
    function: ScalarFunction,
    *,
    divided_difference: DividedDifference | None = None,
) -> Float[Array, "*batch n n"]:
    r"""Applies a function to the eigenvalues of a symmetric matrix.

    **Arguments:**

    - `matrix`: real and symmetric; its symmetric part is taken. Half precision is
        computed in `float32`.
    - `function`: from an array of eigenvalues to an array of the same shape, entry by
        entry, such as `jnp.tanh`. It must not close over traced values that you
        want to differentiate. (Static.)
    - `divided_difference`: $f[x, y]$ as a function of two arrays, right at
        $x = y$ too; if you have it without cancellation, the derivative is exact.
        Found from `function` and its derivative by default. (Static.)

    **Returns:**

    A symmetric array with the shape and dtype of `matrix`. Where `function` is not
    finite, neither is the result. A matrix with a non-finite entry gives NaN in all
    of its entries, and touches no other of its batch.

    **Cost:** one `eigh` and a $2 n^3$ product; four more for a derivative.

    **Differentiation:** once, in both modes, right at repeated eigenvalues. Where
    `function` has a kink at zero (`jnp.abs`, `jax.nn.relu`), each side is treated as
    smooth. A second derivative raises `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> matrix = jnp.diag(jnp.array([0.0, 1.0]))
        >>> print(jaxla.matfun.symmetric_function(matrix, jnp.exp))
        [[1.        0.       ]
         [0.        2.7182817]]

    ??? cite "Reference"

        Higham, *Functions of Matrices*, SIAM 2008, Theorem 3.11 (Daleckii and Krein).
    """
    matrix = as_square_matrix("matrix", matrix)
    if not callable(function):
        raise TypeError(f"`function` must be callable; got {function!r}.")
    if divided_difference is None:
        divided_difference = functools.partial(mean_slope, function)
    a = matrix.astype(compute_dtype(matrix.dtype))
    a = (a + a.mT) / 2
    return _apply(function, divided_difference, a).astype(matrix.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _apply(function: ScalarFunction, divided_difference: DividedDifference, a: Array):
    w, v = eigh(jax.lax.stop_gradient(a))
    return matmul(v * function(w)[..., None, :], v.mT)


@_apply.defjvp
def _apply_jvp(function, divided_difference, primals, tangents):
    (a,), (da,) = primals, tangents
    w, v = refuse_derivative(lambda a: tuple(eigh(a)), _ONCE)(a)
    kernel = divided_difference(w[..., :, None], w[..., None, :])
    inner = kernel * matmul(v.mT, matmul(da, v))
    value = matmul(v * function(w)[..., None, :], v.mT)
    return value, matmul(v, matmul(inner, v.mT))


_ONCE = (
    "Functions of symmetric matrices can be differentiated once only; for higher "
    "derivatives use `jaxla.matfun.sqrtm`, `jaxla.matfun.inverse_pth_root` or "
    "`jax.scipy.linalg.expm`."
)


def mean_slope(function: ScalarFunction, x: Array, y: Array) -> Array:
    """The divided difference of `function`: the mean of its slope between x and y."""
    x, y = jnp.broadcast_arrays(x, y)
    fx, fy = function(x), function(y)
    larger = jnp.maximum(jnp.abs(x), jnp.abs(y))
    # Near each other, and on one side of zero: no kink of |x| lies between.
    near = jnp.abs(x - y) <= larger / 4
    cancels = jnp.abs(fx - fy) <= 0.1 * jnp.maximum(jnp.abs(fx), jnp.abs(fy))
    slope = lambda z: jax.jvp(function, (z,), (jnp.ones_like(z),))[1]
    nodes, weights = np.polynomial.legendre.leggauss(8)
    mean = sum(
        weight / 2 * slope((x + y) / 2 + node / 2 * (x - y))
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)
    )
    quotient = (fx - fy) / jnp.where(x == y, 1, x - y)
    return jnp.where((x == y) | (near & cancels), mean, quotient)

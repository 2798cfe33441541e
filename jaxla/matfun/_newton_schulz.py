r"""Orthogonalization by Newton-Schulz iterations, with coefficients as data.

$X_{k+1} = X_k (a_k I + b_k G_k + c_k G_k^2 + \dots)$ with $G_k = X_k^\top X_k$
drives every singular value to 1 and leaves the singular vectors alone. One row of
coefficients a step.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, matmul
from jaxla._errors import as_real_matrix, check_int

from ._bounds import bound_of_square
from ._minimax import Coefficients, minimax_stage


def orthogonalize(
    matrix: Float[ArrayLike, "*batch m n"], *, coefficients: Coefficients | None = None
) -> Float[Array, "*batch m n"]:
    r"""Drives all singular values of a matrix towards 1, from products alone.

    With $A = U \Sigma V^\top$ this approximates $U V^\top$, the nearest matrix
    with orthonormal columns (or rows).

    **Arguments:**

    - `matrix`: real, of any shape. Half-precision input is computed in `float32`.
    - `coefficients`: a tuple of rows $(a, b, c, \dots)$, one a step, of the odd
        polynomial $a x + b x^3 + c x^5 + \dots$ that acts on the singular
        values. Defaults to `polar_express(8)`, which serves singular values down
        to 1e-3 of the bound of the largest. Others: `newton_schulz(steps)` (classic) and
        `quintic(steps)` (of Muon).

    **Returns:**

    An array of the shape and dtype of `matrix`. A zero matrix gives zero; a
    matrix with a non-finite entry gives NaN and touches no other of its batch.

    **Cost:** for a degree-5 step on an $m \times n$ matrix, $m \ge n$:
    $4 m n^2 + 2 n^3$ flops.

    **Differentiation:** both modes and every order, through the products.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.orthogonalize(jnp.diag(jnp.array([9.0, 0.5]))).round(3))
        [[1. 0.]
         [0. 1.]]

    ??? cite "Reference"

        Bernstein and Newhouse, *Old Optimizer, New Norm*, 2024; Amsel, Persson,
        Musco and Gower, *The Polar Express*, 2025.
    """
    matrix = as_real_matrix("matrix", matrix)
    if coefficients is None:
        coefficients = polar_express(8)
    x = matrix.astype(compute_dtype(matrix.dtype))
    wide = x.shape[-2] < x.shape[-1]
    x = x.mT if wide else x
    # Singular values are at most 1: entries of order 1 first, so that the Gram
    # matrix neither over- nor underflows, then the bound of its eigenvalues.
    x = x / _nonzero(jnp.abs(x).max((-2, -1), initial=0))
    gram = matmul(x.mT, x)
    square = matmul(gram, gram)
    bound = _nonzero(bound_of_square(square))
    x, gram, square = x / jnp.sqrt(bound), gram / bound, square / bound**2
    for step, row in enumerate(coefficients):
        if step:
            gram, square = matmul(x.mT, x), None
        x = row[0] * x + _times_polynomial(x, row[1:], gram, square)
    return (x.mT if wide else x).astype(matrix.dtype)


def newton_schulz(steps: int) -> Coefficients:
    r"""The classic coefficients, $x \mapsto \frac32 x - \frac12 x^3$.

    **Arguments:**

    - `steps`: the number of steps; about 20 for singular values down to 1e-3.

    **Returns:** `steps` rows for [`jaxla.matfun.orthogonalize`][].

    !!! example

        >>> jaxla.matfun.newton_schulz(1)
        ((1.5, -0.5),)

    ??? cite "Reference"

        Higham, *Functions of Matrices*, SIAM 2008, Section 8.3.
    """
    check_int("steps", steps, low=1)
    return ((1.5, -0.5),) * steps


def quintic(steps: int = 5) -> Coefficients:
    """The coefficients of Muon, fast at first and never quite 1.

    Singular values end between about 0.7 and 1.2, which is what Muon does by
    design: more steps do not make them more equal.

    **Arguments:**

    - `steps`: the number of steps, 5 in Muon.

    **Returns:** `steps` rows for [`jaxla.matfun.orthogonalize`][].

    !!! example

        >>> jaxla.matfun.quintic(1)
        ((3.4445, -4.775, 2.0315),)

    ??? cite "Reference"

        Jordan et al., *Muon: an optimizer for hidden layers*, 2024.
    """
    check_int("steps", steps, low=1)
    return ((3.4445, -4.7750, 2.0315),) * steps


@functools.cache
def polar_express(
    steps: int = 8, *, floor: float = 1e-3, cushion: float = 0.024, safety: float = 1.01
) -> Coefficients:
    r"""The coefficients of Polar Express: in each step the best odd quintic.

    Step $k$ minimises $\max |1 - x\,t(x^2)|$ over the interval in which the
    singular values lie by then.

    **Arguments:**

    - `steps`: the number of steps.
    - `floor`: the smallest singular value to serve, relative to the largest.
    - `cushion`: the interval's lower end is taken to be at least this part of
        its upper end, which keeps the polynomial from being steep.
    - `safety`: all steps but the last are made for singular values larger by this
        factor, so that rounding errors in low precision do not diverge.

    **Returns:** `steps` rows for [`jaxla.matfun.orthogonalize`][].

    !!! example

        >>> [round(c, 2) for c in jaxla.matfun.polar_express(8)[0]]
        [8.21, -22.91, 16.46]

    ??? cite "Reference"

        Amsel, Persson, Musco and Gower, *The Polar Express*, 2025, Algorithm 1.
    """
    check_int("steps", steps, low=1)
    low, high, rows = floor, 1.0, []
    for step in range(steps):
        # x = sqrt(m): an odd quintic in x is sqrt(m) times a quadratic in m.
        coefficients, _ = minimax_stage(max(low, cushion * high) ** 2, high**2, 2, 2)
        # Where the interval was cushioned, the true one is not mapped to a
        # neighbourhood centred on 1: centre it.
        centre = 2 / (_odd(coefficients, low) + _odd(coefficients, high))
        a, b, c = (centre * coefficient for coefficient in coefficients)
        low = _odd((a, b, c), low)
        high = 2 - low
        if step < steps - 1:
            a, b, c = a / safety, b / safety**3, c / safety**5
        rows.append((a, b, c))
    return tuple(rows)


def _odd(coefficients: tuple[float, ...], x: float) -> float:
    return sum(c * x ** (2 * k + 1) for k, c in enumerate(coefficients))


def _times_polynomial(
    x: Array, row: tuple[float, ...], gram: Array, square: Array | None
) -> Array | float:
    """`x (b g + c g^2 + ...)` by Horner's rule, with what is known of the powers."""
    if not row:
        return 0.0
    *others, last = row
    poly = last * gram
    if others and square is not None:
        poly = others.pop() * gram + last * square
    for c in reversed(others):
        poly = c * gram + matmul(gram, poly)
    return matmul(x, poly)


def _nonzero(scale: Array) -> Array:
    """`scale`, or 1 where it is zero, to divide matrices by."""
    return jnp.where(scale == 0, 1, scale)[..., None, None]

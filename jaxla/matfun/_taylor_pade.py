r"""Fast differentiable matrix square roots by Taylor and Padé polynomials.

With $s = \|A\|_F$ and $Z = I - A/s$ the square root is $\sqrt{s}\,(I - Z)^{1/2}$, whose
power series (MTP) or Padé approximant (MPA) in $Z$ is evaluated; the derivative solves
the Lyapunov equation by the Newton-Schulz iteration for the matrix sign (Song, Sebe
and Wang, 2022). All of it are products, and one linear solve for MPA.

As accurate as the paper's: for condition numbers beyond 10 see the table in
`benchmarks/results/square_roots.md`, and [`jaxla.matfun.sqrtm`][] for full accuracy.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import matmul
from jaxla._errors import as_square_matrix, check_int

from ._certified import norm_ratio
from ._roots import MatrixRoot
from ._sqrtm import scaled_symmetric


def taylor_sqrtm(
    matrix: Float[ArrayLike, "*batch n n"],
    *,
    inverse: bool = False,
    degree: int = 10,
    backward_steps: int = 8,
) -> MatrixRoot:
    r"""Approximates the square root, or its inverse, by a matrix Taylor polynomial (MTP).

    **Arguments:**

    - `matrix`: symmetric positive definite, and well conditioned. Half precision is
        computed in `float32`.
    - `inverse`: whether to return $A^{-1/2}$ in place of $A^{1/2}$. (Static.)
    - `degree`: of the polynomial. (Static.)
    - `backward_steps`: Newton-Schulz steps for a derivative. (Static.)

    **Returns:**

    [`jaxla.matfun.MatrixRoot`][]: the root $S$ with the residual
    $\|S^2 - A\|_F / \|A\|_F$, or the inverse root $X$ with $\|X^2 A - I\|_F / \sqrt{n}$.

    **Cost:** `degree - 1` products of $2 n^3$ flops; six for each step of a derivative.

    **Accuracy:** the paper's: the relative error at condition 10 is 9e-2, and
    derivatives are as wrong as the Newton-Schulz iteration has not converged.

    **Differentiation:** both modes and every order.

    !!! example

        >>> import jax.numpy as jnp
        >>> matrix = jnp.diag(jnp.array([1.0, 4.0]))
        >>> print(jaxla.matfun.taylor_sqrtm(matrix).root.round(2))
        [[1. 0.]
         [0. 2.]]

    ??? cite "Reference"

        Song, Sebe and Wang, *Fast Differentiable Matrix Square Root*, ICLR 2022, and
        *Fast Differentiable Matrix Square Root and Inverse Square Root*, TPAMI 2022.
    """
    check_int("degree", degree, low=1)
    coefficients = _binomial_series(-0.5 if inverse else 0.5, degree)
    return _root(
        matrix, lambda z: _polynomials(z, coefficients)[0], inverse, backward_steps
    )


def pade_sqrtm(
    matrix: Float[ArrayLike, "*batch n n"],
    *,
    inverse: bool = False,
    degree: int = 5,
    backward_steps: int = 8,
) -> MatrixRoot:
    r"""Approximates the square root, or its inverse, by a matrix Padé approximant (MPA).

    **Arguments:**

    - `matrix`: symmetric positive definite, and well conditioned. Half precision is
        computed in `float32`.
    - `inverse`: whether to return $A^{-1/2}$ in place of $A^{1/2}$. (Static.)
    - `degree`: of numerator and denominator. (Static.)
    - `backward_steps`: Newton-Schulz steps for a derivative. (Static.)

    **Returns:**

    As [`jaxla.matfun.taylor_sqrtm`][].

    **Cost:** `degree - 1` products of $2 n^3$ flops and one linear solve; six products
    for each step of a derivative.

    **Accuracy:** the paper's: the relative error at condition 10 is 1e-2 (2.5e-2 for the
    inverse), at condition 100 already 6e-2 (3e-1).

    **Differentiation:** both modes and every order.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.pade_sqrtm(jnp.diag(jnp.array([1.0, 4.0]))).root.round(3))
        [[1. 0.]
         [0. 2.]]

    ??? cite "Reference"

        Song, Sebe and Wang, *Fast Differentiable Matrix Square Root*, ICLR 2022.
    """
    check_int("degree", degree, low=1)
    above, below = _pade_coefficients(degree)
    if inverse:
        above, below = below, above

    def approximant(z: Array) -> Array:
        numerator, denominator = _polynomials(z, above, below)
        # Polynomials in z commute, and the quotient is symmetric.
        quotient = jnp.linalg.solve(denominator, numerator)
        return (quotient + quotient.mT) / 2

    return _root(matrix, approximant, inverse, backward_steps)


def _root(matrix, approximant, inverse: bool, backward_steps: int) -> MatrixRoot:
    matrix = as_square_matrix("matrix", matrix)
    check_int("backward_steps", backward_steps, low=1)
    a, unit, usable = scaled_symmetric(matrix)
    x = _differentiable(approximant, inverse, backward_steps, a)
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    goal = eye if inverse else a
    square = matmul(matmul(x, x), a) if inverse else matmul(x, x)
    rest, goal = jax.lax.stop_gradient((square - goal, goal))
    residual = norm_ratio(rest, jnp.broadcast_to(goal, rest.shape))
    usable &= jnp.any(a != 0, (-2, -1), keepdims=True) if inverse else True
    root = jnp.where(usable, x / jnp.sqrt(unit) if inverse else x * jnp.sqrt(unit), 0)
    residual = jnp.where(usable[..., 0, 0], residual, jnp.inf)
    return MatrixRoot(root.astype(matrix.dtype), residual)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _differentiable(approximant, inverse: bool, steps: int, a: Array) -> Array:
    s = jnp.sqrt(jnp.sum(a * a, (-2, -1), keepdims=True))
    s = jnp.where(s == 0, 1, s)
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    root = approximant(eye - a / s)
    root = root / jnp.sqrt(s) if inverse else root * jnp.sqrt(s)
    zero = jnp.all(a == 0, (-2, -1), keepdims=True)
    return jnp.where(zero, 0, root)


@_differentiable.defjvp
def _differentiable_jvp(approximant, inverse, steps, primals, tangents):
    (a,), (da,) = primals, tangents
    x = _differentiable(approximant, inverse, steps, a)
    if inverse:  # X² = A⁻¹
        square = matmul(x, x)
        da = -matmul(square, matmul(da, square))
    return x, lyapunov_by_sign(x, da, steps)


def lyapunov_by_sign(x: Array, r: Array, steps: int) -> Array:
    """`y` of `x y + y x = r`, from the sign of the block matrix `[[x, r], [0, -x]]`."""

    def solve(_, r):
        b = jax.lax.stop_gradient(x)
        norm = jnp.sqrt(jnp.sum(b * b, (-2, -1), keepdims=True))
        norm = jnp.where(norm == 0, 1, norm)
        eye = jnp.eye(b.shape[-1], dtype=b.dtype)

        def step(carry, _):
            b, c = carry
            square = matmul(b, b)
            twice = matmul(c, 3 * eye - square) - matmul(square, c)
            c = (twice + matmul(b, matmul(c, b))) / 2
            return (matmul(b, 3 * eye - square) / 2, c), None

        (_, c), _ = jax.lax.scan(step, (b / norm, r / norm), length=steps)
        return c / 2

    return jax.lax.custom_linear_solve(
        lambda y: matmul(x, y) + matmul(y, x), r, solve, symmetric=True
    )


def _polynomials(z: Array, *rows: tuple[float, ...]) -> list[Array]:
    """Polynomials in one matrix, sharing its powers."""
    power = jnp.broadcast_to(jnp.eye(z.shape[-1], dtype=z.dtype), z.shape)
    totals = [row[0] * power for row in rows]
    for k in range(1, len(rows[0])):
        power = z if k == 1 else matmul(power, z)
        totals = [total + row[k] * power for total, row in zip(totals, rows, strict=True)]
    return totals


@functools.cache
def _binomial_series(exponent: float, degree: int) -> tuple[float, ...]:
    """Of `(1 - z) ** exponent`."""
    row = [1.0]
    for k in range(1, degree + 1):
        row.append(row[-1] * (k - 1 - exponent) / k)
    return tuple(row)


@functools.cache
def _pade_coefficients(degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""Numerator and denominator of the diagonal Padé approximant of $\sqrt{1 - z}$.

    From its partial fractions,
    $1 - \sum_j \frac{2}{2m + 1} \sin^2\theta_j \, z / (1 - \cos^2\theta_j \, z)$ with
    $\theta_j = j \pi / (2m + 1)$.
    """
    angles = np.arange(1, degree + 1) * np.pi / (2 * degree + 1)
    one = np.polynomial.Polynomial([1])
    factors = [np.polynomial.Polynomial([1, -(np.cos(t) ** 2)]) for t in angles]
    below = math.prod(factors, start=one)
    above = below - sum(
        np.polynomial.Polynomial([0, 2 / (2 * degree + 1) * np.sin(t) ** 2])
        * math.prod(factors[:j] + factors[j + 1 :], start=one)
        for j, t in enumerate(angles)
    )
    coefficients = [tuple(map(float, q.coef)) for q in (above, below)]
    return coefficients[0], coefficients[1]

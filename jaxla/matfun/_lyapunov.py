r"""The symmetric Lyapunov equation $X Y + Y X = R$ for $Y$.

It is what the derivatives of square roots, polar factors and whitening solve. In
the eigenbasis of $X$ it is a division by $w_i + w_j$. The derivative follows from the
equation, not from the eigenvectors (`jax.lax.custom_linear_solve`), and is right
at repeated eigenvalues, to every order.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from jaxla._dtypes import compute_dtype, matmul, next_power_of_two
from jaxla._errors import as_square_matrix
from jaxla.factor import eigh


class MatrixSolution(NamedTuple):
    r"""The solution of a matrix equation, and what speaks for it.

    - `solution`: zero where `residual` is infinite.
    - `residual`: the Frobenius norm of what the equation leaves, relative to the sum
        of the norms that its terms can have; of the order of the dtype's `eps` where
        all is well. Infinite where an entry of the input is not finite, and where the
        method did not converge. It has no derivative.
    """

    solution: Float[Array, "*batch m n"]
    residual: Float[Array, "*batch"]


def solve_symmetric_lyapunov(
    x: Float[ArrayLike, "*#batch n n"], r: Float[ArrayLike, "*#batch n n"]
) -> MatrixSolution:
    r"""Solves $X Y + Y X = R$ for $Y$, where $X$ is symmetric.

    **Arguments:**

    - `x`: $X$, symmetric; its symmetric part is taken. Usually positive definite.
        Half precision is computed in `float32`.
    - `r`: $R$, any square matrix of the same size. The batch shapes of `x` and `r`
        broadcast.

    **Returns:**

    [`jaxla.matfun.MatrixSolution`][]. Where eigenvalues of $X$ add up to zero, which
    in a positive semi-definite matrix only those of its kernel do, the equation does
    not determine that part of $Y$; it is then zero, and what $R$ has there shows in the
    residual.

    **Cost:** one `eigh` and six $2 n^3$ products.

    **Differentiation:** both modes and every order, with respect to both arguments;
    right at repeated eigenvalues.

    !!! example

        >>> import jax.numpy as jnp
        >>> y = jaxla.matfun.solve_symmetric_lyapunov(2 * jnp.eye(2), jnp.ones((2, 2)))
        >>> print(y.solution)
        [[0.25 0.25]
         [0.25 0.25]]
    """
    x, r = as_square_matrix("x", x), as_square_matrix("r", r)
    check_size("r", r, x.shape[-1:] * 2)
    (x, r), out_dtype, usable = prepare(x, r)
    x, unit = normalize((x + x.mT) / 2)
    batch = jnp.broadcast_shapes(x.shape[:-2], r.shape[:-2])
    r, r_unit = normalize(jnp.broadcast_to(r, batch + r.shape[-2:]))
    y = symmetric_lyapunov(x, r)
    rest = matmul(x, y) + matmul(y, x) - r
    residual = relative_residual(rest, [(x, y), (x, y), (r,)])
    return finish(y, r_unit / unit, residual, usable, out_dtype)


def symmetric_lyapunov(x: Array, r: Array) -> Array:
    """The solution alone, without checks, of arrays of one shape and dtype."""
    w, v = eigh(jax.lax.stop_gradient(x))
    sums = w[..., :, None] + w[..., None, :]
    eps = jnp.finfo(x.dtype).eps
    least = x.shape[-1] * eps * jnp.abs(w).max(-1, initial=0)[..., None, None]
    regular = jnp.abs(sums) > least
    kernel = jnp.where(regular, 1 / jnp.where(regular, sums, 1), 0)

    def in_eigenbasis(_, r):
        inner = kernel * matmul(v.mT, matmul(r, v))
        return matmul(v, matmul(inner, v.mT))

    return jax.lax.custom_linear_solve(
        lambda y: matmul(x, y) + matmul(y, x), r, in_eigenbasis, symmetric=True
    )


def check_size(name: str, array: Array, shape: tuple[int | str, ...]) -> None:
    """Whether the matrices of `array` have this shape, or an error.

    A letter stands for a side that is not known, because `array` is no matrix.
    """
    if array.shape[-2:] != shape:
        raise ValueError(
            f"`{name}` must have shape (..., {shape[0]}, {shape[1]}); got {array.shape}."
        )


def prepare(*arrays: Array) -> tuple[list[Array], jnp.dtype, Bool[Array, "*batch"]]:
    """Coefficients of one rank in the dtype to compute in, their own, and who is usable.

    Batch axes of length 1 come in front where there are fewer of them: batch shapes
    broadcast, and what all members share is worked on once. A matrix with an entry that
    is not finite is replaced by zero.
    """
    out_dtype = jnp.result_type(*arrays)
    rank = max(array.ndim for array in arrays)
    shapes = [(1,) * (rank - array.ndim) + array.shape for array in arrays]
    jnp.broadcast_shapes(*(shape[:-2] for shape in shapes))  # or an error
    wide = [
        array.astype(compute_dtype(out_dtype)).reshape(shape)
        for array, shape in zip(arrays, shapes, strict=True)
    ]
    finite = [jnp.isfinite(a).all((-2, -1), keepdims=True) for a in wide]
    usable = finite[0]
    for other in finite[1:]:
        usable = usable & other
    safe = [jnp.where(f, a, 0) for f, a in zip(finite, wide, strict=True)]
    return safe, out_dtype, usable[..., 0, 0]


def normalize(array: Array) -> tuple[Array, Array]:
    """Matrices over a power of two at least as large as their entries, and that power."""
    largest = jnp.abs(array).max((-2, -1), initial=0, keepdims=True)
    unit = next_power_of_two(jnp.where(largest == 0, 1, largest))
    return array / unit, unit


def frobenius(array: Array) -> Array:
    """Frobenius norms that neither overflow nor underflow on the way; no derivative."""
    array, unit = normalize(jax.lax.stop_gradient(array))
    return jnp.sqrt(jnp.sum(array * array, (-2, -1))) * unit[..., 0, 0]


def symmetric_like(x: Array, q: Array) -> Array:
    """`x`, made exactly symmetric where `q` is; with the derivative of `x`."""
    symmetric = (q == q.mT).all((-2, -1), keepdims=True)
    mean = jax.lax.stop_gradient((x + x.mT) / 2)
    # Not `x + (mean - x)`, which rounds.
    return jnp.where(symmetric, mean + (x - jax.lax.stop_gradient(x)), x)


def relative_residual(rest: Array, terms: Sequence[tuple[Array, ...]]) -> Array:
    """The norm of `rest` over the sum of the norms that the terms, products, can have."""
    size = sum(math.prod(map(frobenius, factors)) for factors in terms)
    return jnp.where(size == 0, 0, frobenius(rest) / jnp.where(size == 0, 1, size))


def finish(
    y: Array, unit: Array, residual: Array, good: Array, out_dtype
) -> MatrixSolution:
    """`unit * y`; zero and an infinite residual where it is not `good` or not finite."""
    # In the dtype that goes out: half precision may overflow where `float32` did not.
    y = (unit * y).astype(out_dtype)
    good = good & jnp.isfinite(y).all((-2, -1)) & jnp.isfinite(residual)
    solution = jnp.where(good[..., None, None], y, 0)
    return MatrixSolution(solution, jnp.where(good, residual, jnp.inf))

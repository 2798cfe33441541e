r"""The Kronecker product that is nearest to a matrix in the Frobenius norm.

Van Loan and Pitsianis: with a matrix $R(M)$ whose rows are the blocks of $M$,
$\|M - A \otimes B\|_F = \|R(M) - \mathrm{vec}(A) \mathrm{vec}(B)^\top\|_F$, so that the
best $A$ and $B$ are the leading singular vectors of $R(M)$. For a second moment
$M = \mathrm{mean}_t \mathrm{vec}(G_t) \mathrm{vec}(G_t)^\top$ its products are
$R(M) \mathrm{vec}(B) = \mathrm{vec}(\mathrm{mean}_t G_t B G_t^\top)$.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, finiteness_and_unit, matmul, safe_sqrt
from jaxla._errors import as_pair, as_real_matrix, check_int


class NearestKronecker(NamedTuple):
    r"""A Kronecker product $A \otimes B$ close to a matrix $M$.

    - `left`: $A$.
    - `right`: $B$, with the Frobenius norm of $A$.
    - `error`: $\|M - A \otimes B\|_F / \|M\|_F$; zero where $M$ is zero. It has no
        derivative.
    """

    left: Float[Array, "*batch m1 n1"]
    right: Float[Array, "*batch m2 n2"]
    error: Float[Array, "*batch"]


def nearest_kronecker(
    matrix: Float[ArrayLike, "*batch m n"],
    left_shape: tuple[int, int],
    *,
    steps: int = 10,
    start: Float[ArrayLike, "*batch m2 n2"] | None = None,
) -> NearestKronecker:
    r"""The Kronecker product nearest to a matrix, by power iteration.

    One step is $a = R b / \|R b\|$ and then $b = R^\top a$ with the rearrangement
    $R = R(M)$, and reduces the error by the square of $\sigma_2 / \sigma_1$, the ratio of
    the singular values of $R$. The sign is such that the trace of $A$ is not
    negative, or where it is zero the largest entry of $A$ positive; factors of a
    positive semi-definite matrix then are positive semi-definite, too.

    **Arguments:**

    - `matrix`: $M$, $m \times n$.
    - `left_shape`: the shape of $A$, whose sides must divide $m$ and $n$.
    - `steps`: at least 1; a static choice. For convergence without a doubt use
        [`jaxla.operators.kronecker_svd`][].
    - `start`: $B$ to start from, such as the last one. By default it is made of
        the largest block of $M$ and a little of all others. From a positive semi-definite
        start, such as the identity, each step for a positive semi-definite $M$ is
        positive semi-definite. A start with $R b = 0$ gives zero factors and the error 1.

    **Returns:**

    [`jaxla.operators.NearestKronecker`][]. A matrix with a non-finite entry gives NaN,
    and touches no other of its batch.

    **Cost:** $4 m n$ flops a step.

    **Differentiation:** both modes and every order, of what the steps
    compute, so as exact as they have converged. The error has none.

    !!! example

        >>> import jax.numpy as jnp
        >>> near = jaxla.operators.nearest_kronecker(4 * jnp.eye(4), (2, 2))
        >>> print(near.left)
        [[2. 0.]
         [0. 2.]]

    ??? cite "Reference"

        Van Loan, Pitsianis, *Approximation with Kronecker products*, in: Linear Algebra
        for Large Scale and Real-Time Applications, Kluwer 1993.
    """
    check_int("steps", steps, low=1)
    matrix = as_real_matrix("matrix", matrix)
    right_shape = right_shape_of(matrix, left_shape)
    rows, unit = rearranged(matrix, left_shape)
    if start is None:
        b = _start(rows)
    else:
        b = start_of_shape(start, (*rows.shape[:-2], *right_shape), rows.dtype)
        b = b.reshape(*rows.shape[:-2], rows.shape[-1])
    a, b = power_steps(
        lambda b: matmul(rows, b[..., None])[..., 0],
        lambda a: matmul(a[..., None, :], rows)[..., 0, :],
        b,
        steps,
    )
    rest = jax.lax.stop_gradient(rows - a[..., :, None] * b[..., None, :])
    error = _ratio(_norm(rest, 2), jax.lax.stop_gradient(_norm(rows, 2)))
    a = a.reshape(*a.shape[:-1], *left_shape)
    b = b.reshape(*b.shape[:-1], *right_shape)
    left, right = balanced(a, b, safe_sqrt(unit))
    return NearestKronecker(*(part.astype(matrix.dtype) for part in (left, right, error)))


def power_steps(
    forward: Callable[[Array], Array],
    backward: Callable[[Array], Array],
    b: Array,
    steps: int,
) -> tuple[Array, Array]:
    """`a = R b / |R b|` and `b = R^T a`, `steps` times; the last `b` has norm sigma."""

    def step(b: Array, _) -> tuple[Array, None]:
        return _unit(backward(_unit(forward(b)))), None

    b, _ = jax.lax.scan(step, _unit(b), length=steps - 1)
    a = _unit(forward(b))
    return a, backward(a)


def start_of_shape(start: ArrayLike, shape: tuple[int, ...], dtype) -> Array:
    """The given start for each matrix of a batch, or an error."""
    b = as_real_matrix("start", start)
    if b.shape[-2:] != shape[-2:]:
        raise ValueError(f"`start` must have shape (..., {shape[-2]}, {shape[-1]}); "
                         f"got {b.shape}.")  # fmt: skip
    return jnp.broadcast_to(b, shape).astype(dtype)


def balanced(a: Array, b: Array, root: Array) -> tuple[Array, Array]:
    """Factors of one norm and the right sign, of `root**2` times a unit `a` and `b`."""
    sigma = _norm(b, 2)[..., None, None]
    sign, root = sign_of(a), root[..., None, None]
    left = a * (safe_sqrt(sigma) * root)
    return sign * left, sign * _ratio(b, safe_sqrt(sigma)) * root


def scaled(x: Array, core: int) -> tuple[Array, Array]:
    """What is divided by a power of two, and that; NaN where not all is finite."""
    axes = tuple(range(-core, 0))
    wide = x.astype(compute_dtype(x.dtype))
    usable, unit = finiteness_and_unit(wide, axes)
    return jnp.where(usable, wide / unit, jnp.nan), unit.squeeze(axes)


def right_shape_of(matrix: Array, left_shape: tuple[int, int]) -> tuple[int, int]:
    sizes = as_pair("left_shape", left_shape)
    for k, size in enumerate(sizes):
        check_int(f"left_shape[{k}]", size, low=1)
    (m, n), (p, q) = matrix.shape[-2:], sizes
    if m % p or n % q:
        raise ValueError(
            f"`left_shape` must divide the shape of the matrices, {(m, n)}; got {sizes}."
        )
    return m // p, n // q


def rearranged(matrix: Array, left_shape: tuple[int, int]) -> tuple[Array, Array]:
    """`R(M)` up to a power of two, and that: each row is a block of the matrix."""
    m, n = right_shape_of(matrix, left_shape)
    x, unit = scaled(matrix, 2)
    p, q = left_shape
    blocks = x.reshape(*x.shape[:-2], p, m, q, n)
    rows = jnp.moveaxis(blocks, -2, -3).reshape(*x.shape[:-2], p * q, m * n)
    return rows, unit


def _start(rows: Array) -> Array:
    """The largest row and a little of all others: no direction is left out."""
    k = rows.shape[-2]
    largest = jnp.argmax((rows**2).sum(-1), -1)
    little = 0.1 / k**0.5 * jnp.cos(1 + jnp.arange(k, dtype=rows.dtype))
    first = jax.nn.one_hot(largest, k, dtype=bool)
    weights = jnp.where(first, 1, jnp.broadcast_to(little, first.shape))
    return matmul(weights[..., None, :], rows)[..., 0, :]


def sign_of(a: Array) -> Array:
    """1 or -1: the sign of the trace, or where that is 0 of the largest entry."""
    a = jax.lax.stop_gradient(a)
    trace = jnp.diagonal(a, axis1=-2, axis2=-1).sum(-1)
    flat = a.reshape(*a.shape[:-2], a.shape[-2] * a.shape[-1])
    if not flat.shape[-1]:
        return jnp.ones((*flat.shape[:-1], 1, 1), a.dtype)
    index = jnp.argmax(jnp.abs(flat), -1)[..., None]
    largest = jnp.take_along_axis(flat, index, -1)[..., 0]
    negative = jnp.where(trace == 0, largest, trace) < 0
    return jnp.where(negative, -1, 1).astype(a.dtype)[..., None, None]


def _unit(x: Array) -> Array:
    """Vectors of norm 1, or zero."""
    return _ratio(x, _norm(x, 1)[..., None])


def _norm(x: Array, core: int) -> Array:
    return safe_sqrt((x**2).sum(tuple(range(-core, 0))))


def _ratio(x: Array, y: Array) -> Array:
    """`x / y`, and 0 where `y` is 0."""
    return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))

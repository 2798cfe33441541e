"""Kronecker factors applied along the axes of a tensor, and outer sums and products.

The vector that a Kronecker product of $d$ factors acts on is a tensor with $d$ axes in
row-major order: factor $i$ acts along axis $i$.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ._batches import cast, lift
from ._dense import as_operator
from ._operator import Operator, Solver


def as_factors(factors: Sequence[Operator | ArrayLike]) -> tuple[Operator, ...]:
    """Operators of one batch rank and dtype, or an error."""
    if not factors:
        raise ValueError("`factors` must hold at least one operator or matrix; got none.")
    operators = [as_operator(factor) for factor in factors]
    rank = max(len(operator.shape) - 2 for operator in operators)
    # Under strict promotion this is where different dtypes are told.
    dtype = jnp.result_type(*(operator.dtype for operator in operators))
    return tuple(lift(cast(operator, dtype), rank) for operator in operators)


def check_all_square(name: str, factors: Sequence[Operator]) -> None:
    for factor in factors:
        m, n = factor.shape[-2:]
        if m != n:
            raise ValueError(f"`{name}` needs square factors; one of these is {m} x {n}.")


def check_symmetric(operator: Operator, method: str, symmetric: bool) -> None:
    if not symmetric:
        name = type(operator).__name__
        raise NotImplementedError(
            f"`{method}` of a {name} needs symmetric factors. If these are, make it by "
            f"`{name}(..., symmetric=True)`; if not, form the matrix if it is small: "
            f"`Dense(operator.as_matrix()).{method}`."
        )


def batch_of(factors: Sequence[Operator]) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(factor.shape[:-2] for factor in factors))


def along_axis(fn: Solver, x: Array, axis: int, sizes: Sequence[int]) -> Array:
    """`fn` of the rows of an axis of the tensor that each column of `x` is."""
    batch, columns = x.shape[:-2], x.shape[-1]
    left, right = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :]) * columns
    x = x.reshape(*batch, left, sizes[axis], right)
    rows = jnp.moveaxis(x, -2, -3).reshape(*batch, sizes[axis], left * right)
    out = fn(rows)
    batch, size = out.shape[:-2], out.shape[-2]
    out = jnp.moveaxis(out.reshape(*batch, size, left, right), -3, -2)
    rest = math.prod(sizes[:axis]) * size * math.prod(sizes[axis + 1 :])
    return out.reshape(*batch, rest, columns)


def along_all(fns: Sequence[Solver], x: Array, sizes: Sequence[int]) -> Array:
    """Each function along its axis, none of which changes the size of its axis."""
    for axis, fn in enumerate(fns):
        x = along_axis(fn, x, axis, sizes)
    return x


def outer(combine: Callable[[Array, Array], Array], vectors: Sequence[Array]) -> Array:
    """All combinations of one entry of each vector, in row-major order."""
    out = vectors[0]
    for vector in vectors[1:]:
        both = combine(out[..., :, None], vector[..., None, :])
        out = both.reshape(*both.shape[:-2], both.shape[-2] * both.shape[-1])
    return out


def kron(a: Array, b: Array) -> Array:
    """The Kronecker product of matrices, or of batches of them."""
    (m, n), (p, q) = a.shape[-2:], b.shape[-2:]
    product = a[..., :, None, :, None] * b[..., None, :, None, :]
    return product.reshape(*product.shape[:-4], m * p, n * q)

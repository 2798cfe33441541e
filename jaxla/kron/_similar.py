"""One call for many matrices: those of a shape, and of similar shapes."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def map_similar(
    fn: Callable[[Array], Array],
    matrices: Sequence[Float[Array, "..."]],
    *,
    shapes: int | None = 4,
) -> list[Float[Array, "..."]]:
    r"""Applies a function to many matrices in few calls.

    **Arguments:**

    - `fn`: takes a `(batch, m, n)` array to one of its shape. It must do to the
        transpose of a matrix, and to the matrix with zeros added, the same as to the
        matrix, as functions of singular values do.
    - `matrices`: `(*batch, m, n)` arrays.
    - `shapes`: how many calls to make at most. Matrices and transposes of one shape
        share a call; if there are more shapes than this, those that waste least are
        padded to a common one. `None` pads nothing.

    **Returns:**

    A list of arrays of the shapes and dtypes of `matrices`.

    **Differentiation:** as of `fn`.

    !!! example

        >>> import jax.numpy as jnp
        >>> calls = []
        >>> def fn(x):
        ...     calls.append(x.shape)
        ...     return 2 * x
        >>> out = jaxla.kron.map_similar(fn, [jnp.ones((4, 3)), jnp.ones((2, 3, 4))])
        >>> calls, out[1].shape
        ([(3, 4, 3)], (2, 3, 4))
    """
    if not matrices:
        return []
    dtype = jnp.result_type(*matrices)
    tall = [as_tall(x).astype(dtype) for x in matrices]
    out: dict[int, Array] = {}
    for members, stack in stack_similar(tall, shapes):
        result = fn(stack)
        begin = 0
        for i in members:
            count, rows, cols = tall[i].shape
            part = result[begin : begin + count, :rows, :cols]
            begin += count
            out[i] = _as_before(part, matrices[i])
    return [out[i] for i in range(len(tall))]


def as_tall(x: Array) -> Array:
    """An array of matrices with one axis for its batch, and no more columns than rows."""
    x = x.reshape(-1, *x.shape[-2:])
    return x.mT if x.shape[1] < x.shape[2] else x


def stack_similar(
    tall: Sequence[Array], limit: int | None
) -> Iterator[tuple[list[int], Array]]:
    """What shares a call: the indices of such arrays, and their matrices in one stack."""
    stacks = [(len(x), x.shape[1], x.shape[2]) for x in tall]
    for (m, n), members in merge_shapes(stacks, limit).items():
        padded = [
            jnp.pad(x, ((0, 0), (0, m - x.shape[1]), (0, n - x.shape[2])))
            for x in (tall[i] for i in members)
        ]
        yield members, jnp.concatenate(padded)


def merge_shapes(
    stacks: Sequence[tuple[int, int, int]], limit: int | None
) -> dict[tuple[int, int], list[int]]:
    """Which stacks `(count, m, n)`, with `m >= n`, share a call, by its shape.

    **Arguments:**

    - `stacks`: the shapes.
    - `limit`: of the number of calls, or `None`.

    **Returns:**

    The padded shape, and the indices of the stacks in it. While there are too many, the
    two are merged for which that costs least, at $2 m n^2 + n^3$ a matrix.

    !!! example

        >>> jaxla.kron.merge_shapes([(1, 8, 8), (1, 64, 8), (1, 9, 8)], 2)
        {(64, 8): [1], (9, 8): [0, 2]}
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (_, m, n) in enumerate(stacks):
        groups.setdefault((m, n), []).append(index)

    def waste(pair):
        union = _union(*pair)
        counts = [sum(stacks[i][0] for i in groups[shape]) for shape in pair]
        return sum(
            count * (_cost(union) - _cost(shape))
            for shape, count in zip(pair, counts, strict=True)
        )

    while limit is not None and len(groups) > limit:
        pair = min(itertools.combinations(groups, 2), key=waste)
        union = _union(*pair)
        members = [index for shape in pair for index in groups.pop(shape)]
        groups[union] = sorted(groups.get(union, []) + members)
    return groups


def _union(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return max(first[0], second[0]), max(first[1], second[1])


def _cost(shape: tuple[int, int]) -> int:
    m, n = shape
    return 2 * m * n * n + n**3


def _as_before(part: Array, like: Array) -> Array:
    part = part.mT if like.shape[-2] < like.shape[-1] else part
    return part.reshape(like.shape).astype(like.dtype)

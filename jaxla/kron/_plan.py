"""The plan of a blocked preconditioner: which parameter is cut into which blocks.

A plan follows from shapes, paths and [`jaxla.kron.Blocks`][] alone; it is made
anew at every trace and never stored.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._blocks import Axes, Blocks, Rule


TileSize = tuple[int, int]
"""The rows and columns of a tile: the sizes of its left and of its right factor."""


@dataclasses.dataclass(frozen=True)
class LeafPlan:
    """What happens to one parameter.

    It is read as a batch of matrices, each cut into `rows` by `cols` tiles. A matrix
    has a left factor for each of its `rows`, and a right one for each of its `cols`;
    if it is one-sided, only those of its shorter side.

    - `axes`: how it is read as matrices; `None` if it is treated entry by entry.
    - `matrix_shape`: `(batch, m, n)` of these matrices.
    - `rows`, `cols`: the numbers of tiles below and beside each other.
    - `part`: the rows and columns of the matrix that are in a tile.
    - `tile`: the size of the tile; what `part` does not fill is zero.
    - `sides`: has it left factors, has it right ones?
    - `left`, `right`: the places of its left factors in the stack of the size
        `tile[0]`, and of its right factors in that of `tile[1]`.
    """

    path: str
    shape: tuple[int, ...]
    axes: Axes | None = None
    matrix_shape: tuple[int, int, int] = (0, 0, 0)
    rows: int = 0
    cols: int = 0
    part: TileSize = (0, 0)
    tile: TileSize = (0, 0)
    sides: tuple[bool, bool] = (True, True)
    left: slice = dataclasses.field(default_factory=lambda: slice(0, 0))
    right: slice = dataclasses.field(default_factory=lambda: slice(0, 0))

    @property
    def num_factors(self) -> tuple[int, int]:
        """The number of left and of right factors."""
        batch = self.matrix_shape[0]
        left, right = self.sides
        return left * batch * self.rows, right * batch * self.cols

    @property
    def one_sided(self) -> bool:
        """Is it a matrix with factors on one side alone?"""
        return self.axes is not None and self.sides != (True, True)

    @property
    def num_tiles(self) -> int:
        """The number of tiles of all matrices."""
        return self.matrix_shape[0] * self.rows * self.cols


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens to every parameter.

    - `leaves`: one plan a parameter, in the order of the tree.
    - `num_factors`: the length of the stack of factors of each size.
    """

    leaves: tuple[LeafPlan, ...]
    num_factors: dict[int, int]

    def stack_members(self) -> dict[TileSize, list[int]]:
        """The leaves whose tiles are stacked, in this order, for each size of tile."""
        members: dict[TileSize, list[int]] = {}
        for index, leaf in enumerate(self.leaves):
            if leaf.axes is not None:
                members.setdefault(leaf.tile, []).append(index)
        return members

    def factors_of_tiles(self, size: TileSize) -> tuple[np.ndarray, np.ndarray]:
        """For each tile of a stack, which left and which right factor it has.

        -1 if it has none on that side.
        """
        pairs = []
        for index in self.stack_members()[size]:
            leaf = self.leaves[index]
            # Tiles lie in the order matrix, row, column.
            batch = leaf.matrix_shape[0]
            matrix, row, col = np.indices((batch, leaf.rows, leaf.cols)).reshape(3, -1)
            left = leaf.left.start + matrix * leaf.rows + row
            right = leaf.right.start + matrix * leaf.cols + col
            places = zip(leaf.sides, (left, right), strict=True)
            pairs.append([np.where(has, place, -1) for has, place in places])
        left, right = np.concatenate(pairs, axis=1)
        return left, right

    def lone(self) -> "Plan":
        """The plan with those factors alone that have none on the other side."""
        leaves = [
            leaf if leaf.one_sided else dataclasses.replace(leaf, sides=(False, False))
            for leaf in self.leaves
        ]
        return dataclasses.replace(self, leaves=tuple(leaves))

    def owners_of_tiles(self, size: TileSize) -> np.ndarray:
        """For each tile of a stack, the leaf it belongs to."""
        members = self.stack_members()[size]
        return np.repeat(members, [self.leaves[index].num_tiles for index in members])

    def owners_of_factors(self, size: int) -> np.ndarray:
        """For each factor of a stack, the leaf it belongs to; -1 for a spare one."""
        owners = np.full(self.num_factors[size], -1)
        for index, leaf in enumerate(self.leaves):
            for of_size, place in zip(leaf.tile, (leaf.left, leaf.right), strict=True):
                if of_size == size:
                    owners[place] = index
        return owners


def make_plan(paths: Sequence[str], leaves: Sequence[Any], blocks: Blocks) -> Plan:
    """Plans how parameters are cut into blocks.

    **Arguments:**

    - `paths`: the name of each parameter, for rules and messages.
    - `leaves`: the parameters, or anything that has a `shape`.
    - `blocks`: the choices.

    **Returns:**

    A [`jaxla.kron.Plan`][].

    !!! example

        >>> import jax
        >>> weight = jax.ShapeDtypeStruct((784, 256), "float32")
        >>> plan = jaxla.kron.make_plan(["weight"], [weight], jaxla.kron.Blocks())
        >>> plan.leaves[0].rows, plan.leaves[0].cols, plan.leaves[0].tile
        (7, 2, (128, 128))
        >>> plan.num_factors
        {128: 9}
    """
    plans = [
        _cut(path, tuple(leaf.shape), blocks, blocks.rule(path, leaf))
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    sizes = _block_sizes(plans, blocks)
    num_factors = dict.fromkeys(sorted(sizes.values()), 0)

    def next_places(size: int, count: int) -> slice:
        begin = num_factors[size]
        num_factors[size] += count
        return slice(begin, begin + count)

    for index, leaf in enumerate(plans):
        if leaf.axes is not None:
            row_size, col_size = (sizes[part] for part in leaf.part)
            plans[index] = dataclasses.replace(
                leaf,
                tile=(row_size, col_size),
                left=next_places(row_size, leaf.num_factors[0]),
                right=next_places(col_size, leaf.num_factors[1]),
            )
    lengths = {
        size: _round_up(count, blocks.shards)
        for size, count in num_factors.items()
        if count
    }
    return Plan(tuple(plans), lengths)


def _cut(
    path: str, shape: tuple[int, ...], blocks: Blocks, rule: Rule | None
) -> LeafPlan:
    one_sided = rule == "one-sided"
    axes = _resolve(path, shape, rule)
    if axes is None:
        return LeafPlan(path, shape)
    batch, m, n = (
        math.prod(shape[axis] for axis in group)
        for group in (axes.batch, axes.rows, axes.cols)
    )
    rows, cols = math.ceil(m / blocks.size), math.ceil(n / blocks.size)
    part = (math.ceil(m / rows), math.ceil(n / cols))
    limit = blocks.one_sided_above
    if limit is not None:
        one_sided |= max(m, n) > limit
    return LeafPlan(
        path=path,
        shape=shape,
        axes=axes,
        matrix_shape=(batch, m, n),
        rows=rows,
        cols=cols,
        part=part,
        sides=(m <= n, m > n) if one_sided else (True, True),
    )


def _resolve(path: str, shape: tuple[int, ...], rule: Rule | None) -> Axes | None:
    """The axes of a parameter as the rule, or the default, has them."""
    if isinstance(rule, Axes):
        ndim = len(shape)
        given = [
            axis % ndim if -ndim <= axis < ndim else axis
            for axis in (*rule.batch, *rule.rows, *rule.cols)
        ]
        if sorted(given) != list(range(ndim)):
            raise ValueError(
                f"`rules`: {rule} must name each axis of the parameter {path!r} of "
                f"shape {shape} once."
            )
        return rule
    if rule == "diagonal":
        return None
    if rule not in ("matrix", "one-sided", None):
        raise ValueError(
            "`rules` must give 'matrix', 'one-sided', 'diagonal', `Axes` or None for a "
            f"parameter; got {rule!r} for {path!r}."
        )
    axes = _most_square(shape)
    if rule is not None and axes is None:
        kind = "a matrix" if rule == "matrix" else "a one-sided matrix"
        raise ValueError(
            f"`rules` asks to treat {path!r} as {kind}, but its shape {shape} does "
            "not have two axes longer than 1."
        )
    return axes


def _most_square(shape: tuple[int, ...]) -> Axes | None:
    """Splits the axes in two groups, in order, so that the short side is longest.

    An Equinox kernel `(out, in, h, w)` becomes `(out, in h w)`, a Flax kernel
    `(h, w, in, out)` becomes `(h w in, out)`.
    """
    ndim = len(shape)

    def short_side(split: int) -> int:
        return min(math.prod(shape[:split]), math.prod(shape[split:]))

    split = max(range(1, ndim), key=short_side, default=None)
    if split is None or short_side(split) < 2:
        return None
    return Axes(tuple(range(split)), tuple(range(split, ndim)))


def _block_sizes(plans: Sequence[LeafPlan], blocks: Blocks) -> dict[int, int]:
    """At most `classes` block sizes that waste least, and which part gets which.

    Cuts the sorted parts into runs that share the size of their longest, so that the
    cost of the roots, `sum(size ** 3)`, is least, by dynamic programming. Another
    size must save as much as three of the largest roots, because it is another
    batched call to compile and to run.
    """
    counts: dict[int, int] = {}
    without = set()
    for plan in plans:
        for part, count in zip(plan.part, plan.num_factors, strict=True):
            if plan.axes is None:
                continue
            if count:
                counts[part] = counts.get(part, 0) + count
            else:
                without.add(part)
    parts = sorted(counts)
    below = [0, *itertools.accumulate(counts[part] for part in parts)]

    def cost(begin: int, end: int) -> int:
        roots = (below[end] - below[begin]) * _round_up(parts[end - 1], 8) ** 3
        return roots + 3 * parts[-1] ** 3

    # best[k][j]: the least cost of parts[:j] in at most k runs, and the beginning
    # of the last of them.
    best: list[list[tuple[float, int]]] = [[(0.0, 0)] + [(math.inf, 0)] * len(parts)]
    for _ in range(blocks.classes):
        last, ends = best[-1], range(1, len(parts) + 1)
        row = [min((last[i][0] + cost(i, j), i) for i in range(j)) for j in ends]
        best.append([(0.0, 0), *row])
    sizes, end = {}, len(parts)
    for row in reversed(best):
        begin = row[end][1] if end else 0
        for part in parts[begin:end]:
            sizes[part] = _round_up(parts[end - 1], 8)
        end = begin
    # Sides without factors have no roots to share a batched call.
    return {part: _round_up(part, 8) for part in without} | sizes


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

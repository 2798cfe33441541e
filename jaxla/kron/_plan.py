"""The plan of a blocked preconditioner: which parameter is cut into which blocks.

A plan follows from shapes, paths and [`jaxla.kron.Blocks`][] alone; it is made
anew at every trace and never stored.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ._blocks import Axes, Blocks, Rule


class Group(NamedTuple):
    """How a matrix is cut: into `rows` by `cols` tiles of `row_size` by `col_size`.

    Its left factor has `rows` diagonal blocks of `row_size`, its right factor `cols`
    blocks of `col_size`. Parameters that are cut alike make a group.
    """

    rows: int
    row_size: int
    cols: int
    col_size: int


_NO_GROUP = Group(0, 0, 0, 0)

TileSize = tuple[int, int]
"""The rows and columns of a tile: the sizes of its left and of its right factor."""


@dataclasses.dataclass(frozen=True)
class LeafPlan:
    """What happens to one parameter.

    - `axes`: how it is read as matrices; `None` if it is treated entry by entry.
    - `matrix_shape`: `(batch, m, n)` of these matrices.
    - `part`: the rows of the matrix that a left block stands for, and the columns
        that a right block stands for; up to the size of the block, the rest is zero.
    - `group`: how many blocks there are, and their sizes.
    """

    path: str
    shape: tuple[int, ...]
    axes: Axes | None = None
    matrix_shape: tuple[int, int, int] = (0, 0, 0)
    part: tuple[int, int] = (0, 0)
    group: Group = _NO_GROUP

    @property
    def num_factors(self) -> tuple[int, int]:
        """The number of left and of right blocks."""
        batch = self.matrix_shape[0]
        return batch * self.group.rows, batch * self.group.cols

    @property
    def num_tiles(self) -> int:
        """The number of tiles, each in a row and in a column of blocks."""
        return self.matrix_shape[0] * self.group.rows * self.group.cols


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens to every parameter, and where its factors lie.

    - `leaves`: one plan a parameter, in the order of the tree.
    - `groups`: the indices of the leaves of each group.
    - `left`, `right`: for each group, the part of the stack of factors of
        `row_size` (of `col_size`) that holds its left (right) blocks.
    - `num_factors`: the length of the stack of each size.
    """

    leaves: tuple[LeafPlan, ...]
    groups: dict[Group, tuple[int, ...]]
    left: dict[Group, slice]
    right: dict[Group, slice]
    num_factors: dict[int, int]

    def stack_members(self) -> dict[TileSize, list[int]]:
        """The leaves whose tiles are stacked, in this order, for each size of tile."""
        members: dict[TileSize, list[int]] = {}
        for group, indices in self.groups.items():
            members.setdefault((group.row_size, group.col_size), []).extend(indices)
        return members

    def factors_of_tiles(self, size: TileSize) -> tuple[np.ndarray, np.ndarray]:
        """For each tile of a stack, which left and which right factor it has."""
        pairs = []
        for group, indices in self.groups.items():
            if (group.row_size, group.col_size) == size:
                matrices = sum(self.leaves[i].matrix_shape[0] for i in indices)
                # Tiles lie in the order matrix, row, column.
                matrix, row, col = np.indices((matrices, group.rows, group.cols))
                left = self.left[group].start + matrix * group.rows + row
                right = self.right[group].start + matrix * group.cols + col
                pairs.append(np.stack([left.ravel(), right.ravel()]))
        left, right = np.concatenate(pairs, axis=1)
        return left, right

    def owners(self, size: int) -> np.ndarray:
        """For each factor of a stack, the leaf it belongs to; -1 for a spare one."""
        owners = np.full(self.num_factors[size], -1)
        for group, indices in self.groups.items():
            matrices = [self.leaves[i].matrix_shape[0] for i in indices]
            leaves = np.repeat(indices, matrices)
            if group.row_size == size:
                owners[self.left[group]] = np.repeat(leaves, group.rows)
            if group.col_size == size:
                owners[self.right[group]] = np.repeat(leaves, group.cols)
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
        >>> plan.leaves[0].group
        Group(rows=7, row_size=128, cols=2, col_size=128)
        >>> plan.num_factors
        {128: 9}
    """
    plans = [
        _cut(path, tuple(leaf.shape), blocks, blocks.rule(path, leaf))
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    sizes = _block_sizes(plans, blocks)
    plans = [_with_sizes(plan, sizes) for plan in plans]
    groups: dict[Group, tuple[int, ...]] = {}
    for index, plan in enumerate(plans):
        if plan.axes is not None:
            groups[plan.group] = (*groups.get(plan.group, ()), index)
    groups = dict(sorted(groups.items()))
    left, right, num_factors = {}, {}, {}
    for group, members in groups.items():
        matrices = sum(plans[index].matrix_shape[0] for index in members)
        for side, size, count in (
            (left, group.row_size, matrices * group.rows),
            (right, group.col_size, matrices * group.cols),
        ):
            begin = num_factors.get(size, 0)
            side[group] = slice(begin, begin + count)
            num_factors[size] = begin + count
    num_factors = {
        size: _round_up(count, blocks.shards)
        for size, count in sorted(num_factors.items())
    }
    return Plan(tuple(plans), groups, left, right, num_factors)


def _cut(
    path: str, shape: tuple[int, ...], blocks: Blocks, rule: Rule | None
) -> LeafPlan:
    axes = _resolve(path, shape, rule)
    if axes is None:
        return LeafPlan(path, shape)
    batch, m, n = (
        math.prod(shape[axis] for axis in group)
        for group in (axes.batch, axes.rows, axes.cols)
    )
    rows, cols = math.ceil(m / blocks.size), math.ceil(n / blocks.size)
    part = (math.ceil(m / rows), math.ceil(n / cols))
    return LeafPlan(path, shape, axes, (batch, m, n), part, Group(rows, 0, cols, 0))


def _with_sizes(plan: LeafPlan, sizes: dict[int, int]) -> LeafPlan:
    if plan.axes is None:
        return plan
    row_size, col_size = (sizes[part] for part in plan.part)
    group = plan.group._replace(row_size=row_size, col_size=col_size)
    return dataclasses.replace(plan, group=group)


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
    if rule not in ("matrix", None):
        raise ValueError(
            "`rules` must give 'matrix', 'diagonal', `Axes` or None for a parameter; "
            f"got {rule!r} for {path!r}."
        )
    axes = _most_square(shape)
    if rule == "matrix" and axes is None:
        raise ValueError(
            f"`rules` asks to treat {path!r} as a matrix, but its shape {shape} does "
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
    for plan in plans:
        for part, count in zip(plan.part, plan.num_factors, strict=True):
            if plan.axes is not None:
                counts[part] = counts.get(part, 0) + count
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
    return sizes


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

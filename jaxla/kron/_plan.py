"""The plan of a blocked preconditioner: which parameter is cut into which tiles.

A plan follows from shapes, paths and [`jaxla.kron.Blocks`][] alone; it is made
anew at every trace and never stored.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ._blocks import Axes, Blocks, Rule


@dataclasses.dataclass(frozen=True)
class LeafPlan:
    """What happens to one parameter.

    - `axes`: how it is read as matrices; `None` if it is treated entry by entry.
    - `matrix_shape`: `(batch, m, n)` of these matrices.
    - `grid`: the number of tiles along `m` and along `n`.
    - `part`: the rows and columns of the matrix that one tile holds.
    - `tile`: the size of the tile, at least `part`; the rest is zero.
    """

    path: str
    shape: tuple[int, ...]
    axes: Axes | None = None
    matrix_shape: tuple[int, int, int] = (0, 0, 0)
    grid: tuple[int, int] = (0, 0)
    part: tuple[int, int] = (0, 0)
    tile: tuple[int, int] = (0, 0)

    @property
    def num_tiles(self) -> int:
        return self.matrix_shape[0] * math.prod(self.grid)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens to every parameter, and where each tile's factors lie.

    - `leaves`: one plan a parameter, in the order of the tree.
    - `buckets`: for each tile shape, the indices of the leaves that have it.
    - `num_tiles`: the number of tiles of each bucket.
    - `left`, `right`: for each tile shape, where its left and right factors
        begin in the stack of their size.
    - `num_factors`: the length of the stack of each size.
    """

    leaves: tuple[LeafPlan, ...]
    buckets: dict[tuple[int, int], tuple[int, ...]]
    num_tiles: dict[tuple[int, int], int]
    left: dict[tuple[int, int], int]
    right: dict[tuple[int, int], int]
    num_factors: dict[int, int]


def make_plan(paths: Sequence[str], leaves: Sequence[Any], blocks: Blocks) -> Plan:
    """Plans how parameters are cut into tiles.

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
        >>> plan.leaves[0].grid, plan.leaves[0].tile, plan.num_factors
        ((7, 2), (112, 128), {112: 14, 128: 14})
    """
    plans = [
        _cut(path, tuple(leaf.shape), blocks, blocks.rule(path, leaf))
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    sizes = _tile_sizes(plans, blocks.classes)
    plans = [
        dataclasses.replace(plan, tile=(sizes[plan.part[0]], sizes[plan.part[1]]))
        if plan.axes is not None
        else plan
        for plan in plans
    ]
    buckets: dict[tuple[int, int], tuple[int, ...]] = {}
    for index, plan in enumerate(plans):
        if plan.axes is not None:
            buckets[plan.tile] = (*buckets.get(plan.tile, ()), index)
    buckets = dict(sorted(buckets.items()))
    num_tiles = {
        tile: sum(plans[index].num_tiles for index in members)
        for tile, members in buckets.items()
    }
    left, right, num_factors = {}, {}, {}
    for (rows, cols), count in num_tiles.items():
        left[rows, cols] = num_factors.setdefault(rows, 0)
        num_factors[rows] += count
        right[rows, cols] = num_factors.setdefault(cols, 0)
        num_factors[cols] += count
    num_factors = {
        size: _round_up(count, blocks.shards)
        for size, count in sorted(num_factors.items())
    }
    return Plan(tuple(plans), buckets, num_tiles, left, right, num_factors)


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
    grid = (math.ceil(m / blocks.size), math.ceil(n / blocks.size))
    part = (math.ceil(m / grid[0]), math.ceil(n / grid[1]))
    return LeafPlan(path, shape, axes, (batch, m, n), grid, part)


def _resolve(path: str, shape: tuple[int, ...], rule: Rule | None) -> Axes | None:
    """The axes of a parameter as the rule, or the default, has them."""
    if isinstance(rule, Axes):
        ndim = len(shape)
        given = [axis % ndim if -ndim <= axis < ndim else axis
                 for axis in (*rule.batch, *rule.rows, *rule.cols)]  # fmt: skip
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


def _tile_sizes(plans: Sequence[LeafPlan], classes: int) -> dict[int, int]:
    """At most `classes` tile sizes that waste least, and which part gets which.

    Cutting the sorted parts into runs that share the size of their longest, so
    that the cost of the roots, `sum(size ** 3)`, is least: by dynamic programming.
    """
    counts: dict[int, int] = {}
    for plan in plans:
        for part in plan.part:
            if plan.axes is not None:
                counts[part] = counts.get(part, 0) + plan.num_tiles
    parts = sorted(counts)

    def cost(first: int, last: int) -> int:
        tiles = sum(counts[part] for part in parts[first : last + 1])
        return tiles * _round_up(parts[last], 8) ** 3

    # best[k][j]: the least cost of parts[:j] in k runs, and where the last begins.
    best: list[list[tuple[float, int]]] = [[(0.0, 0)] + [(math.inf, 0)] * len(parts)]
    for _ in range(classes):
        row = [(0.0, 0)]
        for j in range(1, len(parts) + 1):
            row.append(min((best[-1][i][0] + cost(i, j - 1), i) for i in range(j)))
        best.append(row)
    sizes, end = {}, len(parts)
    for row in reversed(best):
        begin = row[end][1] if end else 0
        for part in parts[begin:end]:
            sizes[part] = _round_up(parts[end - 1], 8)
        end = begin
    return sizes


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

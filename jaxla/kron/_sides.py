"""Tiles and their factors: one for the rows of a tile, and one for its columns.

A matrix that is one-sided has them on one side alone.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxla._dtypes import matmul

from ._plan import Plan
from ._stacks import Stacks


LEFT, RIGHT = 0, 1

OfFactors = dict[int, Array]
"""For each size, an array with one entry a factor."""


def combine(
    side: int, fn: Callable, stacks: Stacks, of_factors: OfFactors, plan: Plan
) -> Stacks:
    """`fn(tile, factor)` for every tile that has a factor on a side; others as they are.

    On stacks: the leading axis of both arguments counts the tiles.
    """
    out = {}
    for size, tiles in stacks.items():
        places = plan.factors_of_tiles(size)[side]
        has = places >= 0
        if has.all():
            out[size] = fn(tiles, of_factors[size[side]][places])
        elif has.any():
            changed = fn(tiles[has], of_factors[size[side]][places[has]])
            out[size] = tiles.at[has].set(changed)
        else:
            out[size] = tiles
    return out


def times_left(lefts: OfFactors, stacks: Stacks, plan: Plan) -> Stacks:
    """The product of the left factor and the tile, for every tile."""
    return combine(LEFT, lambda tile, left: matmul(left, tile), stacks, lefts, plan)


def times_right(stacks: Stacks, rights: OfFactors, plan: Plan) -> Stacks:
    """The product of the tile and its right factor, for every tile."""
    return combine(RIGHT, matmul, stacks, rights, plan)


def between(lefts: OfFactors, stacks: Stacks, rights: OfFactors, plan: Plan) -> Stacks:
    """The product of every tile with the matrices that belong to its two factors."""
    return times_right(times_left(lefts, stacks, plan), rights, plan)


def sum_per_factor(
    products: Sequence[Callable], stacks: Sequence[Stacks], plan: Plan
) -> OfFactors:
    """For each factor, the sum of `product(tile)` over the tiles that have it.

    `products` and `stacks` are those for the left factors, and those for the right.
    """
    parts: dict[int, list] = {size: [] for size in plan.num_factors}
    for side, product, of_side in zip((LEFT, RIGHT), products, stacks, strict=True):
        for size, tiles in of_side.items():
            places = plan.factors_of_tiles(size)[side]
            has = places >= 0
            if has.any():
                chosen = tiles if has.all() else tiles[has]
                parts[size[side]].append((product(chosen), places[has]))
    out = {}
    for size, pairs in parts.items():
        # One sum for all stacks: each is compiled by itself.
        terms, places = zip(*pairs, strict=True)
        out[size] = jax.ops.segment_sum(
            jnp.concatenate(terms), np.concatenate(places), plan.num_factors[size]
        )
    return out

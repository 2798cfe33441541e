"""One pair of factors for each block, as Anil et al. (2020) cut their matrices.

There, a parameter is cut into tiles and each tile is a parameter of its own, with
its own left and right factor. `jaxla.optim` keeps one left factor for a whole row of
blocks and one right factor for a whole column. The former is had from the latter
by giving the optimizer each parameter as a `(rows, m, cols, n)` array whose axes 0
and 2 are batch axes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from jaxla.kron import Axes, Blocks


TILES = Axes(batch=(0, 2), rows=(1,), cols=(3,))


def rule(path, leaf):
    """For `Blocks(rules=...)`: the tiles side by side."""
    del path
    return TILES if leaf.ndim == 4 else None


def per_tile(blocks: Blocks, make) -> optax.GradientTransformationExtraArgs:
    """The optimizer that `make(blocks)` returns, with a pair of factors a tile.

    **Arguments:**

    - `blocks`: without rules.
    - `make`: from blocks to an optimizer whose parameters have at most two axes.
    """
    inner = make(dataclasses.replace(blocks, rules=rule))

    def tile(tree):
        return jax.tree.map(lambda x: to_tiles(x, blocks.size), tree)

    def init_fn(params):
        return inner.init(tile(params))

    def update_fn(updates, state, params=None, **extra_args):
        params = None if params is None else tile(params)
        tiles, state = inner.update(tile(updates), state, params, **extra_args)
        return jax.tree.map(from_tiles, tiles, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def to_tiles(x: jax.Array, size: int) -> jax.Array:
    """An `(m, n)` array as `(rows, part, cols, part)`, padded with zeros."""
    if x.ndim != 2:
        return x
    counts = [math.ceil(length / size) for length in x.shape]
    parts = [math.ceil(n / count) for n, count in zip(x.shape, counts, strict=True)]
    spare = [c * p - n for c, p, n in zip(counts, parts, x.shape, strict=True)]
    x = jnp.pad(x, [(0, n) for n in spare])
    return x.reshape(counts[0], parts[0], counts[1], parts[1])


def from_tiles(tiles: jax.Array, like: jax.Array) -> jax.Array:
    if like.ndim != 2:
        return tiles
    m, n = like.shape
    rows, row_part, cols, col_part = tiles.shape
    return tiles.reshape(rows * row_part, cols * col_part)[:m, :n]

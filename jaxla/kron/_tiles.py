"""Cutting parameters into tiles that are stacked by size, and back."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._plan import LeafPlan, Plan


Stacks = dict[tuple[int, int], Float[Array, "tiles rows cols"]]


def to_tiles(leaves: Sequence[Float[Array, "..."]], plan: Plan) -> Stacks:
    """Cuts the matrix-shaped parameters of a plan into one stack for each tile shape.

    **Arguments:**

    - `leaves`: one array for each parameter of the plan; those that the plan
        treats entry by entry are passed over.
    - `plan`: as of [`jaxla.kron.make_plan`][].

    **Returns:**

    A dictionary from tile shape to a `(tiles, rows, cols)` array; tiles are
    padded with zeros.

    **Differentiation:** linear; [`jaxla.kron.from_tiles`][] is its left inverse.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((20, 12))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks(size=16))
        >>> {tile: stack.shape for tile, stack in jaxla.kron.to_tiles([weight], plan).items()}
        {(16, 16): (2, 16, 16)}
    """
    return {
        tile: jnp.concatenate([_cut(leaves[i], plan.leaves[i]) for i in members])
        for tile, members in plan.buckets.items()
    }


def from_tiles(stacks: Stacks, plan: Plan) -> dict[int, Float[Array, "..."]]:
    """Puts the tiles of each parameter together again.

    **Arguments:**

    - `stacks`: as [`jaxla.kron.to_tiles`][] returns them.
    - `plan`: the plan by which they were cut.

    **Returns:**

    A dictionary from the index of a parameter in the plan to its array, for all
    that the plan treats as matrices.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((20, 12))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks(size=16))
        >>> jaxla.kron.from_tiles(jaxla.kron.to_tiles([weight], plan), plan)[0].shape
        (20, 12)
    """
    leaves = {}
    for tile, members in plan.buckets.items():
        begin = 0
        for i in members:
            end = begin + plan.leaves[i].num_tiles
            leaves[i] = _join(stacks[tile][begin:end], plan.leaves[i])
            begin = end
    return leaves


def _cut(x: Array, leaf: LeafPlan) -> Array:
    batch, m, n = leaf.matrix_shape
    (r, c), (t, u), (rows, cols) = leaf.grid, leaf.part, leaf.tile
    assert leaf.axes is not None
    x = x.transpose(*leaf.axes.batch, *leaf.axes.rows, *leaf.axes.cols)
    x = x.reshape(batch, m, n)
    x = jnp.pad(x, ((0, 0), (0, r * t - m), (0, c * u - n)))
    x = x.reshape(batch, r, t, c, u).swapaxes(2, 3)
    x = x.reshape(batch * r * c, t, u)
    return jnp.pad(x, ((0, 0), (0, rows - t), (0, cols - u)))


def _join(x: Array, leaf: LeafPlan) -> Array:
    batch, m, n = leaf.matrix_shape
    (r, c), (t, u) = leaf.grid, leaf.part
    assert leaf.axes is not None
    order = (*leaf.axes.batch, *leaf.axes.rows, *leaf.axes.cols)
    order = tuple(axis % len(leaf.shape) for axis in order)
    x = x[:, :t, :u].reshape(batch, r, c, t, u).swapaxes(2, 3)
    x = x.reshape(batch, r * t, c * u)[:, :m, :n]
    x = x.reshape([leaf.shape[axis] for axis in order])
    return x.transpose([order.index(axis) for axis in range(len(order))])


def tiles_of(per_leaf: Float[Array, " leaves"], plan: Plan) -> dict[tuple[int, int], Array]:
    """Repeats a number of each parameter for each of its tiles.

    **Arguments:**

    - `per_leaf`: one number (or flag) a parameter.
    - `plan`: the plan.

    **Returns:**

    A dictionary from tile shape to a vector with one entry a tile.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((20, 12))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks(size=16))
        >>> jaxla.kron.tiles_of(jnp.array([7.0]), plan)
        {(16, 16): Array([7., 7.], dtype=float32)}
    """
    return {
        tile: jnp.concatenate(
            [jnp.broadcast_to(per_leaf[i], (plan.leaves[i].num_tiles,)) for i in members]
        )
        for tile, members in plan.buckets.items()
    }

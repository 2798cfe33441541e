"""Cutting parameters into tiles, stacked by their size, and back."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._plan import LeafPlan, Plan, TileSize


Stacks = dict[TileSize, Float[Array, "tiles row_size col_size"]]


def to_stacks(leaves: Sequence[Float[Array, "..."]], plan: Plan) -> Stacks:
    """Reads the parameters of a plan as matrices, and stacks their tiles by size.

    **Arguments:**

    - `leaves`: one array for each parameter of the plan; those that the plan
        treats entry by entry are passed over.
    - `plan`: as of [`jaxla.kron.make_plan`][].

    **Returns:**

    A dictionary from `(row_size, col_size)` to a `(tiles, row_size, col_size)` array:
    parameters as `Plan.stack_members` has them, and of each its tiles in the
    order matrix, row, column. Tiles are padded with zeros.

    **Differentiation:** linear; [`jaxla.kron.from_stacks`][] is its left inverse.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((20, 12))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks(size=16))
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> {size: stack.shape for size, stack in stacks.items()}
        {(16, 16): (2, 16, 16)}
    """
    return {
        size: jnp.concatenate([_to_tiles(leaves[i], plan.leaves[i]) for i in members])
        for size, members in plan.stack_members().items()
    }


def from_stacks(stacks: Stacks, plan: Plan) -> dict[int, Float[Array, "..."]]:
    """Puts the tiles in a plan's stacks together again.

    **Arguments:**

    - `stacks`: as [`jaxla.kron.to_stacks`][] returns them.
    - `plan`: the plan by which they were made.

    **Returns:**

    A dictionary from the index of a parameter in the plan to its array, for all
    that the plan treats as matrices.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((20, 12))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks(size=16))
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> jaxla.kron.from_stacks(stacks, plan)[0].shape
        (20, 12)
    """
    leaves = {}
    for size, members in plan.stack_members().items():
        begin = 0
        for i in members:
            end = begin + plan.leaves[i].num_tiles
            leaves[i] = _from_tiles(stacks[size][begin:end], plan.leaves[i])
            begin = end
    return leaves


def _to_tiles(x: Array, leaf: LeafPlan) -> Array:
    batch, m, n = leaf.matrix_shape
    rows, cols, (t, u) = leaf.rows, leaf.cols, leaf.part
    x = x.transpose(_axis_order(leaf)).reshape(batch, m, n)
    x = jnp.pad(x, ((0, 0), (0, rows * t - m), (0, cols * u - n)))
    x = x.reshape(batch, rows, t, cols, u).swapaxes(2, 3).reshape(-1, t, u)
    return jnp.pad(x, ((0, 0), (0, leaf.tile[0] - t), (0, leaf.tile[1] - u)))


def _from_tiles(x: Array, leaf: LeafPlan) -> Array:
    batch, m, n = leaf.matrix_shape
    rows, cols, (t, u) = leaf.rows, leaf.cols, leaf.part
    x = x[:, :t, :u].reshape(batch, rows, cols, t, u).swapaxes(2, 3)
    x = x.reshape(batch, rows * t, cols * u)[:, :m, :n]
    order = _axis_order(leaf)
    x = x.reshape([leaf.shape[axis] for axis in order])
    return x.transpose([order.index(axis) for axis in range(len(order))])


def _axis_order(leaf: LeafPlan) -> list[int]:
    assert leaf.axes is not None
    axes = (*leaf.axes.batch, *leaf.axes.rows, *leaf.axes.cols)
    return [axis % len(leaf.shape) for axis in axes]

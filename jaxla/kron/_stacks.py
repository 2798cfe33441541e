"""Stacking parameters of one group, padded to whole blocks, and back."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._plan import Group, LeafPlan, Plan


Stacks = dict[Group, Float[Array, "matrices m n"]]


def to_stacks(leaves: Sequence[Float[Array, "..."]], plan: Plan) -> Stacks:
    """Reads the parameters of a plan as matrices, and stacks those of each group.

    **Arguments:**

    - `leaves`: one array for each parameter of the plan; those that the plan
        treats entry by entry are passed over.
    - `plan`: as of [`jaxla.kron.make_plan`][].

    **Returns:**

    For each group a `(matrices, rows * row_size, cols * col_size)` array. Blocks
    are padded with zeros.

    **Differentiation:** linear; [`jaxla.kron.from_stacks`][] is its left inverse.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((20, 12))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks(size=16))
        >>> [stack.shape for stack in jaxla.kron.to_stacks([weight], plan).values()]
        [(1, 32, 16)]
    """
    return {
        group: jnp.concatenate([_to_matrices(leaves[i], plan.leaves[i]) for i in members])
        for group, members in plan.groups.items()
    }


def from_stacks(stacks: Stacks, plan: Plan) -> dict[int, Float[Array, "..."]]:
    """Gives the parameters in a plan's stacks their own shapes again.

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
    for group, members in plan.groups.items():
        begin = 0
        for i in members:
            end = begin + plan.leaves[i].matrix_shape[0]
            leaves[i] = _from_matrices(stacks[group][begin:end], plan.leaves[i])
            begin = end
    return leaves


def _to_matrices(x: Array, leaf: LeafPlan) -> Array:
    batch, m, n = leaf.matrix_shape
    (rows, row_size, cols, col_size), (t, u) = leaf.group, leaf.part
    x = x.transpose(_axis_order(leaf)).reshape(batch, m, n)
    x = jnp.pad(x, ((0, 0), (0, rows * t - m), (0, cols * u - n)))
    x = x.reshape(batch, rows, t, cols, u)
    pad = ((0, 0), (0, 0), (0, row_size - t), (0, 0), (0, col_size - u))
    return jnp.pad(x, pad).reshape(batch, rows * row_size, cols * col_size)


def _from_matrices(x: Array, leaf: LeafPlan) -> Array:
    batch, m, n = leaf.matrix_shape
    (rows, row_size, cols, col_size), (t, u) = leaf.group, leaf.part
    x = x.reshape(batch, rows, row_size, cols, col_size)[:, :, :t, :, :u]
    x = x.reshape(batch, rows * t, cols * u)[:, :m, :n]
    order = _axis_order(leaf)
    x = x.reshape([leaf.shape[axis] for axis in order])
    return x.transpose([order.index(axis) for axis in range(len(order))])


def _axis_order(leaf: LeafPlan) -> list[int]:
    assert leaf.axes is not None
    axes = (*leaf.axes.batch, *leaf.axes.rows, *leaf.axes.cols)
    return [axis % len(leaf.shape) for axis in axes]

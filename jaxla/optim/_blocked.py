"""What every optimizer on blocks of matrices does alike, whatever it does with a block.

It plans the blocks, refuses gradients that are not finite, counts those it takes in,
weighs the averages, and puts moments and updates back into trees. What remains to an
optimizer's own file are the formulas of its paper.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import ScalarLike

from jaxla import kron
from jaxla._dtypes import compute_dtype, sum_of_squares

from ._describe import record_plan
from ._leaves import check_gradients, check_parameters, named_leaves
from ._sharding import with_auto_axes


class Gradients(NamedTuple):
    """The gradients of one update, as lists with one entry a parameter."""

    plan: kron.Plan
    leaves: list  # in the dtype to compute in
    finite: list  # bool scalars: is it taken in?
    steps: list  # int32 scalars: how many have been taken in, with this one
    weights: tuple  # for each decay, a list: the weight of this gradient in its average
    dtype: np.dtype  # of the stacks

    def to_stacks(self, leaves: Sequence[jax.Array]) -> dict[Any, jax.Array]:
        """The tiles of all matrices, in the dtype of the stacks."""
        return kron.to_stacks([x.astype(self.dtype) for x in leaves], self.plan)


def blocked(
    init_fn: Callable,
    step: Callable,
    blocks: kron.Blocks,
    decays: Sequence[ScalarLike],
    margin: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """The transformation with a step of its own, and all the rest as every other.

    **Arguments:**

    - `init_fn`: from parameters to a state, with `start` for what is common.
    - `step`: from `Gradients`, the first and second moments as lists, and the state, to
        the updates and both moments, as lists, and the state with new stacks.
    - `blocks`: the choices.
    - `decays`: of the averages that are corrected for their start at zero.
    - `margin`: by how much the squares of a gradient may grow and be finite still.
    """
    check_blocks(blocks)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        check_gradients(updates, state.mu)
        if not jax.tree.leaves(updates):
            return updates, state._replace(count=optax.safe_increment(state.count))
        grads = take_in(updates, state, blocks, decays, margin)
        mu, nu = jax.tree.leaves(state.mu), jax.tree.leaves(state.nu)
        out, mu, nu, state = step(grads, mu, nu, state)
        return give_back(updates, state, out, grads.finite, grads.steps, mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(init_fn, with_auto_axes(update_fn))


def start(
    params: Any,
    blocks: kron.Blocks,
    mu_dtype: DTypeLike | None,
    needs_nu: Callable[[kron.LeafPlan], bool],
    renewed: str,
    flops: Callable[[int], int],
) -> tuple[kron.Plan, np.dtype, dict[str, Any]]:
    """The plan, the dtype of the stacks, and the fields that a state with moments has.

    `needs_nu` tells which parameters have a second moment of their own shape; `renewed`
    is as of `plan_for`.
    """
    plan, dtype = plan_for(params, blocks, renewed, flops)
    fields = first_fields(params, mu_dtype, list(map(needs_nu, plan.leaves)))
    return plan, dtype, fields


def plan_for(
    params: Any, blocks: kron.Blocks, renewed: str, flops: Callable[[int], int]
) -> tuple[kron.Plan, np.dtype]:
    """The plan and the dtype of the stacks.

    `renewed` is what is computed anew of each factor, "roots" or "bases", and `flops`
    what that costs for a size.
    """
    paths, leaves = named_leaves(params)
    check_parameters(paths, leaves)
    plan = kron.make_plan(paths, leaves, blocks)
    record_plan(plan, blocks, renewed, flops)
    return plan, _stack_dtype(leaves, plan)


def first_fields(
    params: Any, mu_dtype: DTypeLike | None, needs_nu: Sequence[bool]
) -> dict[str, Any]:
    """The counters, flags and moments that a state with moments begins with.

    `needs_nu` tells of each leaf whether it has a second moment of its own shape.
    """
    leaves, treedef = jax.tree.flatten(params)

    def second_moment(leaf, needed):
        dtype = compute_dtype(leaf.dtype)
        return jnp.zeros_like(leaf, dtype=dtype) if needed else jnp.zeros([], dtype)

    return {
        **counters(params),
        "mu": jax.tree.map(
            lambda p: jnp.zeros_like(p, dtype=mu_dtype or compute_dtype(p.dtype)), params
        ),
        "nu": treedef.unflatten(map(second_moment, leaves, needs_nu)),
    }


def counters(params: Any) -> dict[str, Any]:
    """The counters and flags that every state begins with."""
    return {
        "count": jnp.zeros([], jnp.int32),
        "steps": jax.tree.map(lambda _: jnp.zeros([], jnp.int32), params),
        "nonfinite": jax.tree.map(lambda _: jnp.zeros([], bool), params),
    }


def count_in(state: Any, finite: Sequence[jax.Array]) -> list:
    """How many gradients each parameter has taken in: a refused one is not counted."""
    return [
        n + ok.astype(n.dtype)
        for n, ok in zip(jax.tree.leaves(state.steps), finite, strict=True)
    ]


def give_back(
    updates: Any, state: Any, out: list, finite: list, steps: list, **moments: list
) -> tuple[Any, Any]:
    """Updates and state as trees; the update of a refused gradient is zero."""
    leaves, treedef = jax.tree.flatten(updates)
    out = [
        jnp.where(ok, u, 0).astype(leaf.dtype)
        for ok, u, leaf in zip(finite, out, leaves, strict=True)
    ]
    return treedef.unflatten(out), state._replace(
        count=optax.safe_increment(state.count),
        steps=treedef.unflatten(steps),
        nonfinite=treedef.unflatten([~ok for ok in finite]),
        **{name: treedef.unflatten(leaves) for name, leaves in moments.items()},
    )


def per_size(plan: kron.Plan, make: Callable[[int, int], jax.Array]) -> Any:
    """Stacks of factors, `make(size, count)` for each size."""
    stacks = {size: make(size, count) for size, count in plan.num_factors.items()}
    # A leaf also where there is no matrix: `optax.tree.map_params` needs one.
    return stacks or jnp.zeros([])


def adam(mean: jax.Array, variance: jax.Array, eps: ScalarLike) -> jax.Array:
    """Adam's step, from moments that are corrected for their start."""
    return mean / (jnp.sqrt(variance) + eps)


def check_blocks(blocks: Any) -> None:
    if not isinstance(blocks, kron.Blocks):
        raise TypeError(f"`blocks` must be a `jaxla.kron.Blocks`; got {blocks!r}.")


def check_no_roots(name: str, blocks: kron.Blocks, why: str = "takes no roots") -> None:
    """`blocks` must not ask for roots of a method that has none, or its own."""
    for field in ("exponent", "normalize_trace", "root"):
        given, default = getattr(blocks, field, None), getattr(kron.Blocks, field)
        if isinstance(blocks, kron.Blocks) and given != default:
            raise ValueError(
                f"`{name}` {why}: leave `{field}` of `blocks` at {default!r}; "
                f"got {given!r}."
            )


def then_decay_and_rate(
    scale: optax.GradientTransformation,
    weight_decay: ScalarLike,
    weight_decay_mask: Any,
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """A direction, then decoupled weight decay, then the learning rate."""
    return optax.chain(
        scale,
        # `Any`: Optax's annotation has no room for a NumPy scalar.
        optax.add_decayed_weights(cast(Any, weight_decay), weight_decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def take_in(
    updates: Any,
    state: Any,
    blocks: kron.Blocks,
    decays: Sequence[ScalarLike] = (),
    margin: float = 1.0,
) -> Gradients:
    """The gradients in the dtype to compute in, and what is to be known of them."""
    paths, leaves = named_leaves(updates)
    plan = kron.make_plan(paths, leaves, blocks)
    grads = [leaf.astype(compute_dtype(leaf.dtype)) for leaf in leaves]
    # Nor will an entry of a Gram matrix overflow. The barrier keeps XLA from storing the
    # squares for the second moments.
    finite = [
        jnp.isfinite(margin * sum_of_squares(jax.lax.optimization_barrier(g)))
        for g in grads
    ]
    steps = count_in(state, finite)
    weights = _weights(finite, steps, decays) if decays else ()
    return Gradients(plan, grads, finite, steps, weights, _stack_dtype(grads, plan))


def _weights(
    finite: Sequence[jax.Array], steps: Sequence[jax.Array], decays: Sequence[ScalarLike]
) -> tuple[list[jax.Array], ...]:
    """A refused gradient has weight zero in every average."""
    rates = jnp.stack([jnp.asarray(decay, jnp.float32) for decay in decays])
    each = [
        jnp.where(ok, kron.debiased_weight(rates, n), 0)
        for n, ok in zip(steps, finite, strict=True)
    ]
    return tuple([w[i] for w in each] for i in range(len(decays)))


def _stack_dtype(leaves: Sequence[Any], plan: kron.Plan) -> np.dtype:
    """The widest dtype that a matrix of the plan is computed in."""
    dtypes = [
        compute_dtype(leaf.dtype)
        for leaf, leaf_plan in zip(leaves, plan.leaves, strict=True)
        if leaf_plan.axes is not None
    ]
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=np.dtype(jnp.float32))

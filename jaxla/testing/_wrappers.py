"""Checks that a transformation works inside those of Optax that wrap others."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ._toy import (
    assert_close,
    assert_identical,
    contract,
    Factory,
    plain_run,
    Run,
    steps,
)


_MASK = {"bias": False, "dense": True, "norm": {"scale": False}}


def check_masked(factory: Factory) -> None:
    """A masked transformation does to its part of the tree what it does to it alone.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `optax.masked` fails, or gives other numbers. In place of the
    parameters that are masked out stand `optax.MaskedNode`s, which have no leaves.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_masked(optax.adam)
    """
    run, alone = plain_run(factory), plain_run(factory, ("dense",))
    opt = optax.masked(run.opt, _MASK)
    with contract(
        "`optax.masked` puts `optax.MaskedNode`s, trees without leaves, where parameters "
        "are not yours: treat parameters by `jax.tree.map`, and never by their keys."
    ):
        updates = _updates(opt, run)
        nothing = optax.masked(run.opt, jax.tree.map(lambda _: False, _MASK))
        state = jax.eval_shape(nothing.init, run.params)
        jax.eval_shape(nothing.update, run.grads[0], state, run.params)
    ours = [{"dense": update["dense"]} for update in updates]
    assert_close(ours, alone.updates, "The updates that are not masked out")
    for update, grad in zip(updates, run.grads, strict=True):
        assert_identical(update["bias"], grad["bias"], "The updates that are masked out")


def check_partition(factory: Factory) -> None:
    """Two transformations share a tree by `optax.partition`.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `optax.partition` fails, or one part disturbs the other.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_partition(optax.adam)
    """
    run, alone = plain_run(factory), plain_run(factory, ("dense",))
    labels = jax.tree.map(lambda ours: "ours" if ours else "rest", _MASK)
    opt = optax.partition({"ours": run.opt, "rest": optax.sgd(1.0)}, labels)
    with contract(
        "`optax.partition` gives each transformation a part of the tree, with "
        "`optax.MaskedNode`s elsewhere."
    ):
        updates = _updates(opt, run)
    for update, ours, grad in zip(updates, alone.updates, run.grads, strict=True):
        expected = jax.tree.map(jnp.negative, grad) | ours
        assert_close(update, expected, "The partitioned updates")


def check_multi_steps(factory: Factory) -> None:
    """Accumulating gradients equals a step on their mean.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `optax.MultiSteps` fails or gives other numbers.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_multi_steps(optax.adam)
    """
    run = plain_run(factory)
    with contract(
        "`optax.MultiSteps` computes an update in every step, and chooses leaf by leaf "
        "between the old state and the new: tree and shapes of the state must not change."
    ):
        updates = _updates(optax.MultiSteps(run.opt, every_k_schedule=2), run)
    pairs = list(zip(run.grads[::2], run.grads[1::2], strict=True))
    means = [jax.tree.map(lambda x, y: (x + y) / 2, *pair) for pair in pairs]
    expected, _ = steps(run.update, means, run.states[0], run.params)
    zeros = [jax.tree.map(jnp.zeros_like, run.params)] * len(means)
    assert_close(updates[::2], zeros, "The updates while gradients accumulate")
    assert_close(updates[1::2], expected, "The updates with the accumulated gradients")


def check_apply_if_finite(factory: Factory) -> None:
    """A step that `optax.apply_if_finite` refuses has never happened.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `optax.apply_if_finite` fails, or a refused gradient leaves
    traces.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_apply_if_finite(optax.adam)
    """
    run = plain_run(factory)
    opt = optax.apply_if_finite(run.opt, max_consecutive_errors=3)
    bad = jax.tree.map(lambda x: x * jnp.nan, run.grads[0])
    grads = [run.grads[0], bad, *run.grads[1:]]
    with contract(
        "`optax.apply_if_finite` calls `update` inside `jax.lax.cond`, so that tree and "
        "types of state and updates must not change."
    ):
        state = opt.init(run.params)
        updates, _ = steps(jax.jit(opt.update), grads, state, run.params)
    refused = updates.pop(1)
    zeros = jax.tree.map(jnp.zeros_like, run.params)
    assert_close(refused, zeros, "The update with a gradient that is not finite")
    assert_close(updates, run.updates, "The updates before and after it")


def check_map_params(factory: Factory) -> None:
    """`optax.tree.map_params` finds the parameters' part of the state.

    It is how a state gets the shardings of its parameters. For that, each field of
    the state that belongs to the parameters is a tree like theirs, with one leaf a
    parameter.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if the mapping fails, changes the tree, or gives a leaf of the
    state a parameter of another shape.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_map_params(optax.adam)
    """
    run = plain_run(factory)
    state: Any = run.states[0]
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(leaf, param):
        assert leaf.shape in ((), param.shape), (
            f"A parameter of shape {param.shape} has been given a leaf of {leaf.shape}."
        )
        return replicated

    with contract(
        "`optax.tree.map_params` calls `init` on a tree without leaves, and asks for "
        "one leaf a parameter in each field that belongs to them, a scalar where there "
        "is nothing to hold, and for at least one leaf in every other field."
    ):
        same = optax.tree.map_params(run.opt.init, lambda leaf: leaf, state)
        assert_identical(same, state, "The state under the identity")
        where = optax.tree.map_params(
            run.opt.init,
            place,
            state,
            run.params,
            transform_non_params=lambda _: replicated,
        )
        placed = jax.device_put(state, where)
        assert_identical(placed, state, "The state placed on a mesh")


def _updates(opt: Any, run: Run) -> list[Any]:
    state = opt.init(run.params)
    return steps(jax.jit(opt.update), run.grads, state, run.params)[0]

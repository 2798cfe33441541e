"""Checks of what a transformation is for: it descends, and survives bad gradients."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ._toy import (
    assert_close,
    assert_finite,
    assert_no_nan,
    contract,
    Factory,
    named_leaves,
    plain_run,
    random_tree,
    SHAPES,
    steps,
)


def check_descends(factory: Factory, *, learning_rate: float = 0.05) -> None:
    """A quadratic and a small network have a lower loss after some steps.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.
    - `learning_rate`: one that suits it.

    **Returns:**

    Nothing; raises unless 100 steps halve the loss of a quadratic and of a network
    on a small regression.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_descends(optax.adam)
    """
    opt = optax.with_extra_args_support(factory(learning_rate))
    target = random_tree(SHAPES, 1)
    key, x_key = jax.random.split(jax.random.key(0))
    model = eqx.nn.MLP(2, "scalar", 8, 1, activation=jnp.tanh, key=key)
    network, static = eqx.partition(model, eqx.is_inexact_array)
    x = jax.random.normal(x_key, (16, 2))

    def losses(params):
        errors = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params[0], target)
        y = jax.vmap(eqx.combine(params[1], static))(x)
        return {
            "quadratic": sum(jax.tree.leaves(errors)) / 2,
            "network": jnp.mean((y - x[:, 0] * x[:, 1]) ** 2),
        }

    with contract(
        "updates are added to the parameters, hence point downhill: they carry the sign "
        "and the size of `-learning_rate`."
    ):
        first, last = _train(opt, losses, (random_tree(SHAPES, 0), network))
        for name in first:
            assert last[name] < first[name] / 2, (
                f"The {name}'s loss goes from {first[name]} to {last[name]}."
            )


def _train(opt: Any, losses: Callable, params: Any) -> tuple[Any, Any]:
    """The losses before and after 100 steps that descend their sum."""

    def step(carry, _):
        params, state = carry
        grad = jax.grad(lambda params: sum(losses(params).values()))(params)
        updates, state = opt.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params):
        (trained, _), _ = jax.lax.scan(step, (params, opt.init(params)), length=100)
        return losses(params), losses(trained)

    return run(params)


def check_zero_gradient(factory: Factory) -> None:
    """A gradient of exact zeros, at first or later, does no harm.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises at an update that is not finite, or a NaN in the state.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_zero_gradient(optax.adam)
    """
    run = plain_run(factory)
    zero = jax.tree.map(jnp.zeros_like, run.params)
    grads = [zero, zero, run.grads[0], zero, run.grads[1]]
    with contract(
        "zero gradients occur, for instance of an embedding that was not looked up. "
        "Divide by nothing that they make zero."
    ):
        updates, states = steps(run.update, grads, run.states[0], run.params)
        assert_finite(updates, "The updates around a zero gradient")
        assert_no_nan(states, "The states around a zero gradient")


def check_nonfinite(factory: Factory) -> None:
    """A NaN or an infinity in the gradient of one parameter stays there.

    Not part of the contract of Optax, and none of its optimizers claims it: this
    check is not in [`jaxla.testing.TRANSFORMATION_CHECKS`][].

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation that gives such
        a parameter a zero update, and keeps the bad value out of its state.

    **Returns:**

    Nothing; raises if the update of the parameter is not zero, another parameter is
    disturbed, a later update is not finite, or the parameter does not move again.

    !!! example

        >>> import jaxla.testing, jaxla.optim
        >>> jaxla.testing.check_nonfinite(jaxla.optim.shampoo)
    """
    run = plain_run(factory)
    leaves, treedef = jax.tree.flatten(run.grads[1])
    with contract(
        "a parameter with a gradient that is not finite gets a zero update, and its "
        "state forgets that gradient."
    ):
        for bad in (jnp.nan, jnp.inf):
            for i, (path, leaf) in enumerate(named_leaves(run.grads[1])):
                poisoned = leaf.ravel().at[-1].set(bad).reshape(leaf.shape)
                spoilt = treedef.unflatten([*leaves[:i], poisoned, *leaves[i + 1 :]])
                grads = [run.grads[0], spoilt, *run.grads[2:]]
                updates, states = steps(run.update, grads, run.states[0], run.params)
                what = f"with {bad} in the gradient of {path}"
                assert_no_nan(states, f"The states {what}")
                assert_finite(updates, f"The updates {what}")
                _check_others(updates, run.updates, i, what)


def _check_others(updates: Any, expected: Any, index: int, what: str) -> None:
    own, *later = (jax.tree.leaves(update)[index] for update in updates[1:])
    assert not own.any(), f"The update {what} is {own}."
    assert all(update.any() for update in later), f"No update comes after one {what}."
    others = [
        [leaf for i, leaf in enumerate(jax.tree.leaves(update)) if i != index]
        for update in (*updates, *expected)
    ]
    half = len(others) // 2
    assert_close(others[:half], others[half:], f"The updates of others {what}")

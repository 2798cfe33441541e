"""Checks that hyperparameters can be traced, scheduled and changed on the way."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._toy import (
    assert_close,
    contract,
    counted_jit,
    Factory,
    LEARNING_RATE,
    plain_run,
    steps,
)


def check_injection(factory: Factory) -> None:
    """Every numeric hyperparameter can be injected, and changed between two steps.

    `optax.inject_hyperparams` traces every integer and float in the signature of
    the factory. What sets a shape, or chooses a branch, must not be among them.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation, with its other
        hyperparameters as further arguments: give the optimizer itself or a
        `functools.partial` of it.

    **Returns:**

    Nothing; raises if a hyperparameter cannot be traced, if injected ones give other
    updates than plain ones, or if a change has no effect or compiles anew.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_injection(optax.adam)
    """
    run = plain_run(factory)
    injected = optax.inject_hyperparams(factory)(LEARNING_RATE)
    update, traces = counted_jit(injected.update)
    with contract(
        "numeric hyperparameters may be traced, so that `optax.inject_hyperparams` needs "
        "no `static_args`. Write `jnp.where` in place of `if`, and put integers that "
        "set a shape into one frozen dataclass."
    ):
        state: Any = jax.jit(injected.init)(run.params)
        updates, _ = steps(update, run.grads, state, run.params)
    assert_close(updates, run.updates, "The updates with injected hyperparameters")

    changed = {name: _nudge(value) for name, value in state.hyperparams.items()}
    updates, _ = steps(update, run.grads, state._replace(hyperparams=changed), run.params)
    with contract(
        "a hyperparameter that is changed in the state takes effect in the next step, "
        "without a new compilation. Compute nothing from it before `update`."
    ):
        opt = optax.with_extra_args_support(_with(factory, changed))
        expected, _ = steps(
            jax.jit(opt.update), run.grads, opt.init(run.params), run.params
        )
        assert_close(updates, expected, "The updates with changed hyperparameters")
        assert len(traces) == 1, f"`update` was traced {len(traces)} times."


def check_schedule(factory: Factory) -> None:
    """The learning rate may be a schedule, plain or injected.

    **Arguments:**

    - `factory`: a function from a learning rate or a schedule to a transformation.

    **Returns:**

    Nothing; raises if a schedule is refused or ignored, or if it does not start
    with its value at 0.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_schedule(optax.adam)
    """

    def schedule(count):
        return LEARNING_RATE / (1 + count)

    run = plain_run(factory)
    with contract(
        "the learning rate is an `optax.ScalarOrSchedule`. End the chain with "
        "`optax.scale_by_learning_rate(learning_rate)`."
    ):
        plain = optax.with_extra_args_support(factory(schedule))
        injected = optax.inject_hyperparams(factory)(schedule)
        updates, expected = (
            steps(jax.jit(opt.update), run.grads, opt.init(run.params), run.params)[0]
            for opt in (plain, injected)
        )
        assert_close(updates, expected, "The updates with a schedule, plain and injected")
        assert_close(updates[0], run.updates[0], "The first update with a schedule")
        last, constant = jax.tree.leaves(updates[-1]), jax.tree.leaves(run.updates[-1])
        moved = [
            not np.allclose(x, y, rtol=1e-2) for x, y in zip(last, constant, strict=True)
        ]
        assert all(moved), "The schedule has no effect on the last update."


def _nudge(value: jax.Array) -> jax.Array:
    """Another sensible value: rates and decays stay between 0 and 1."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    return jnp.where(value == 0, 0.01, 0.9 * value).astype(value.dtype)


def _with(factory: Factory, hyperparams: dict[str, jax.Array]):
    """The transformation with given hyperparameters, as Python numbers."""
    bound = inspect.signature(factory).bind(LEARNING_RATE)
    bound.apply_defaults()
    bound.arguments.update({name: value.item() for name, value in hyperparams.items()})
    return factory(*bound.args, **bound.kwargs)

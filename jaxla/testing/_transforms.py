"""Checks that `update` composes with the transformations of JAX."""

import jax
import jax.numpy as jnp
import numpy as np

from ._toy import (
    assert_close,
    contract,
    Factory,
    make,
    plain_run,
    random_tree,
    SHAPES,
    steps,
)


def check_jit(factory: Factory) -> None:
    """A compiled step equals an eager one.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if the updates differ.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_jit(optax.adam)
    """
    run = plain_run(factory)
    with contract(
        "`update` computes the same inside `jax.jit` and outside. Do not branch on "
        "whether a value is known."
    ):
        updates, _ = steps(run.opt.update, run.grads[:2], run.states[0], run.params)
        assert_close(updates, run.updates[:2], "The updates without `jax.jit`")


def check_scan(factory: Factory) -> None:
    """Steps inside `jax.lax.scan` equal a Python loop.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if the state cannot be carried, or the updates differ.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_scan(optax.adam)
    """
    run = plain_run(factory)

    @jax.jit
    def scanned(grads):
        def step(state, grad):
            update, state = run.opt.update(grad, state, run.params)
            return state, update

        return jax.lax.scan(step, run.opt.init(run.params), grads)[1]

    with contract(
        "states can be carried through `jax.lax.scan`: `update` returns a state of the "
        "tree and types of the one that it was given."
    ):
        updates = scanned(_stack(run.grads))
        assert_close(updates, _stack(run.updates), "The updates inside `jax.lax.scan`")


def check_vmap(factory: Factory) -> None:
    """An ensemble under `jax.vmap` does what its members do one by one.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `init` or `update` cannot be mapped, or a member is not what
    it would be alone.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_vmap(optax.adam)
    """
    run = plain_run(factory)
    params = [random_tree(SHAPES, seed) for seed in (10, 11, 12)]
    grads = [[random_tree(SHAPES, 20 + 3 * t + i) for i in range(3)] for t in range(2)]
    with contract(
        "ensembles train under `jax.vmap`: use no operation without a batching rule, and "
        "let the state of a member depend on that member alone."
    ):
        stacked = _stack(params)
        state = jax.vmap(run.opt.init)(stacked)
        update = jax.jit(jax.vmap(run.opt.update))
        updates, _ = steps(update, list(map(_stack, grads)), state, stacked)
    for i, member in enumerate(params):
        own, state = [grad[i] for grad in grads], run.opt.init(member)
        expected, _ = steps(run.update, own, state, member)
        actual = jax.tree.map(lambda x, i=i: x[i], updates)
        assert_close(actual, expected, f"The updates of member {i}")


def check_differentiable(factory: Factory) -> None:
    """Updates can be differentiated with respect to gradients, as meta-learning does.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation. Leave this
        check out for a method that is not smooth, such as `optax.sign_sgd`.

    **Returns:**

    Nothing; raises if the derivative in reverse mode through two steps fails, or
    does not agree with a finite difference.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_differentiable(optax.adam)
    """
    opt = make(factory)
    # In double precision: a small difference, and then the difference of its effects.
    with jax.enable_x64(True):
        params, first, second, direction, weight = (
            random_tree(SHAPES, seed, np.float64) for seed in range(5)
        )

        def one_step(state, grad):
            update, state = opt.update(grad, state, params)
            return state, update

        def outcome(distance):
            moved = jax.tree.map(lambda g, d: g + distance * d, first, direction)
            _, updates = jax.lax.scan(one_step, opt.init(params), _stack([moved, second]))
            products = jax.tree.map(lambda u, w: jnp.sum(u * w), updates, weight)
            return sum(jax.tree.leaves(products), start=jnp.zeros([]))

        with contract(
            "a loss after some steps has a derivative. Avoid operations without one, "
            "and roots of an exact zero."
        ):
            derivative = jax.jit(jax.value_and_grad(outcome))
            step = 1e-3
            (above, _), (value, slope), (below, _) = map(derivative, (step, 0.0, -step))
            # Some methods have a few numbers in single precision whatever comes.
            np.testing.assert_allclose(
                slope,
                (above - below) / (2 * step),
                rtol=0.02,
                atol=1e-3 * abs(value),
                err_msg="The derivative through two steps",
            )


def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

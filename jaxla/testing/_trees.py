"""Checks that a transformation takes parameters as they come: any tree, any shape."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ._toy import (
    assert_close,
    assert_finite,
    assert_same_types,
    contract,
    Factory,
    make,
    plain_run,
    random_tree,
    steps,
)


_ODD_SHAPES = [(), (1,), (3,), (1, 1), (1, 5), (5, 1), (2, 3, 4), (1, 4, 1, 3)]


def check_tree_type(factory: Factory) -> None:
    """The same parameters in another tree, in another order, get the same updates.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if lists and tuples are not taken as dictionaries are, or the
    order of the parameters counts.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_tree_type(optax.adam)
    """
    run = plain_run(factory)

    def rearranged(tree):
        return [tree["norm"]["scale"], (tree["dense"], [tree["bias"]])]

    with contract(
        "updates depend on a parameter and its gradients, and neither on the kind of the "
        "containers nor on the order of the leaves. Do not take tuples for leaves."
    ):
        params, grads = rearranged(run.params), list(map(rearranged, run.grads))
        state = run.opt.init(params)
        updates, _ = steps(jax.jit(run.opt.update), grads, state, params)
        expected = list(map(rearranged, run.updates))
        assert_close(updates, expected, "The updates of a rearranged tree")


def check_odd_leaves(factory: Factory) -> None:
    """Scalars, axes of length one, many axes, and an array in place of a tree.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if a shape is refused, changed, or gets an update that is not
    finite.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_odd_leaves(optax.adam)
    """
    opt, params = make(factory), random_tree(_ODD_SHAPES, 0)
    grads = [random_tree(_ODD_SHAPES, seed) for seed in (1, 2)]
    with contract(
        "parameters of every shape get a finite update of that shape. Leave to a "
        "diagonal method what your own does not fit."
    ):
        state = opt.init(params)
        updates, states = steps(jax.jit(opt.update), grads, state, params)
        assert_same_types(states[-1], state, "The state for parameters of odd shapes")
        assert_same_types(updates[-1], params, "The updates of odd shapes")
        assert_finite(updates, "The updates of odd shapes")
    with contract("a single array is a tree as well."):
        array = params[-2]
        update, _ = jax.eval_shape(opt.update, array, opt.init(array), array)
        assert_same_types(update, array, "The update of a single array")


def check_empty_tree(factory: Factory) -> None:
    """A tree without leaves is no error.

    A group of `optax.partition` may turn out to be empty, and
    `optax.tree.map_params` calls `init` on such a tree.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `init` or `update` fails, or the type of the state changes.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_empty_tree(optax.adam)
    """
    opt = make(factory)
    with contract(
        "a tree without leaves is a tree. Give sums and maxima over leaves a start."
    ):
        state = opt.init({})
        updates, new = jax.jit(opt.update)({}, state, {})
        assert updates == {}, f"The updates of an empty tree are {updates}."
        assert_same_types(new, state, "The state of an empty tree")


def check_equinox(factory: Factory) -> None:
    """An Equinox model, filtered, can be trained.

    `eqx.filter(model, eqx.is_inexact_array)` has `None` where the model has functions.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `init` or `update` fails, or the updates do not fit the model.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_equinox(optax.adam)
    """
    opt, key = make(factory), jax.random.key(0)
    model = eqx.nn.MLP(2, 3, 4, 1, key=key)
    params = eqx.filter(model, eqx.is_inexact_array)
    x = jnp.array([0.5, -1.0])
    grads = eqx.filter_grad(lambda model: jnp.sum(model(x) ** 2))(model)
    with contract(
        "parameters are `eqx.filter(model, eqx.is_inexact_array)`, in which `None` "
        "stands for what is no parameter; leave it where it is."
    ):
        state: Any = opt.init(params)
        updates, _ = jax.jit(opt.update)(grads, state, params)
        assert_same_types(updates, params, "The updates of an Equinox model")
        assert_finite(updates, "The updates of an Equinox model")
        new = eqx.apply_updates(model, updates)
        assert bool(jnp.any(new(x) != model(x))), "The update leaves the model as it was."
        same = optax.tree.map_params(opt.init, lambda leaf: leaf, state)
        assert_same_types(same, state, "The state under `optax.tree.map_params`")

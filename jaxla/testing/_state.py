"""Checks of the state: what `init` makes of shapes alone, and that its type stays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._toy import (
    assert_close,
    assert_finite,
    assert_same_types,
    contract,
    Factory,
    LEARNING_RATE,
    make,
    named_leaves,
    plain_run,
    random_tree,
    SHAPES,
    toy_params,
    types,
)


def check_abstract_init(factory: Factory) -> None:
    """`init` works on shapes and dtypes alone.

    Large models are planned, sharded and restored before any parameter exists.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `init` fails on a tree of `jax.ShapeDtypeStruct`, or makes
    another state of it than of arrays.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_abstract_init(optax.adam)
    """
    opt, params = make(factory), toy_params()
    shapes = jax.eval_shape(lambda: params)
    with contract(
        "`init` must accept `jax.ShapeDtypeStruct`s. Make states by `jnp.zeros_like` "
        "of a leaf or from its shape and dtype, never by arithmetic on it."
    ):
        traced = jax.eval_shape(opt.init, shapes)
        # A state that starts as a copy of the parameters cannot do this; an error
        # other than that is a mistake.
        direct = opt.init(shapes)
    expected = types(opt.init(params))
    for how, state in (("under `jax.eval_shape`", traced), ("of shapes", direct)):
        got = types(state)
        assert got == expected, (
            f"`init` {how} makes another state than `init` of arrays:\n"
            f"  {got}\ninstead of\n  {expected}"
        )


def check_state_type(factory: Factory) -> None:
    """The state keeps its type, and the updates have that of the gradients.

    Type means the tree, and of each leaf shape, dtype, weak type and sharding, as
    `jax.typeof` tells them: `jax.lax.scan` and `jax.lax.cond` ask for no less.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if a type changes.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_state_type(optax.adam)
    """
    run = plain_run(factory)
    with contract(
        "`update` must return a state of the type that `init` made. Cast what you "
        "store to the dtype of the old leaf, and beware of Python scalars: their "
        "arrays are weakly typed."
    ):
        for state in run.states[1:]:
            assert_same_types(state, run.states[0], "The state after an update")
    with contract("`update` must return updates of the tree and type of the gradients."):
        for update, grad in zip(run.updates, run.grads, strict=True):
            assert_same_types(update, grad, "The updates")


def check_compiles_once(factory: Factory) -> None:
    """Every step runs the program that the first compiled.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if a later step of a jitted `update` is traced anew.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_compiles_once(optax.adam)
    """
    run = plain_run(factory)
    with contract(
        "a jitted `update` must be traced once. A state that changes its type, or "
        "holds Python objects in its tree, has it traced again."
    ):
        assert run.num_traces == 1, (
            f"`jax.jit(update)` was traced {run.num_traces} times in "
            f"{len(run.grads)} steps."
        )


def check_dtypes(factory: Factory) -> None:
    """Updates have the dtype of the gradients: half, single and double precision.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if a dtype differs, the type of the state changes, or an update
    in half precision is not finite.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_dtypes(optax.adam)
    """
    with contract(
        "updates must have the dtype of the gradients, whatever you compute in: end "
        "with `update.astype(grad.dtype)`, and cast the state back to its own dtype."
    ):
        for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
            _check_dtype(factory, random_tree(SHAPES, 0, dtype))
        with jax.enable_x64(True):
            _check_dtype(factory, random_tree(SHAPES, 0, np.float64))
        low = {name: jnp.dtype(name) for name in ("bfloat16", "float16", "float32")}
        mixed = {name: random_tree((4, 3), 0, dtype) for name, dtype in low.items()}
        opt = _check_dtype(factory, mixed)
        updates, _ = jax.jit(opt.update)(mixed, opt.init(mixed), mixed)
        assert_finite(updates, "The updates of half-precision parameters")


def _check_dtype(factory: Factory, params) -> optax.GradientTransformationExtraArgs:
    opt = make(factory)
    state = jax.eval_shape(opt.init, params)
    updates, new = jax.eval_shape(opt.update, params, state, params)
    names = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    what = f"for parameters of {' and '.join(sorted(names))}"
    assert_same_types(updates, jax.eval_shape(lambda: params), f"The updates {what}")
    assert_same_types(new, state, f"The state {what}")
    return opt


def check_state_leaves(factory: Factory) -> None:
    """The state consists of arrays that every checkpoint library can save.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises at a leaf that is no array, has no entries (Orbax refuses it),
    or holds a typed random key (Equinox cannot save it).

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_state_leaves(optax.adam)
    """
    with contract(
        "states must be saved by every checkpoint library. Put a scalar where there "
        "is nothing to hold, and keep an integer seed and fold the count into it in "
        "place of a random key."
    ):
        for path, leaf in named_leaves(plain_run(factory).states[0]):
            assert isinstance(leaf, jax.Array), f"{path} is no JAX array: {leaf!r}."
            assert leaf.size, f"{path} has shape {leaf.shape}, no entries."
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            assert not is_key, f"{path} is a random key of dtype {leaf.dtype}."


def check_count(factory: Factory) -> None:
    """The state counts the updates, where `optax.tree.get` finds it.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation. Leave this
        check out for one without any state, such as `optax.sgd`.

    **Returns:**

    Nothing; raises unless the field `count` is an `int32` scalar that goes from 0
    up by one.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_count(optax.adam)
    """
    with contract(
        "the state is a `NamedTuple` with a field `count: int32 scalar`, 0 at first, "
        "that `optax.safe_increment` moves on; Optax does not look into other classes."
    ):
        for expected, state in enumerate(plain_run(factory).states):
            counts = optax.tree.get_all_with_path(state, "count")
            assert counts, "`optax.tree.get(state, 'count')` finds nothing."
            for _, count in counts:
                kind = (jnp.shape(count), jnp.result_type(count))
                assert kind == ((), jnp.int32), f"`count` has {kind}."
                assert int(count) == expected, (
                    f"`count` is {count} after {expected} updates."
                )


def check_extra_args(factory: Factory) -> None:
    """`update` passes over keyword arguments that it does not know.

    Others in a chain may need them.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises unless `update` takes them.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_extra_args(optax.adam)
    """
    opt, params = factory(LEARNING_RATE), toy_params()
    with contract(
        "transformations are `optax.GradientTransformationExtraArgs`, and `update` "
        "takes `**extra_args`."
    ):
        extra_args = isinstance(opt, optax.GradientTransformationExtraArgs)
        assert extra_args, f"The factory returns {type(opt).__name__}."
        state = jax.eval_shape(opt.init, params)

        def update(updates, state, params):
            return opt.update(updates, state, params, an_argument_of_another=1)

        jax.eval_shape(update, params, state, params)


def check_hidden_state(factory: Factory) -> None:
    """All that a transformation remembers is in its state.

    One object serves two models, and the same input gives the same output.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if an `init` disturbs the run of another model, or a second
    trace gives other numbers.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_hidden_state(optax.adam)
    """
    run, opt = plain_run(factory), make(factory)
    with contract(
        "`init` and `update` are pure functions: what `update` must know of the "
        "parameters it reads from its arguments, never from a variable that an earlier "
        "call has set."
    ):
        state = opt.init(run.params)
        opt.init({"another": jnp.ones((3, 2)), "model": jnp.ones(5)})
        # In a function of its own, whose trace `jax.jit` cannot reuse.
        jax.eval_shape(lambda *args: opt.update(*args), run.grads[0], state, run.params)
        updates, _ = jax.jit(opt.update)(run.grads[0], state, run.params)
        assert_close(updates, run.updates[0], "The updates of the second trace")

"""The small problem that every check runs on, and how two results are compared."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


Factory = Callable[..., optax.GradientTransformation]
"""A function from a learning rate to a transformation, such as `optax.adam`."""

LEARNING_RATE = 0.1
NUM_STEPS = 4
# For rounding errors of a program that is compiled in another way; measured, 1e-5 at
# most, for Shampoo on a mesh.
TOLERANCE = 1e-4
# Square, so that the Gram matrices of a single gradient are regular: of a singular
# one, an inverse root consists of rounding errors.
SHAPES = {"bias": (4,), "dense": (10, 10), "norm": {"scale": ()}}


class Run(NamedTuple):
    """What a transformation does by itself; the checks compare with it."""

    opt: optax.GradientTransformationExtraArgs
    update: Callable  # compiled
    params: Any
    grads: list[Any]
    updates: list[Any]
    states: list[Any]  # the first is that of `init`
    num_traces: int


def plain_run(factory: Factory, keys: Sequence[str] = tuple(SHAPES)) -> Run:
    """Some steps on the toy problem, or on a part of its parameters."""
    try:
        hash(factory)
    except TypeError:
        return _plain_run.__wrapped__(factory, tuple(keys))
    return _plain_run(factory, tuple(keys))


# Each check asks for the same run: without the cache it would be compiled each time.
@functools.lru_cache(maxsize=8)
def _plain_run(factory: Factory, keys: tuple[str, ...]) -> Run:
    opt = make(factory)
    params = {key: toy_params()[key] for key in keys}
    grads = [{key: grad[key] for key in keys} for grad in toy_grads()]
    update, traces = counted_jit(opt.update)
    updates, states = steps(update, grads, opt.init(params), params)
    return Run(opt, update, params, grads, updates, states, len(traces))


def make(factory: Factory) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(factory(LEARNING_RATE))


def toy_params() -> Any:
    return random_tree(SHAPES, 0)


def toy_grads(like: Any = SHAPES) -> list[Any]:
    return [random_tree(like, seed) for seed in range(1, NUM_STEPS + 1)]


def random_tree(shapes: Any, seed: int, dtype: Any = jnp.float32) -> Any:
    """Normal arrays with the shapes that are the leaves of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple) and all(isinstance(n, int) for n in x),
    )


def steps(update: Callable, grads: Sequence[Any], state: Any, params: Any):
    """The updates, and the states from the given one on."""
    updates, states = [], [state]
    for grad in grads:
        update_, state = update(grad, state, params)
        updates.append(update_)
        states.append(state)
    return updates, states


def counted_jit(fn: Callable) -> tuple[Callable, list[None]]:
    """`jax.jit(fn)`, and a list that grows with each trace."""
    traces: list[None] = []

    @jax.jit
    def counted(*args):
        traces.append(None)
        return fn(*args)

    return counted, traces


@contextlib.contextmanager
def contract(text: str) -> Iterator[None]:
    """Adds to whatever is raised inside which part of the contract it breaks."""
    try:
        yield
    except Exception as error:
        error.add_note(f"Contract of an Optax transformation: {text}")
        raise


def types(tree: Any) -> dict[str, str]:
    """Path to shape, dtype, weak type and sharding of each array."""
    return {
        path: f"{kind}, weak type" if kind.weak_type else str(kind)
        for path, kind in ((p, jax.typeof(x)) for p, x in named_leaves(tree))
    }


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    with_paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in with_paths]


def assert_same_types(actual: Any, expected: Any, what: str) -> None:
    """Trees of one structure whose leaves have the same type."""
    old, new = jax.tree.structure(expected), jax.tree.structure(actual)
    assert old == new, f"{what}: the tree has changed from {old} to {new}."
    expected_types, changed = types(expected), types(actual)
    differ = [
        f"  {path or 'the leaf'}: {expected_types[path]} -> {kind}"
        for path, kind in changed.items()
        if kind != expected_types[path]
    ]
    assert not differ, "\n".join([f"{what}: types have changed.", *differ])


def assert_close(
    actual: Any, expected: Any, what: str, *, tolerance: float = TOLERANCE
) -> None:
    """Trees that agree up to `tolerance` times the largest entry of each leaf."""
    old, new = jax.tree.structure(expected), jax.tree.structure(actual)
    assert old == new, f"{what}: expected a tree {old}, got {new}."
    for (path, x), (_, y) in zip(
        named_leaves(actual), named_leaves(expected), strict=True
    ):
        x, y = np.asarray(x, float), np.asarray(y, float)
        largest = np.abs(y[np.isfinite(y)]).max(initial=0)
        np.testing.assert_allclose(
            x,
            y,
            rtol=0,
            atol=tolerance * largest,
            err_msg=f"{what}, at {path or 'the leaf'}",
        )


def assert_identical(actual: Any, expected: Any, what: str) -> None:
    """Trees that are the same, bit for bit."""
    assert_same_types(actual, expected, what)
    for (path, x), (_, y) in zip(
        named_leaves(actual), named_leaves(expected), strict=True
    ):
        same = np.asarray(x).tobytes() == np.asarray(y).tobytes()
        assert same, f"{what}: {path or 'the leaf'} differs, {x} instead of {y}."


def assert_finite(tree: Any, what: str) -> None:
    for path, leaf in named_leaves(tree):
        finite = bool(np.isfinite(np.asarray(leaf, float)).all())
        assert finite, f"{what}: {path or 'the leaf'} is not finite: {leaf}."


def assert_no_nan(tree: Any, what: str) -> None:
    # An infinity may be honest: a residual of something not computed yet.
    for path, leaf in named_leaves(tree):
        poisoned = bool(np.isnan(np.asarray(leaf, float)).any())
        assert not poisoned, f"{what}: {path or 'the leaf'} has a NaN: {leaf}."

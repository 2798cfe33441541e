"""Every contract check fails on a transformation that is broken in just its way."""

import functools
import subprocess
import sys
import unittest
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxla import testing


class State(NamedTuple):
    count: Any
    trace: Any


def init_momentum(params):
    return State(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))


def update_momentum(updates, state, params=None, **extra_args):
    trace = jax.tree.map(lambda m, g: 0.9 * m + g, state.trace, updates)
    return trace, State(optax.safe_increment(state.count), trace)


def momentum(init: Callable = init_momentum, update: Callable = update_momentum):
    """A factory of gradient descent with momentum, or of a broken one."""

    def factory(learning_rate):
        return optax.chain(
            optax.GradientTransformationExtraArgs(init, update),
            optax.scale_by_learning_rate(learning_rate),
        )

    return factory


def after(fn: Callable) -> Callable:
    """A factory of momentum whose updates are changed by a function."""

    def update(updates, state, params=None, **extra_args):
        updates, state = update_momentum(updates, state)
        return fn(updates), state

    return momentum(update=update)


def each(fn: Callable) -> Callable:
    """Likewise, leaf by leaf."""
    return after(functools.partial(jax.tree.map, fn))


def with_trace(make: Callable) -> Callable:
    """A factory of momentum whose traces start as a function of the parameter."""
    return momentum(lambda p: init_momentum(p)._replace(trace=jax.tree.map(make, p)))


class Extra(NamedTuple):
    count: Any
    trace: Any
    extra: Any


def with_extra(make: Callable, change: Callable = lambda extra: extra) -> Callable:
    """A factory of momentum with one more field in its state."""

    def init(params):
        return Extra(*init_momentum(params), make(params))

    def update(updates, state, params=None, **extra_args):
        updates, new = update_momentum(updates, State(*state[:2]))
        return updates, Extra(*new, change(state.extra))

    return momentum(init, update)


def counted_elsewhere(learning_rate):
    calls = []

    def update(updates, state, params=None, **extra_args):
        calls.append(None)
        updates, state = update_momentum(updates, state)
        return jax.tree.map(lambda u: u * len(calls), updates), state

    return momentum(update=update)(learning_rate)


def remembers_the_last_init(learning_rate):
    remembered = []

    def init(params):
        remembered[:] = jax.tree.leaves(params)
        return init_momentum(params)

    def update(updates, state, params=None, **extra_args):
        updates, state = update_momentum(updates, state)
        treedef = jax.tree.structure(updates)
        pairs = zip(jax.tree.leaves(updates), remembered, strict=False)
        moved = [u + 0 * p for u, p in pairs]
        return treedef.unflatten(moved), state

    return momentum(init, update)(learning_rate)


def no_extra_args(learning_rate):
    opt = momentum()(learning_rate)
    return optax.GradientTransformation(
        opt.init, lambda u, s, p=None: opt.update(u, s, p)
    )


def refuses_extra_args(learning_rate):
    opt = no_extra_args(learning_rate)
    return optax.GradientTransformationExtraArgs(opt.init, opt.update)


def branches_on_a_number(learning_rate, weight_decay=0.0):
    opt = momentum()(learning_rate)
    if weight_decay > 0:
        return optax.chain(optax.add_decayed_weights(weight_decay), opt)
    return opt


def sets_a_shape_by_a_number(learning_rate, history=3):
    extra = with_extra(lambda params: jnp.zeros((history,)))
    return extra(learning_rate)


def keeps_the_first_number(learning_rate, scale=0.9):
    def init(params):
        return Extra(*init_momentum(params), jnp.asarray(scale, jnp.float32))

    def update(updates, state, params=None, **extra_args):
        updates, new = update_momentum(updates, State(*state[:2]))
        updates = jax.tree.map(lambda u: u * state.extra, updates)
        return updates, Extra(*new, state.extra)

    return momentum(init, update)(learning_rate)


def keeps_the_first_rate(learning_rate):
    first = learning_rate(0) if callable(learning_rate) else learning_rate
    return keeps_the_first_number(1.0, first)


def multiplies_by_the_rate(learning_rate):
    opt = momentum()(1.0)
    return optax.chain(opt, optax.scale(1.0 * learning_rate))


def looks_at_the_schedule_once(learning_rate):
    rate = learning_rate(0) if callable(learning_rate) else learning_rate
    return momentum()(rate)


def by_position(updates):
    leaves, treedef = jax.tree.flatten(updates)
    return treedef.unflatten([(i + 1) * leaf for i, leaf in enumerate(leaves)])


def shares_a_constant(learning_rate):
    zero = jnp.zeros([])
    return with_extra(lambda params: zero, lambda extra: extra + 1)(learning_rate)


def on_host(x):
    return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def touches_none(params):
    trace = jax.tree.map(
        lambda p: jnp.zeros(p.shape, p.dtype), params, is_leaf=lambda p: p is None
    )
    return init_momentum(params)._replace(trace=trace)


def upside_down(learning_rate):
    return optax.chain(momentum()(learning_rate), optax.scale(-1.0))


grows_wider = with_trace(lambda p: jnp.zeros(p.shape, jnp.bfloat16))
half_extra = with_extra(lambda p: jnp.zeros([]), lambda extra: extra.astype(jnp.bfloat16))
weak = with_extra(lambda p: jnp.asarray(1.0), lambda extra: jnp.float32(1.0) * extra)
no_entries = with_extra(lambda p: jnp.zeros((0,)))
appears_later = with_extra(lambda p: None, lambda extra: jnp.zeros([]))
a_key = with_extra(lambda p: jax.random.key(0))
masked_nodes = with_extra(
    lambda p: jax.tree.map(
        jnp.zeros_like, p, is_leaf=lambda x: isinstance(x, optax.MaskedNode)
    )
)
tuples = with_extra(lambda p: jax.tree.map(lambda x: (jnp.zeros_like(x),) * 2, p))


def gives_up(learning_rate):
    """Gradient descent without the parameters whose gradient was once not finite."""

    def update(grads, state, params=None):
        del params
        state = jax.tree.map(lambda ok, g: ok & jnp.isfinite(g).all(), state, grads)
        move = lambda ok, g: jnp.where(ok, -learning_rate * g, 0)
        return jax.tree.map(move, state, grads), state

    init = functools.partial(jax.tree.map, lambda p: jnp.ones([], bool))
    return optax.GradientTransformation(init, update)


BROKEN = [
    (testing.check_abstract_init, with_trace(lambda p: p * 0), "jnp.zeros_like"),
    (
        testing.check_abstract_init,
        with_extra(lambda p: jnp.zeros(2 if isinstance(p["bias"], jax.Array) else 1)),
        "another state",
    ),
    (testing.check_state_type, grows_wider, "bfloat16.* -> .*float32"),
    (testing.check_state_type, weak, "weak type"),
    (testing.check_state_type, each(lambda u: u.astype(jnp.bfloat16)), "The updates"),
    (testing.check_state_leaves, no_entries, r"extra has shape \(0,\)"),
    (testing.check_state_leaves, a_key, "random key"),
    (testing.check_state_leaves, with_extra(lambda p: 1.0), "no JAX array"),
    (testing.check_count, optax.sgd, "finds nothing"),
    (testing.check_compiles_once, weak, "traced 2 times"),
    (
        testing.check_dtypes,
        each(lambda u: u.astype(jnp.promote_types(u.dtype, "float32"))),
        "for parameters of bfloat16",
    ),
    (
        testing.check_dtypes,
        each(lambda u: u.astype("float32" if u.dtype == "float64" else u.dtype)),
        "for parameters of float64",
    ),
    (testing.check_dtypes, each(lambda u: 300 * (300 * u)), "not finite"),
    (testing.check_extra_args, no_extra_args, "GradientTransformation"),
    (testing.check_extra_args, refuses_extra_args, "extra_args"),
    (testing.check_hidden_state, remembers_the_last_init, "pure functions"),
    (testing.check_hidden_state, counted_elsewhere, "second trace"),
    (testing.check_injection, branches_on_a_number, "static_args"),
    (testing.check_injection, sets_a_shape_by_a_number, "set a shape"),
    (testing.check_injection, keeps_the_first_number, "takes effect"),
    (testing.check_schedule, multiplies_by_the_rate, "ScalarOrSchedule"),
    (testing.check_schedule, looks_at_the_schedule_once, "plain and injected"),
    (testing.check_schedule, keeps_the_first_rate, "no effect"),
    (testing.check_masked, masked_nodes, "MaskedNode"),
    (testing.check_partition, masked_nodes, "MaskedNode"),
    (testing.check_multi_steps, appears_later, "shapes of the state"),
    (testing.check_apply_if_finite, half_extra, "jax.lax.cond"),
    (testing.check_map_params, tuples, "one leaf a parameter"),
    (testing.check_jit, counted_elsewhere, "without `jax.jit`"),
    (testing.check_scan, half_extra, "jax.lax.scan"),
    (testing.check_vmap, each(on_host), "batching rule"),
    (testing.check_differentiable, each(jax.lax.stop_gradient), "The derivative"),
    (testing.check_tree_type, after(by_position), "rearranged"),
    (testing.check_odd_leaves, each(lambda u: u / u.shape[0]), "every shape"),
    (testing.check_odd_leaves, each(lambda u: u / u.std()), "not finite"),
    (testing.check_odd_leaves, each(jnp.atleast_1d), "types have changed"),
    (
        testing.check_empty_tree,
        with_extra(lambda p: jnp.stack([x.sum() for x in jax.tree.leaves(p)])),
        "without leaves",
    ),
    (testing.check_equinox, momentum(touches_none), "None"),
    (testing.check_orbax, no_entries, "Orbax"),
    (testing.check_serialisation, a_key, "random keys"),
    (testing.check_donation, shares_a_constant, "separate arrays"),
    (testing.check_donation, with_trace(lambda p: p), "separate arrays"),
    (
        testing.check_auto_mesh,
        each(lambda u: u * max(1, jax.sharding.get_abstract_mesh().size)),
        "with auto axes, with `jax.set_mesh`",
    ),
    (
        testing.check_explicit_mesh,
        each(lambda u: u / (1 + jnp.vdot(u, u))),
        "with explicit axes",
    ),
    (testing.check_descends, upside_down, "loss goes from"),
    (testing.check_zero_gradient, each(lambda u: u / jnp.abs(u).max()), "not finite"),
    (testing.check_nonfinite, optax.adam, "NaN"),
    (testing.check_nonfinite, gives_up, "No update comes after one with nan"),
]


@pytest.mark.parametrize("check", testing.TRANSFORMATION_CHECKS)
def test_a_sound_transformation_passes(check):
    check(momentum())


@pytest.mark.parametrize(("check", "factory", "message"), BROKEN)
def test_a_broken_transformation_fails(check, factory, message):
    with pytest.raises(Exception, match=message) as caught:
        check(factory)
    notes = getattr(caught.value, "__notes__", [])
    assert isinstance(caught.value, AssertionError) or notes
    assert not isinstance(caught.value, unittest.SkipTest)


def test_every_check_is_seen_to_fail():
    public = {name for name in vars(testing) if name.startswith("check_")}
    seen = {check.__name__ for check, _, _ in BROKEN}
    # Those of operators are seen to fail in tests/operators/test_operator.py.
    assert seen == public - {"check_transformation", "check_operator"}
    in_table = {check.__name__ for check in testing.TRANSFORMATION_CHECKS}
    assert in_table == seen - {"check_nonfinite"}


def test_all_failures_are_told():
    checks = [testing.check_descends, testing.check_scan, testing.check_count]
    with pytest.raises(ExceptionGroup, match="1 of 3") as caught:
        testing.check_transformation(upside_down, checks=checks)
    (failure,) = caught.value.exceptions
    assert "check_descends" in failure.__notes__[-1]
    skip = [testing.check_descends]
    assert testing.check_transformation(upside_down, checks=checks, skip=skip) == {}


def test_what_cannot_run_here_is_skipped(monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax", None)
    device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: device)
    checks = [testing.check_orbax, testing.check_auto_mesh, testing.check_count]
    skipped = testing.check_transformation(momentum(), checks=checks)
    assert skipped == {
        "check_orbax": "needs `pip install orbax-checkpoint`",
        "check_auto_mesh": "needs two devices or more",
    }


def test_a_factory_need_not_be_hashable():
    class Factory:
        __hash__ = None

        def __call__(self, learning_rate):
            return optax.sgd(learning_rate)

    testing.check_scan(Factory())


def test_the_import_is_light():
    code = (
        "import sys, jaxla.testing; "
        "print(sorted({'pytest', 'orbax', 'hypothesis', 'beartype'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100
    )
    assert done.stdout.strip() == "[]", done.stderr

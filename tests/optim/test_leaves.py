"""Bad input: what is refused, and what the message says."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla.optim import Axes, Blocks, scale_by_shampoo, shampoo

from .test_shampoo import random_grads, run


def test_a_model_must_be_filtered(getkey):
    model = eqx.nn.MLP(3, 2, 4, 1, key=getkey())
    with pytest.raises(TypeError, match=r"`params` has at 'activation'.*Filter your"):
        shampoo(0.1).init(model)
    with pytest.raises(TypeError, match=r"`params` is a leaf that is not an array: 1\.0"):
        shampoo(0.1).init(1.0)
    jax.eval_shape(shampoo(0.1).init, eqx.filter(model, eqx.is_inexact_array))


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_parameters_must_be_real(dtype):
    params = {"layer": [jnp.ones(3), jnp.ones((2, 3), dtype)]}
    message = f"has at 'layer/1' an array of dtype {dtype}; expected a real floating"
    with pytest.raises(TypeError, match=message):
        shampoo(0.1).init(params)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0)])
def test_parameters_must_have_entries(shape):
    message = rf"has at 'w' an array of shape {re.escape(str(shape))}, which has no entr"
    with pytest.raises(ValueError, match=message):
        shampoo(0.1).init({"w": jnp.ones(shape)})


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ({"w": jnp.ones((4, 3))}, r"unexpected: none, missing: \['b'\]"),
        (
            {"w": jnp.ones((4, 3)), "c": jnp.ones(3)},
            r"unexpected: \['c'\], missing: \['b'\]",
        ),
        (
            {"w": jnp.ones((3, 4)), "b": jnp.ones(3)},
            r"shape \(3, 4\) at 'w', but the parameter .* has \(4, 3\)",
        ),
    ],
)
def test_gradients_must_look_like_the_parameters(grads, message):
    opt = shampoo(0.1)
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match=message):
        opt.update(grads, opt.init(params), params)


def test_gradients_must_be_a_tree_of_the_same_kind():
    opt = scale_by_shampoo()
    state = opt.init([jnp.ones((4, 3)), jnp.ones(3)])
    with pytest.raises(ValueError, match=r"got PyTreeDef\(\(.*expected PyTreeDef\(\["):
        opt.update((jnp.ones((4, 3)), jnp.ones(3)), state)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"graft": "rms"}, ValueError, "`graft` must be one of 'adam', 'sgd', 'none'"),
        ({"momentum": "both"}, ValueError, "`momentum` must be one of 'before', 'after'"),
    ],
)
def test_unknown_choices(choices, error, message):
    with pytest.raises(error, match=message):
        shampoo(0.1, **choices)


@pytest.mark.usefixtures("unchecked")
def test_blocks_must_be_blocks():
    with pytest.raises(TypeError, match=r"`blocks` must be a `jaxla.kron.Blocks`; got {"):
        shampoo(0.1, blocks={"size": 64})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"size": 4}, "`size` must be an integer, between 8 and 16384; got 4"),
        ({"size": 20000}, "`size` must be an integer, between 8 and 16384; got 20000"),
        ({"size": 100}, "`size` must be a multiple of 8; got 100"),
        ({"classes": 0}, "`classes` must be an integer, at least 1; got 0"),
        ({"refresh_every": 0}, "`refresh_every` must be an integer, at least 1; got 0"),
        ({"eager_steps": -1}, "`eager_steps` must be an integer, at least 0; got -1"),
        ({"one_sided_above": -1}, "`one_sided_above` must be an integer, at least 0"),
        ({"shards": 0}, "`shards` must be an integer, at least 1; got 0"),
        ({"root": "newton"}, "`root` must be one of 'auto', 'coupled', 'eigh'"),
        ({"exponent": -0.5}, "`exponent` must be a positive number; got -0.5"),
        ({"exponent": 0.3, "root": "coupled"}, "`root='coupled'` needs an `exponent`"),
    ],
)
def test_impossible_blocks(choices, message):
    with pytest.raises(ValueError, match=message):
        Blocks(**choices)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("rows", r"'one-sided', 'diagonal', `Axes` or None .* got 'rows' for 'w'"),
        (Axes(rows=(0,), cols=(0,)), r"each axis of the parameter 'w' of shape \(1, 3\)"),
        (Axes(rows=(0,), cols=(2,)), r"each axis of the parameter 'w' of shape \(1, 3\)"),
        (
            "one-sided",
            r"treat 'w' as a one-sided matrix, but its shape \(1, 3\)",
        ),
        ("matrix", r"treat 'w' as a matrix, but its shape \(1, 3\) does not have two"),
    ],
    ids=str,
)
def test_impossible_rules(rule, message):
    blocks = Blocks(rules=lambda path, leaf: rule)
    with pytest.raises(ValueError, match=message):
        shampoo(0.1, blocks=blocks).init({"w": jnp.ones((1, 3))})


@pytest.mark.parametrize(
    ("bad", "momentum"),
    [(np.nan, "before"), (np.inf, "after"), (1e25, "before")],
    ids=str,
)
def test_a_refused_gradient_has_never_happened(bad, momentum):
    good = [
        {"bias": g[0], "v": g[:, :3], "w": g} for g in random_grads((6, 5), num_steps=5)
    ]
    spoiled = list(good)
    spoiled[2] = good[2] | {"w": good[2]["w"].at[1, 2].set(bad)}
    # The turn of a root depends on the step; here all have theirs in every step.
    opt = scale_by_shampoo(blocks=Blocks(size=8, refresh_every=1), momentum=momentum)
    expected, _ = run(opt, good[0], good)
    updates, states = run(opt, good[0], spoiled)

    flags = [optax.tree.get(s, "nonfinite") for s in states[1:]]
    assert [bool(flag["w"]) for flag in flags] == [False, False, True, False, False]
    assert not any(flag["bias"] or flag["v"] for flag in flags)
    assert jax.tree.map(int, states[-1].steps) == {"bias": 5, "v": 5, "w": 4}
    assert not updates[2]["w"].any()
    for name in ("bias", "v"):
        for update, other in zip(updates, expected, strict=True):
            np.testing.assert_array_equal(update[name], other[name])

    before, after = (_of_w(state) for state in states[2:4])
    jax.tree.map(np.testing.assert_array_equal, after, before)
    without, _ = run(opt, good[0], good[:2] + good[3:])
    for update, other in zip(updates[3:], without[2:], strict=True):
        np.testing.assert_array_equal(update["w"], other["w"])


def _of_w(state):
    """What the state holds of the last parameter; the last two factors are its own."""
    stacks = [state.factors, state.roots, state.residuals]
    ours = jax.tree.map(lambda x: x[jnp.array([2, 3])], stacks)
    return state.mu["w"], state.nu["w"], state.steps["w"], ours


def test_the_first_gradient_may_be_refused():
    grads = random_grads((6, 5), num_steps=3)
    opt = scale_by_shampoo(blocks=Blocks(size=8, refresh_every=1))
    updates, _ = run(opt, grads[0], [jnp.nan * grads[0], *grads])
    expected, _ = run(opt, grads[0], grads)
    assert not updates[0].any()
    for update, other in zip(updates[1:], expected, strict=True):
        np.testing.assert_array_equal(update, other)


def test_half_precision_gradients_are_refused_by_their_own_range():
    grads = [g.astype(jnp.float16) for g in random_grads((6, 5), num_steps=2)]
    grads[1] = grads[1].at[0, 0].set(60000)  # its square is finite in float32
    _, states = run(scale_by_shampoo(), grads[0], [*grads, grads[0] * jnp.inf])
    assert [bool(s.nonfinite) for s in states[1:]] == [False, False, True]


@pytest.mark.usefixtures("x64")
def test_double_precision_gradients_are_refused_by_their_own_range():
    (grad,) = random_grads((6, 5), num_steps=1, dtype="float64")
    grads = [1e25 * grad, 1e200 * grad]  # the squares of these are not finite
    _, states = run(scale_by_shampoo(), grad, grads)
    assert [bool(s.nonfinite) for s in states[1:]] == [False, True]

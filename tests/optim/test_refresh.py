"""When roots are computed anew, what is done without them, and which are refused."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla import kron
from jaxla.optim import Axes, Blocks, scale_by_shampoo
from tests.helpers import power_oracle

from .test_shampoo import assert_close, random_grads, run


def changed(old, new):
    """Which matrices of a stack are no longer the same, bit for bit."""
    return np.asarray(old != new).any((-2, -1))


# Five factors of size 8: fewer than steps, as many, more, and all in each step.
@pytest.mark.parametrize("period", [7, 5, 2, 1])
def test_every_root_is_renewed_once_in_a_period(period):
    grads = random_grads((16, 24), num_steps=2 * period)
    blocks = Blocks(size=8, refresh_every=period)
    _, states = run(scale_by_shampoo(blocks=blocks), grads[0], grads)
    new = [
        changed(before.roots[8], after.roots[8])
        for before, after in itertools.pairwise(states)
    ]
    per_step = [int(step.sum()) for step in new]
    assert max(per_step) <= kron.roots_per_step(5, blocks)
    assert max(per_step) - min(per_step) <= 1  # no step is slow
    for begin in (0, period):
        renewed = np.sum(new[begin : begin + period], axis=0)
        # The last window overlaps the one before where the division leaves a rest.
        assert renewed.min() == 1
        assert renewed.sum() <= period * kron.roots_per_step(5, blocks)


def test_a_renewed_root_is_that_of_the_factor_at_that_step():
    grads = random_grads((16, 24), num_steps=6)
    opt = scale_by_shampoo(damping=1e-4, blocks=Blocks(size=8, refresh_every=3))
    _, states = run(opt, grads[0], grads)
    for before, after in itertools.pairwise(states):
        for i in np.flatnonzero(changed(before.roots[8], after.roots[8])):
            expected = power_oracle(after.factors[8][i], -1 / 4, damping=1e-4)
            assert_close([after.roots[8][i]], [expected], 1e-3)
            assert after.residuals[8][i] < 1e-2


def steps_without_roots(graft, grads, b1=0.9):
    """What a parameter that has no roots is to do."""
    other = {
        "adam": optax.scale_by_adam(b1, 0.99),
        "sgd": optax.ema(b1),
        "none": optax.set_to_zero(),
    }[graft]
    return run(other, grads[0], grads)[0]


@pytest.mark.parametrize("momentum", ["before", "after"])
@pytest.mark.parametrize("graft", ["adam", "sgd", "none"])
def test_a_parameter_waits_until_all_its_factors_have_roots(graft, momentum):
    """Three factors, each of which has its turn in another one of three steps."""
    grads = random_grads((16, 8), num_steps=4)
    blocks = Blocks(size=8, refresh_every=3)
    opt = functools.partial(scale_by_shampoo, 0.0, blocks=blocks, momentum=momentum)
    updates, states = run(opt(graft=graft), grads[0], grads)
    known = [int(np.isfinite(s.residuals[8]).sum()) for s in states]
    assert known == [0, 1, 2, 3, 3]
    alone = steps_without_roots(graft, grads, b1=0.0)
    for update, expected in zip(updates[:2], alone[:2], strict=True):
        np.testing.assert_allclose(update, expected, rtol=1e-5)
    roots = np.asarray(states[3].roots[8], "float64")
    desired = (
        np.concatenate([roots[0] @ grads[2][:8], roots[1] @ grads[2][8:]]) @ roots[2]
    )
    if graft != "none":
        desired *= np.linalg.norm(alone[2]) / np.linalg.norm(desired)
    assert_close([updates[2]], [desired], 1e-5)


def test_eager_steps_make_it_wait_for_nothing():
    grads = random_grads((16, 8), num_steps=3)
    eager = Blocks(size=8, refresh_every=10, eager_steps=2)
    updates, states = run(scale_by_shampoo(blocks=eager), grads[0], grads)
    always = Blocks(size=8, refresh_every=1)
    expected, _ = run(scale_by_shampoo(blocks=always), grads[0], grads)
    for update, other in zip(updates[:2], expected[:2], strict=True):
        np.testing.assert_allclose(update, other, rtol=1e-5, atol=1e-6)
    # The third step has no turn: ten steps, three factors.
    assert changed(states[1].roots[8], states[2].roots[8]).all()
    assert not changed(states[2].roots[8], states[3].roots[8]).any()


def test_rows_that_never_get_a_gradient_do_not_keep_it_waiting():
    """As pixels that are black in every picture."""
    grads = [g.at[8:].set(0) for g in random_grads((16, 8), num_steps=3)]
    blocks = Blocks(size=8, refresh_every=1)
    updates, states = run(scale_by_shampoo(blocks=blocks), grads[0], grads)
    expected, _ = run(
        scale_by_shampoo(blocks=blocks), grads[0][:8], [g[:8] for g in grads]
    )
    assert int(states[-1].rejected) == 0
    for update, other in zip(updates, expected, strict=True):
        np.testing.assert_allclose(update[:8], other, rtol=1e-5, atol=1e-6)
        assert (update[8:] == 0).all()


@pytest.mark.parametrize("eager_steps", [0, 1])
@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_bad_start_freezes_nothing(bad, eager_steps):
    """As the first gradient of a LoRA factor, or one that overflows in float16."""
    grads = random_grads((16, 8), num_steps=8)
    blocks = Blocks(size=8, refresh_every=5, eager_steps=eager_steps)
    opt = scale_by_shampoo(0.0, blocks=blocks)
    updates, states = run(opt, grads[0], [bad * grads[0], *grads])
    assert int(states[1].rejected) == 0
    assert not updates[0].any()
    adam = run(optax.scale_by_adam(0.0, 0.99), grads[0], grads)[0]
    if bad == 0:  # which Adam takes for a gradient like any other
        zero = [0 * grads[0], *grads]
        adam = run(optax.scale_by_adam(0.0, 0.99), grads[0], zero)[0][1:]
    # Adam's own steps until all three roots have had a turn, and its size ever after.
    np.testing.assert_allclose(updates[1], adam[0], rtol=1e-5)
    for update, like in zip(updates[1:], adam, strict=True):
        size = np.linalg.norm(like)
        np.testing.assert_allclose(np.linalg.norm(update), size, rtol=1e-5)
    assert np.isfinite(states[-1].residuals[8]).all()
    assert np.abs(updates[-1] - adam[-1]).max() > 0.1


def test_rows_that_wake_up_are_stepped_at_once():
    grads = [g.at[8:].set(0) for g in random_grads((16, 8), num_steps=4)]
    grads += random_grads((16, 8), num_steps=6)
    blocks = Blocks(size=8, refresh_every=5)
    updates, states = run(scale_by_shampoo(0.0, blocks=blocks), grads[0], grads)
    for step in range(4, 10):
        assert (np.abs(np.asarray(updates[step])[8:]).max(1) > 1e-3).all()
        assert np.abs(updates[step]).max() < 10
    assert np.isfinite(states[-1].residuals[8]).all()


def test_mixed_precisions_share_the_widest(x64):
    params = {"w": jnp.ones((8, 8), "float32"), "v": jnp.ones((8, 8), "float64")}
    state = scale_by_shampoo().init(params)
    assert state.factors[8].dtype == state.roots[8].dtype == jnp.float64
    updates, _ = jax.jit(scale_by_shampoo().update)(params, state)
    assert jax.tree.map(lambda x: x.dtype, updates) == {"w": "float32", "v": "float64"}


def test_no_dtype_is_promoted_by_itself():
    params = {"w": jnp.ones((8, 6), "bfloat16"), "b": jnp.ones(6, "float32")}
    opt = scale_by_shampoo(blocks=Blocks(size=8, refresh_every=2, eager_steps=1))
    with jax.numpy_dtype_promotion("strict"):
        updates, _ = jax.jit(opt.update)(params, opt.init(params))
    assert jax.tree.map(lambda x: x.dtype, updates) == {"w": "bfloat16", "b": "float32"}


def test_refused_roots_are_counted_and_the_old_ones_kept():
    grads = random_grads((16, 8), num_steps=3)
    blocks = Blocks(size=8, refresh_every=1)
    _, states = run(scale_by_shampoo(blocks=blocks), grads[0], grads)
    assert int(optax.tree.get(states[-1], "rejected")) == 0
    residuals = optax.tree.get(states[-1], "residuals")
    assert (residuals[8] < 1e-2).all()

    strict = scale_by_shampoo(tolerance=-1.0, blocks=blocks)
    update, state = jax.jit(strict.update)(grads[0], states[-1])
    assert int(optax.tree.get(state, "rejected")) == 3
    assert not changed(states[-1].roots[8], state.roots[8]).any()
    np.testing.assert_array_equal(state.residuals[8], residuals[8])
    assert jnp.isfinite(update).all()


@pytest.mark.parametrize("graft", ["adam", "sgd", "none"])
def test_without_any_root_it_waits_for_good(graft):
    grads = random_grads((8, 8), num_steps=2)
    blocks = Blocks(size=8, refresh_every=1)
    opt = scale_by_shampoo(tolerance=-1.0, blocks=blocks, graft=graft)
    updates, states = run(opt, grads[0], grads)
    assert np.isinf(states[-1].residuals[8]).all()
    assert not states[-1].roots[8].any()
    for update, expected in zip(updates, steps_without_roots(graft, grads), strict=True):
        np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_a_spare_factor_is_not_counted_as_refused():
    grads = random_grads((8, 8), num_steps=1)
    blocks = Blocks(size=8, refresh_every=1, shards=4)
    _, states = run(scale_by_shampoo(blocks=blocks), grads[0], grads)
    assert states[-1].factors[8].shape == (4, 8, 8)
    assert int(states[-1].rejected) == 0


def test_the_default_step_calls_no_lapack():
    params = {"w": jnp.ones((24, 16)), "v": jnp.ones((5, 3)), "b": jnp.ones(3)}

    def calls(root):
        opt = scale_by_shampoo(blocks=Blocks(size=16, root=root))
        state = jax.eval_shape(opt.init, params)
        program = jax.jit(opt.update).lower(params, state).compile().as_text()
        return re.findall(r'custom_call_target="([^"]*)"', program)

    assert calls("auto") == []
    assert any("lapack" in name for name in calls("eigh"))


# JAX 0.10 on two cores can hang for good in graphs with several batched LAPACK calls
# of this size: see the test above for why this one does not.
@pytest.mark.timeout(60)
def test_two_stacks_of_many_factors_do_not_hang():
    (grad,) = random_grads((512, 16, 8), num_steps=1)
    rules = {"*": Axes(rows=(1,), cols=(2,), batch=(0,))}
    blocks = Blocks(size=16, refresh_every=1, rules=rules)
    updates, states = run(scale_by_shampoo(blocks=blocks), grad, [grad] * 3)
    assert {s: len(x) for s, x in states[-1].factors.items()} == {8: 512, 16: 512}
    assert jnp.isfinite(updates[-1]).all()

"""SOAP against the textbook, and what follows from its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla.optim import Blocks, describe, scale_by_soap, soap

from . import textbook
from .test_shampoo import assert_close, random_grads, run


EVERY_STEP = Blocks(size=8, refresh_every=1)
# One factor of each size has its turn in steps 0, 3, 6; two share them: 0, 2, 3, 5, 6.
THIRD = Blocks(size=8, refresh_every=3)


def third(step):
    return step % 3 == 0, step % 3 == 2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("blocks", "turns"),
    [(EVERY_STEP, lambda step: (True, True)), (THIRD, third)],
    ids=["every step", "every third"],
)
def test_equals_the_textbook(blocks, turns):
    """Order of the steps, stale bases and forgotten permutations all show here."""
    grads = random_grads((6, 6), dtype="float64")
    numbers = {"b1": 0.9, "b2": 0.8, "shampoo_beta": 0.7, "eps": 1e-6}
    updates, _ = run(scale_by_soap(**numbers, blocks=blocks), grads[0], grads)
    expected = textbook.Soap(**numbers, turns=turns).run(grads)
    # The weights of the averages are computed in float32.
    assert_close(updates, expected, 1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("wide", [True, False])
def test_a_long_side_keeps_its_basis(wide):
    grads = random_grads((4, 6) if wide else (6, 4), dtype="float64")
    blocks = Blocks(size=8, refresh_every=1, one_sided_above=5)
    updates, states = run(scale_by_soap(blocks=blocks), grads[0], grads)
    expected = textbook.Soap(one_sided=True).run(g if wide else g.T for g in grads)
    assert_close(updates, [x if wide else x.T for x in expected], 1e-4)
    assert states[-1].bases[8].shape == (1, 8, 8)


def test_equals_the_textbook_in_float32():
    grads = random_grads((6, 6))
    updates, _ = run(scale_by_soap(blocks=EVERY_STEP), grads[0], grads)
    assert_close(updates, textbook.Soap().run(grads), 2e-2)


@pytest.mark.usefixtures("x64")
def test_blocks_and_parameters_are_each_its_own():
    """Rows that never have a gradient, and another parameter in the same stacks."""
    top, other = (random_grads((6, 6), 4, "float64", seed) for seed in (1, 2))
    both = [
        {"w": jnp.concatenate([g, 0 * g]), "v": h}
        for g, h in zip(top, other, strict=True)
    ]
    updates, _ = run(scale_by_soap(blocks=EVERY_STEP), both[0], both)
    for name, grads in (("w", top), ("v", other)):
        expected = textbook.Soap().run(grads)
        assert_close([u[name][:6] for u in updates], expected, 1e-4)
    assert not any(u["w"][6:].any() for u in updates)


def test_turns_with_the_parameter():
    """From the first step on."""
    rng = np.random.default_rng(2)
    left, right = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))

    def turn(x):
        return jnp.asarray(left @ np.asarray(x, "float64") @ right, x.dtype)

    with jax.enable_x64(True):
        grads = random_grads((6, 6), dtype="float64")
        opt = scale_by_soap(eps=1e-12, blocks=EVERY_STEP)
        plain, _ = run(opt, grads[0], grads)
        turned, _ = run(opt, grads[0], [turn(g) for g in grads])
        # Once each basis has come close to its eigenvectors, whatever it started from.
        assert_close(turned, [turn(u) for u in plain], 1e-4)


def test_in_the_identity_it_is_adam():
    grads = random_grads((6, 6), num_steps=5)
    opt = scale_by_soap(0.9, 0.95, blocks=Blocks(size=8, refresh_every=1000))
    update = jax.jit(opt.update)
    _, state = update(grads[0], opt.init(grads[0]))
    eye = jnp.broadcast_to(jnp.eye(8), state.bases[8].shape)
    square = jnp.zeros((1, 8, 8)).at[0, :6, :6].set(grads[0] ** 2)
    # Past the turns of both factors.
    state = state._replace(
        bases={8: eye}, variances={"8x8": square}, count=jnp.int32(501)
    )
    expected, _ = run(optax.scale_by_adam(0.9, 0.95), grads[0], grads)
    for grad, want in zip(grads[1:], expected[1:], strict=True):
        out, state = update(grad, state)
        np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


def test_the_first_step_has_the_size_of_adam():
    params = {"w": random_grads((6, 5), 1)[0], "b": jnp.ones(3)}
    (update,), _ = run(scale_by_soap(), params, [params])
    desired = params["w"] * np.sqrt(30) / jnp.linalg.norm(params["w"])
    np.testing.assert_allclose(update["w"], desired, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(update["b"], 1, rtol=1e-5)


def test_bases_are_orthogonal_and_leave_padding_alone():
    grads = random_grads((12, 5), num_steps=6)
    blocks = Blocks(size=8, refresh_every=2)
    _, states = run(scale_by_soap(blocks=blocks), grads[0], grads)
    for state in states:
        Q = np.asarray(state.bases[8])
        np.testing.assert_allclose(
            Q.mT @ Q, np.broadcast_to(np.eye(8), Q.shape), atol=1e-5
        )
        for basis, length in zip(Q, (6, 6, 5), strict=True):
            outside = np.abs(basis[length:]).any(0)
            assert outside.sum() == 8 - length
            assert not basis[:length, outside].any()


def test_bases_are_constants():
    """A derivative passes through the step, and not through the decompositions."""
    (grad,) = random_grads((6, 5), num_steps=1)
    opt = scale_by_soap(blocks=EVERY_STEP)

    def outcome(scale):
        _, state = opt.update(scale * grad, opt.init(grad))
        return jnp.sum(opt.update(grad[::-1], state)[0] ** 2)

    assert jnp.isfinite(jax.jit(jax.grad(outcome))(1.0))


@pytest.mark.usefixtures("unchecked")
def test_no_roots_no_choices_of_roots():
    for choice in ({"exponent": 1 / 2}, {"root": "eigh"}, {"normalize_trace": True}):
        (name,) = choice
        with pytest.raises(ValueError, match=f"`soap` takes no roots: leave `{name}` of"):
            soap(0.1, blocks=Blocks(**choice))
    with pytest.raises(TypeError, match=r"`blocks` must be a `jaxla.kron.Blocks`; got {"):
        soap(0.1, blocks={"size": 64})


def test_describe_counts_bases():
    told = describe(soap(0.1), {"w": jax.ShapeDtypeStruct((256, 256), jnp.float32)})
    assert "bases a step" in told

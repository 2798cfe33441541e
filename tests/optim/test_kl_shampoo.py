"""KL-Shampoo against the textbook, and what follows from its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.optim import Blocks, describe, kl_shampoo, scale_by_kl_shampoo

from . import textbook
from .test_shampoo import assert_close, random_grads, run
from .test_soap import EVERY_STEP, THIRD, third


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("blocks", "turns"),
    [(EVERY_STEP, lambda step: (True, True)), (THIRD, third)],
    ids=["every step", "every third"],
)
def test_equals_the_textbook(blocks, turns):
    grads = random_grads((6, 6), dtype="float64")
    numbers = {"b1": 0.8, "b2": 0.7, "eps": 1e-6, "initial_eigenvalue": 0.3}
    updates, _ = run(scale_by_kl_shampoo(**numbers, blocks=blocks), grads[0], grads)
    expected = textbook.KlShampoo(**numbers, turns=turns).run(grads)
    # Decays are float32 numbers.
    assert_close(updates, expected, 1e-5)


def test_equals_the_textbook_in_float32():
    # Square: an oblong first gradient leaves it open which basis its null space gets.
    grads = random_grads((6, 6))
    updates, _ = run(scale_by_kl_shampoo(blocks=EVERY_STEP), grads[0], grads)
    assert_close(updates, textbook.KlShampoo().run(grads), 2e-3)


@pytest.mark.usefixtures("x64")
def test_blocks_share_the_factors_of_their_row():
    """Two equal blocks in a row are as one of them."""
    grads = random_grads((6, 6), dtype="float64")
    twice = [jnp.concatenate([g, g], 1) for g in grads]
    updates, _ = run(scale_by_kl_shampoo(blocks=EVERY_STEP), twice[0], twice)
    expected = textbook.KlShampoo().run(grads)
    assert_close([u[:, :6] for u in updates], expected, 1e-5)
    assert_close([u[:, 6:] for u in updates], expected, 1e-5)


@pytest.mark.usefixtures("x64")
def test_comes_to_the_most_likely_covariance():
    """Of a normal distribution of matrices: what flip-flop iterations find, too."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 6)), rng.normal(size=(5, 5))
    draws = np.stack([a @ rng.normal(size=(6, 5)) @ b for _ in range(40)])
    left, right = np.eye(6), np.eye(5)
    for _ in range(200):
        left = np.mean(draws @ np.linalg.inv(right) @ draws.swapaxes(1, 2), 0) / 5
        right = np.mean(draws.swapaxes(1, 2) @ np.linalg.inv(left) @ draws, 0) / 6
    opt = scale_by_kl_shampoo(b2=0.9995, blocks=EVERY_STEP)

    @jax.jit
    def run(draws):
        def step(state, index):
            return opt.update(draws[index % 40], state)[1], None

        return jax.lax.scan(step, opt.init(draws[0]), jnp.arange(20000))[0]

    state = run(jnp.asarray(draws))
    Q, spectra = np.asarray(state.bases[8]), np.asarray(state.spectra[8])
    # Padding has basis vectors and eigenvalues to itself.
    found = [((q * d) @ q.T)[:k, :k] for q, d, k in zip(Q, spectra, (6, 5), strict=True)]
    # Only the product of both has a scale.
    assert_close([np.kron(*found)], [np.kron(left, right)], 0.02)
    plain = np.mean(draws @ draws.swapaxes(1, 2), 0)
    with pytest.raises(AssertionError):  # as Shampoo's factor is not
        assert_close([plain / np.trace(plain)], [left / np.trace(left)], 0.1)


def test_a_start_from_the_first_gradient_has_no_scale():
    grads = random_grads((6, 6))
    opt = scale_by_kl_shampoo(eps=0.0, initial_eigenvalue=None, blocks=EVERY_STEP)
    plain, _ = run(opt, grads[0], grads)
    scaled, _ = run(opt, grads[0], [32 * g for g in grads])
    assert_close(scaled, plain, 1e-3)
    expected = 0.1 * grads[0] / jnp.sqrt(jnp.mean(grads[0] ** 2))
    assert_close(plain[:1], [expected], 1e-5)


@pytest.mark.parametrize("limit", [None, 0], ids=["two sides", "one side"])
def test_a_start_from_the_first_gradient_is_no_larger_for_small_ones(limit):
    """Down to where an absolute bound would be; and after zeros, or steps far smaller."""
    grads = random_grads((6, 6), 8)
    blocks = Blocks(size=8, refresh_every=1, one_sided_above=limit)
    opt = scale_by_kl_shampoo(0.0, eps=0.0, initial_eigenvalue=None, blocks=blocks)
    scales = [0, 0, 1e-12, 1e-12, 1e-12, 1, 1, 1]
    given = [scale * g for scale, g in zip(scales, grads, strict=True)]
    updates, _ = run(opt, grads[0], given)
    sizes = [float(jnp.sqrt(jnp.mean(u**2))) for u in updates]
    assert sizes[:2] == [0, 0]
    np.testing.assert_allclose([sizes[2], sizes[5]], 1, rtol=1e-4)
    assert max(sizes) < 10


def test_what_would_overflow_is_refused():
    """A gradient whose square is finite, but not what it is divided by the bound."""
    grads = random_grads((6, 6), 4)
    opt = scale_by_kl_shampoo(b2=0.5, blocks=EVERY_STEP)
    spoilt = [0 * grads[0]] * 20 + [1e18 * grads[0] / jnp.abs(grads[0]).max(), *grads]
    updates, states = run(opt, grads[0], spoilt)
    assert bool(states[21].nonfinite)
    assert not updates[20].any()
    assert not bool(states[-1].nonfinite)
    for leaf in jax.tree.leaves(states[-1]):
        assert jnp.isfinite(leaf).all()


@pytest.mark.usefixtures("unchecked")
def test_the_first_eigenvalue_is_positive_and_bounded():
    message = "`initial_eigenvalue` must be a positive number, or None; got 0"
    with pytest.raises(ValueError, match=message):
        kl_shampoo(0.1, initial_eigenvalue=0)
    state = scale_by_kl_shampoo(initial_eigenvalue=1e-6).init(jnp.ones((6, 6)))
    np.testing.assert_allclose(state.spectra[8], 1e-2, rtol=1e-6)


def test_an_eigenvalue_has_a_bound():
    grads = [0 * g for g in random_grads((6, 30), 3)]
    opt = scale_by_kl_shampoo(b2=0.0, blocks=Blocks(size=32))
    _, states = run(opt, grads[0], grads)
    left, right = states[-1].spectra[32]
    np.testing.assert_allclose(left, 1 / 10**2, rtol=1e-6)
    np.testing.assert_allclose(right, 1 / 30**2, rtol=1e-6)


def test_a_long_side_counts_as_the_identity():
    """With one side alone: Adagrad's step with the covariance of the rows."""
    grads = random_grads((4, 7), num_steps=2)
    blocks = Blocks(size=8, refresh_every=1, one_sided_above=5)
    opt = scale_by_kl_shampoo(0.0, 0.0, 0.0, blocks=blocks)
    (_, second), states = run(opt, grads[0], grads)
    assert states[-1].bases[8].shape == (1, 8, 8)
    basis = np.asarray(states[1].bases[8][0], "float64")[:4, :4]
    expected = basis @ basis.T @ np.asarray(grads[1], "float64") / np.sqrt(0.1)
    assert_close([second], [expected], 1e-5)


@pytest.mark.usefixtures("unchecked")
def test_no_roots_no_choices_of_roots():
    with pytest.raises(ValueError, match="`kl_shampoo` takes no roots: leave `exponent`"):
        kl_shampoo(0.1, blocks=Blocks(exponent=1 / 2))


def test_describe_counts_bases():
    told = describe(kl_shampoo(0.1), {"w": jax.ShapeDtypeStruct((256, 256), jnp.float32)})
    assert "bases a step" in told

"""Bases of eigenvectors: the first ones, how they follow, and which are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla import kron
from jaxla.kron import Blocks
from tests.helpers import psd_with_spectrum


EVERY_STEP = Blocks(refresh_every=1)


@jax.jit
def both(factors, bases, count):
    first = kron.first_bases(factors, bases, count)
    return first, kron.refresh_bases(factors, bases, count, blocks=EVERY_STEP)


def stack_of(getkey, dtype):
    """Two factors, the second of them padded."""
    values = np.geomspace(1, 1e-2, 8)
    full, part = (psd_with_spectrum(getkey(), values[:n]) for n in (8, 5))
    return jnp.asarray(np.stack([full, np.pad(part, (0, 3))]), dtype)


def off_diagonal(bases, stack):
    rotated = np.asarray(bases.mT @ stack @ bases)
    return np.abs(rotated - rotated * np.eye(8)).max()


def identities(dtype, number=2):
    return jnp.tile(jnp.eye(8, dtype=dtype), (number, 1, 1))


def test_the_first_step_finds_eigenvectors(getkey, dtype):
    stack = stack_of(getkey, dtype)
    first, _ = both({8: stack}, {8: identities(dtype)}, 0)
    assert first[8].dtype == dtype
    assert off_diagonal(first[8], stack) < 50 * jnp.finfo(dtype).eps
    # Later ones leave the bases as they are.
    later, _ = both({8: stack}, first, 3)
    assert (later[8] == first[8]).all()


def test_iteration_finds_them_too_and_mixes_no_padding(getkey, dtype):
    stack, bases = stack_of(getkey, dtype), {8: identities(dtype)}
    for step in range(1, 60):
        _, (bases, refused) = both({8: stack}, bases, step)
        assert refused == 0
    eye = np.asarray(bases[8].mT @ bases[8])
    np.testing.assert_allclose(eye, identities(dtype), atol=50 * jnp.finfo(dtype).eps)
    assert off_diagonal(bases[8], stack) < 1e-5
    assert not bases[8][1, :5, 5:].any()
    assert not bases[8][1, 5:, :5].any()


def test_columns_keep_their_places():
    """Ascending eigenvalues: the sorted columns would be in the opposite order."""
    stack = jnp.diag(jnp.arange(1.0, 9.0))[None]
    _, (bases, _) = both({8: stack}, {8: identities("float32", 1)}, 1)
    np.testing.assert_array_equal(np.abs(bases[8][0]), np.eye(8))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_do_not_matter(getkey, scale):
    stack = stack_of(getkey, "float32")
    plain = both({8: stack}, {8: identities("float32")}, 0)
    scaled = both({8: stack * jnp.float32(scale)}, {8: identities("float32")}, 0)
    for one, other in ((plain[0], scaled[0]), (plain[1][0], scaled[1][0])):
        np.testing.assert_allclose(np.abs(one[8]), np.abs(other[8]), atol=1e-4)


def test_bad_and_empty_factors_keep_their_bases(getkey):
    stack = stack_of(getkey, "float32")
    bad = jnp.concatenate([stack.at[1, 0, 0].set(jnp.nan), jnp.zeros((1, 8, 8))])
    old = {8: identities("float32", 3)[:, ::-1]}
    first, (moved, refused) = both({8: bad}, old, 0)
    assert refused == 1
    for new in (first, moved):
        assert (new[8][1:] == old[8][1:]).all()
        assert (new[8][0] != old[8][0]).any()


def test_rotations_undo_each_other(getkey):
    leaves = [jax.random.normal(getkey(), (12, 5)), jax.random.normal(getkey(), (7, 6))]
    plan = kron.make_plan(["a", "b"], leaves, Blocks(size=8))
    stacks = kron.to_stacks(leaves, plan)
    factors = kron.gram_factors(stacks, plan)
    bases = {8: identities("float32", plan.num_factors[8])}
    bases = kron.first_bases(factors, bases, 0)
    back = kron.rotate_back(kron.rotate(stacks, bases, plan), bases, plan)
    for leaf, again in zip(leaves, kron.from_stacks(back, plan).values(), strict=True):
        np.testing.assert_allclose(again, leaf, atol=1e-5)
    own = kron.rotate(kron.to_stacks(leaves, plan), bases, plan)[8, 8][-1]
    singular = np.linalg.svd(leaves[1], compute_uv=False)
    np.testing.assert_allclose(np.sort(np.abs(own).max(0))[::-1][:6], singular, rtol=1e-4)


def test_the_first_decomposition_is_not_made_again():
    """It is in the loop that runs once; XLA would like to have it before."""
    factors = {8: jnp.eye(8)[None]}
    program = jax.jit(kron.first_bases).lower(factors, factors, 0).compile().as_text()
    assert "syevd" in program
    assert "syevd" not in program[program.index("ENTRY ") :]

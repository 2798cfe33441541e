import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla import kron
from jaxla.kron import Blocks, dequantize, Storage
from tests.helpers import assert_close, power_oracle, psd_with_spectrum


FOUR_BIT = Storage(smallest=8, turns_per_root=2)


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def grams(getkey, count=5):
    spectrum = np.geomspace(1, 1e-2, 8)
    stack = [psd_with_spectrum(getkey(), spectrum) for _ in range(count)]
    return {8: jnp.asarray(np.stack(stack), jnp.float32)}


def take_in(M, bases, count=0, *, blocks, storage=FOUR_BIT, beta=0.5):
    taken = {8: jnp.ones(len(M[8]))}
    return kron.refresh_stored_bases(
        M, bases, taken, count, beta=beta, blocks=blocks, storage=storage
    )


def changed(old, new):
    return np.asarray(old != new).any(tuple(range(1, old.ndim)))


# Five factors: fewer than steps, and more.
@pytest.mark.parametrize("period", [7, 1])
def test_turns_and_roots_have_their_periods(getkey, period):
    M, blocks = grams(getkey), Blocks(size=8, refresh_every=period)
    basis, root = kron.first_stored(8, 5, FOUR_BIT)
    bases, roots = {8: basis}, {8: root}

    @jax.jit
    def step(bases, roots, count):
        bases, _ = take_in(M, bases, count, blocks=blocks)
        choices = {"blocks": blocks, "storage": FOUR_BIT}
        return bases, kron.refresh_stored_roots(
            bases, roots, count, damping=1e-6, **choices
        )[0]

    history = [roots[8].diagonal]
    for count in range(2 * period):
        bases, roots = step(bases, roots, count)
        history.append(roots[8].diagonal)
    assert (bases[8].turns == 2).all()
    renewed = [changed(a, b) for a, b in itertools.pairwise(history)]
    assert np.min(np.sum(renewed, 0)) == 1  # windows may overlap
    assert np.sum(renewed, 1).max() <= -(-5 // (2 * period))


def test_rows_of_what_is_stored_are_eigenvectors(getkey):
    """A group of 64 numbers that share a scale never reaches into two of them."""
    M = grams(getkey)
    blocks = Blocks(size=8, refresh_every=1)
    exact = kron.first_stored(8, 5, Storage(bits=32))[0]
    rounded = kron.first_stored(8, 5, FOUR_BIT)[0]
    exact, rounded = (
        jax.jit(functools.partial(take_in, blocks=blocks, storage=storage))(M, {8: b})[0][
            8
        ]
        for b, storage in ((exact, Storage(bits=32)), (rounded, FOUR_BIT))
    )
    assert rounded.vectors.scales.shape == (5, 8, 1)
    P = np.asarray(exact.vectors)
    np.testing.assert_allclose(
        rounded.vectors.scales[..., 0], np.abs(P).max(-1), rtol=1e-5
    )
    values = np.einsum("bij,bjk,bik->bi", P, M[8], P)
    np.testing.assert_allclose(exact.values, values, rtol=1e-3, atol=1e-5)
    assert np.abs(np.asarray(dequantize(rounded.vectors)) - P).max() < 0.1


def test_converges_to_the_inverse_fourth_root(getkey):
    """Of a matrix that stays the same, in 32 bits."""
    M, storage = grams(getkey, 2), Storage(bits=32, turns_per_root=1)
    blocks = Blocks(size=8, refresh_every=1)
    basis, root = kron.first_stored(8, 2, storage)
    bases = {8: basis}
    step = jax.jit(lambda bases: take_in(M, bases, blocks=blocks, storage=storage)[0])
    for _ in range(60):
        bases = step(bases)
    roots, refused = jax.jit(
        lambda bases: kron.refresh_stored_roots(
            bases, {8: root}, 0, damping=0.0, blocks=blocks, storage=storage
        )
    )(bases)
    matrices, residuals = kron.restore_roots(roots)
    assert refused == 0
    assert (residuals[8] == 0).all()
    assert_close(matrices[8], power_oracle(M[8], -1 / 4), amplification=1e3)


def test_a_root_that_is_not_finite_is_refused():
    basis, root = kron.first_stored(8, 2, FOUR_BIT)
    basis = basis._replace(values=basis.values.at[0, 0].set(1.0))  # singular
    choices = {"blocks": Blocks(size=8, refresh_every=1), "storage": FOUR_BIT}
    roots, refused = jax.jit(
        lambda basis: kron.refresh_stored_roots(
            {8: basis}, {8: root}, 0, damping=0.0, **choices
        )
    )(basis)
    assert refused == 1  # the other has taken in nothing yet
    assert np.isinf(kron.restore_roots(roots)[1][8]).all()


def test_small_factors_are_not_rounded():
    for size, rounds in ((56, False), (64, True)):
        assert Storage().rounds(size) == rounds
        basis, root = kron.first_stored(size, 3, Storage())
        for stored in (basis.vectors, root.rest):
            assert isinstance(stored, kron.FourBit) == rounds
    assert not Storage(bits=32).rounds(64)
    n = 64
    plain = kron.stored_flops(n, Storage(bits=32, turns_per_root=4))
    rounded = kron.stored_flops(n, Storage(turns_per_root=4))
    assert rounded - plain == (4 + 16 // 4) * n**3


def test_messages(unchecked):
    for choice, message in [
        ({"bits": 8}, "`bits` must be one of 4, 32; got 8."),
        ({"smallest": 0}, "`smallest` must be an integer, at least 1; got 0."),
        ({"turns_per_root": 0}, "`turns_per_root` must be an integer, at least 1"),
        ({"basis_steps": -1}, "`basis_steps` must be an integer, at least 0; got -1."),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            Storage(**choice)

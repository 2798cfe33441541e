import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.kron import dequantize, FourBit, quantize, rectify
from jaxla.kron._four_bit import CODEBOOK
from tests.helpers import assert_close, with_singular_values


store = jax.jit(quantize)
restore = jax.jit(dequantize)


def nearest(x: np.ndarray) -> np.ndarray:
    """Entry by entry, as the paper has it."""
    out = np.zeros(x.shape)
    for index in np.ndindex(x.shape[:-1]):
        for begin in range(0, x.shape[-1], 64):
            group = x[index][begin : begin + 64].astype("float64")
            if scale := np.abs(group).max(initial=0):
                codes = np.abs(group[:, None] / scale - CODEBOOK).argmin(1)
                out[index][begin : begin + 64] = scale * CODEBOOK[codes]
    return out


def test_codebook():
    assert (np.diff(CODEBOOK) > 0).all()
    assert (CODEBOOK == 0).sum() == 1
    np.testing.assert_allclose(CODEBOOK[[0, 1, 6, 8, 15]] * 225, [-225, -169, -9, 1, 225])


@pytest.mark.parametrize("shape", [(2, 3, 200), (64,), (2, 8), (3, 66)])
def test_rounds_to_the_nearest(getkey, dtype, shape):
    x = np.asarray(jax.random.normal(getkey(), shape, dtype))
    stored = store(x)
    assert stored.codes.dtype == "uint8"
    assert stored.codes.shape == (*shape[:-1], shape[-1] // 2)
    assert stored.scales.shape == (*shape[:-1], -(-shape[-1] // 64))
    actual = restore(stored)
    assert actual.dtype == dtype
    assert_close(actual, nearest(x), amplification=4)


def test_what_was_rounded_stays(getkey):
    once = restore(store(jax.random.normal(getkey(), (5, 130))))
    stored = store(once)
    assert (restore(stored) == once).all()
    # Packing is exact: every pair of codes comes back.
    codes = jnp.arange(256, dtype=jnp.uint8).reshape(4, 64).at[:, 0].set(0xF0)
    stored = FourBit(codes, jnp.ones((4, 2)))
    scales = jnp.abs(restore(stored)).reshape(4, 2, 64).max(-1)
    assert (store(restore(stored)).codes[scales[:, 0] == 1, :32] == codes[:, :32]).all()


def test_zeros_and_the_largest_are_exact():
    x = jnp.zeros((2, 70)).at[0, 3].set(-0.3).at[0, 68].set(1e-20).at[1, 5].set(3e38)
    assert (restore(store(x)) == x).all()
    assert restore(store(jnp.ones((3, 0)))).shape == (3, 0)


def test_half_precision_and_strict_promotion(strict):
    x = jnp.linspace(-1, 1, 16, dtype=jnp.bfloat16)
    for each, wide in zip(store(x), store(x.astype(jnp.float32)), strict=True):
        assert (each == wide).all()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_rectify(getkey, dtype, steps):
    values = np.array([1.2, 1.0, 0.95, 0.7])
    v = with_singular_values(getkey(), (4, 4), values)
    u, _, wt = np.linalg.svd(v)
    for _ in range(steps):
        values = 1.5 * values - 0.5 * values**3
    actual = rectify(jnp.asarray(v, dtype), steps=steps)
    assert_close(actual, u * values @ wt, amplification=20)


def test_batches_and_lowering(getkey):
    x = jax.random.normal(getkey(), (3, 8, 8))
    mapped = jax.vmap(lambda a: rectify(dequantize(quantize(a))))(x)
    assert_close(mapped, rectify(restore(store(x))), amplification=10)
    both = jax.jit(lambda x: dequantize(quantize(x)))
    jax.export.export(both, platforms=["cuda", "tpu"])(x)


def test_messages(unchecked):
    for x, error, message in [
        (jnp.ones(3), ValueError, "`x` must have an even last axis; got shape (3,)."),
        (jnp.ones(()), ValueError, "`x` must have an even last axis; got shape ()."),
        (jnp.ones(2, int), TypeError, "`x` must have a real floating-point dtype"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            quantize(x)
    with pytest.raises(ValueError, match="`steps` must be an integer, at least 0"):
        rectify(jnp.eye(2), steps=-1)

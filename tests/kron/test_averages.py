import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.kron import debiased_weight, update_mean


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.9, 0.999])
def test_keeps_the_textbooks_corrected_average(decay):
    terms = np.random.default_rng(0).standard_normal(30)
    raw, mean = 0.0, jnp.zeros(1)
    weights = debiased_weight(decay, jnp.arange(1, 31))
    for t, term in enumerate(terms, start=1):
        raw = decay * raw + (1 - decay) * term
        mean = update_mean(mean, jnp.full(1, term, mean.dtype), weights[t - 1 : t])
        # The corrections cancel to (1 - decay) t at first.
        np.testing.assert_allclose(mean[0], raw / (1 - decay**t), rtol=1e-4, atol=1e-5)


def test_decay_one_is_the_plain_average():
    steps = jnp.array([1, 2, 10, 10**6])
    np.testing.assert_allclose(debiased_weight(1.0, steps), 1 / np.array(steps), 1e-6)
    # The limit: near one, it is close to that.
    near = debiased_weight(jnp.float32(1 - 2**-20), steps[:3])
    np.testing.assert_allclose(near, 1 / np.array(steps[:3]), rtol=1e-4)


def test_decay_zero_is_the_newest_term():
    assert (debiased_weight(0.0, jnp.array([1, 2, 1000])) == 1).all()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_weights_are_weights(decay):
    steps = jnp.array([0, 1, 2, 5, 1000, 2**31 - 1])
    weights = jax.jit(debiased_weight)(decay, steps)
    assert weights.dtype == jnp.float32
    assert (weights[:2] == 1).all()
    assert (np.diff(weights) <= 0).all()
    assert (weights >= 1 - np.float32(decay)).all()
    assert (weights[1:] > 0).all()


def test_weights_have_finite_derivatives():
    grad = jax.grad(lambda decay: debiased_weight(decay, jnp.array([1, 2, 9])).sum())
    for decay in (0.0, 0.5, 0.99, 1.0):
        assert jnp.isfinite(grad(decay))
    check_grads(
        lambda decay: debiased_weight(decay, jnp.array([2, 9])), (0.9,), 1, rtol=1e-2
    )


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weight_zero_keeps_every_bit(getkey, dtype):
    mean = jax.random.normal(getkey(), (3, 4, 2)).astype(dtype)
    new = jax.random.normal(getkey(), (3, 4, 2)).astype("float32")
    weight = jnp.array([0, 1, 0.25], "float32")
    out = update_mean(mean, new, weight)
    assert out.dtype == mean.dtype
    assert (out[0] == mean[0]).all()
    desired = 0.75 * mean[2].astype("float32") + 0.25 * new[2]
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(out[1].astype("float32"), new[1], atol=4 * eps)
    np.testing.assert_allclose(out[2].astype("float32"), desired, atol=4 * eps)


def test_weights_count_from_the_left():
    out = update_mean(jnp.zeros((2, 3)), jnp.ones((2, 3)), jnp.array([0.5, 1]))
    assert out.tolist() == [[0.5] * 3, [1] * 3]
    assert update_mean(jnp.zeros(3), jnp.ones(3), jnp.array(0.5)).tolist() == [0.5] * 3
    full = update_mean(jnp.zeros((2, 2)), jnp.ones((2, 2)), jnp.eye(2))
    assert full.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weight_zero_keeps_the_average_from_whatever_comes(bad):
    mean, new = jnp.array([1.0, 2.0]), jnp.array([bad, 4.0])
    kept = update_mean(mean, new, jnp.array(0.0))
    assert (kept == mean).all()
    # One weight for each: only the first is kept.
    assert update_mean(mean, new, jnp.array([0.0, 0.5])).tolist() == [1, 3]

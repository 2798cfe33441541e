import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_close, power_oracle, psd_with_spectrum, random_psd


DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (5, 4), (3, 5, 4)])
def test_accepts_rounding_and_refuses_more(shape, dtype):
    eps = float(jnp.finfo(dtype).eps)
    desired = np.ones(shape)
    assert_close((desired * (1 + eps)).astype(dtype), desired)
    wrong = (desired * (1 + 8 * eps)).astype(dtype)
    with pytest.raises(AssertionError, match="is above"):
        assert_close(wrong, desired)
    assert_close(wrong, desired, amplification=10)


def test_refuses_one_bad_matrix_of_a_batch():
    desired = np.stack([1e6 * np.eye(3), np.eye(3)])
    wrong = desired + np.array([0, 1e-3])[:, None, None]  # small beside the first
    with pytest.raises(AssertionError, match="is above"):
        assert_close(wrong.astype("float32"), desired)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_what_is_not_finite(bad):
    with pytest.raises(AssertionError, match="is above"):
        assert_close(np.array([bad, 1.0]), np.ones(2))


def test_refuses_another_shape():
    with pytest.raises(AssertionError, match="is not"):
        assert_close(np.ones((1, 2)), np.ones(2))


def test_zero_must_be_met_exactly():
    assert_close(np.zeros(2), np.zeros(2))
    with pytest.raises(AssertionError, match="is above"):
        assert_close(np.full(2, 1e-100), np.zeros(2))


def test_spectrum_rank_and_power(getkey):
    values = np.array([1e-3, 1.0, 5.0])
    matrix = psd_with_spectrum(getkey(), values)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), values, rtol=1e-10)
    assert np.linalg.matrix_rank(random_psd(getkey(), 6, 2)) == 2
    root = power_oracle(matrix, 0.5)
    np.testing.assert_allclose(root @ root, matrix, atol=1e-13)
    # diag(3, 4): the bound is (3^8 + 4^8)^(1/8).
    damped = power_oracle(np.diag([3.0, 4.0]), 1.0, damping=0.1)
    np.testing.assert_allclose(damped - np.diag([3, 4]), 0.1 * 72097**0.125 * np.eye(2))


def test_float64_works_in_both_modes(x64, dtype):
    assert jnp.ones(2, jnp.float64).dtype == np.float64
    assert jnp.ones(2, dtype).dtype == dtype


def test_keys_are_typed_and_differ(getkey):
    first, second = getkey(), getkey()
    assert jnp.issubdtype(first.dtype, jax.dtypes.prng_key)
    assert (jax.random.key_data(first) != jax.random.key_data(second)).any()


def test_strict_forbids_promotion(strict):
    with pytest.raises(ValueError, match="dtype_promotion"):
        jnp.ones(2, jnp.float32) + jnp.ones(2, jnp.int32)
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 2)) + jnp.ones(2)

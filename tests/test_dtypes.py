"""Sums of squares, which are taken over an array's entries as a padded matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla._dtypes import norm, sum_of_squares


SHAPES = [(70, 70), (3,), (64, 64), (), (4095,), (5, 2), (4097,), (2, 3, 4), (0, 3)]


def some_array(shape):
    rng = np.random.default_rng(0)
    return jnp.asarray(1 + rng.standard_normal(shape), "float32")


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_entry_counts_once(shape):
    x = some_array(shape)
    desired = np.sum(np.asarray(x, "float64") ** 2)
    # A sum of 5,000 squares in float32 is good to 1e-6.
    np.testing.assert_allclose(jax.jit(sum_of_squares)(x), desired, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(norm)(x), np.sqrt(desired), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape])
def test_one_bad_entry_shows(shape, bad):
    total = jax.jit(sum_of_squares)
    x = some_array(shape)
    assert jnp.isfinite(total(x))
    for place in {0, x.size // 2, x.size - 1}:
        assert not jnp.isfinite(total(x.ravel().at[place].set(bad).reshape(shape)))


def test_derivatives(getkey):
    x, v = (jax.random.normal(getkey(), (5, 3)) for _ in range(2))
    _, tangent = jax.jvp(norm, (x,), (v,))
    np.testing.assert_allclose(tangent, np.vdot(x, v) / np.linalg.norm(x), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(norm)(x), x / np.linalg.norm(x), rtol=1e-5)
    assert (jax.grad(norm)(jnp.zeros(3)) == 0).all()

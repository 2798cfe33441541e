"""Sums of squares, which are taken in two ways by the size of the array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla._dtypes import norms, sums_of_squares
from jaxla.kron import graft
from tests.helpers import assert_close


SHAPES = [(70, 70), (3,), (64, 64), (), (4095,), (5, 2), (4097,)]  # 4096 divides them


def some_arrays(shift):
    """Each with a size of its own, so that none can stand for another."""
    rng = np.random.default_rng(shift)
    return [
        jnp.asarray((i + 1 + shift) * rng.standard_normal(shape), "float32")
        for i, shape in enumerate(SHAPES)
    ]


@pytest.mark.usefixtures("strict")
def test_small_and_large_arrays_keep_their_places():
    arrays = some_arrays(0)
    desired = [np.sum(np.asarray(x, "float64") ** 2) for x in arrays]
    # Each by itself: a sum of 5,000 squares in float32 is good to 1e-6.
    np.testing.assert_allclose(jax.jit(sums_of_squares)(arrays), desired, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(norms)(arrays), np.sqrt(desired), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("place", range(len(SHAPES)))
def test_one_that_is_not_finite_touches_no_other(place, bad):
    arrays = some_arrays(0)
    arrays[place] = arrays[place].at[(-1,) * arrays[place].ndim].set(bad)
    finite = np.isfinite(sums_of_squares(arrays))
    assert finite.tolist() == [i != place for i in range(len(SHAPES))]


def test_grafting_of_small_beside_large_arrays():
    direction, magnitude = some_arrays(1), some_arrays(2)
    for actual, d, m in zip(
        jax.jit(graft)(direction, magnitude), direction, magnitude, strict=True
    ):
        d, m = np.asarray(d, "float64"), np.asarray(m, "float64")
        assert_close(actual, d * np.linalg.norm(m) / np.linalg.norm(d), amplification=10)

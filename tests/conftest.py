"""Fixtures of the whole suite. What JAX has to be told first is in ../conftest.py."""

import itertools
import re

import jax
import jaxtyping
import numpy as np
import pytest


ROOMS = {"factor", "matfun", "operators"}
SLOW = re.compile("derivativ|gradient|agree|half_precision|lowers|batch|scale|small_and")


def pytest_collection_modifyitems(items):
    """Marks what takes long to compile, by what it tests, in the rooms of mathematics."""
    for item in items:
        if ROOMS & set(item.path.parts) and SLOW.search(item.name):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def _forget_executables():
    """Each executable maps memory, and a process may do so 65 530 times."""
    yield
    jax.clear_caches()


@pytest.fixture
def getkey():
    """A source of random keys: each call gives another one, the same in every run."""
    root, count = jax.random.key(0), itertools.count()
    return lambda: jax.random.fold_in(root, next(count))


@pytest.fixture
def strict():
    """No implicit promotion of dtypes or ranks. Optax is not clean under it."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """Arrays of 64 bits, whatever the suite runs with."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both dtypes to compute in, whatever the suite runs with."""
    wide = request.param == "float64" or jax.config.jax_enable_x64
    with jax.enable_x64(wide):
        yield np.dtype(request.param)


@pytest.fixture
def unchecked():
    """Without the type checks of the test run, so that the package's own can speak."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.factor import diagonality_potential
from tests.helpers import assert_close, psd_with_spectrum, random_psd


potential = jax.jit(diagonality_potential)


def oracle(b) -> float:
    b = np.asarray(b, "float64")
    return float(np.trace(b * np.linalg.inv(b)) - len(b))


def test_matches_its_definition(getkey, dtype):
    for b in (
        random_psd(getkey(), 6, 9),
        psd_with_spectrum(getkey(), [1, 1, 2, 2, 5, 9]),
    ):
        actual = potential(jnp.asarray(b, dtype))
        assert actual.dtype == dtype
        assert_close(actual, np.array(oracle(b)), amplification=100)


def test_small_values_are_accurate(dtype):
    """To first order it is the sum of all squares beside the diagonal."""
    off = 1e-7
    b = np.eye(6) + off * (1 - np.eye(6))
    actual = potential(jnp.asarray(b, dtype))
    np.testing.assert_allclose(actual, 30 * off**2, rtol=1e-5)


def test_scaling_rows_and_columns_changes_nothing(getkey, dtype):
    b = random_psd(getkey(), 6, 9)
    plain = potential(jnp.asarray(b, dtype))
    for s in (2.0 ** np.array([-30, 10, 30, 0, 20, -10]), 2.0**50, 2.0**-50):
        scale = np.broadcast_to(s, 6)
        scaled = potential(jnp.asarray(scale[:, None] * b * scale, dtype))
        assert_close(scaled, np.asarray(plain, "float64"), amplification=100)


def test_diagonal_and_not_positive_definite(dtype):
    for b, desired in [
        (np.diag([1.0, 2, 3e-9]), 0),
        (np.ones((3, 3)), np.inf),
        (np.diag([1.0, 0, 1]), np.inf),
        (-np.eye(3), np.inf),
        (np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), np.inf),
        (np.full((3, 3), np.nan), np.inf),
        (np.diag([1.0, np.inf, 1]), np.inf),
    ]:
        assert potential(jnp.asarray(b, dtype)) == desired
    assert potential(jnp.ones((1, 1), dtype)) == 0
    assert diagonality_potential(jnp.ones((2, 0, 0), dtype)).tolist() == [0, 0]
    assert diagonality_potential(jnp.ones((0, 3, 3), dtype)).shape == (0,)


def test_a_bad_member_stays_alone(getkey):
    b = jnp.array([random_psd(getkey(), 6, 9) for _ in range(3)], jnp.float32)
    both = jax.jit(jax.value_and_grad(lambda b: diagonality_potential(b)[::2].sum()))
    for bad in (np.nan, -1.0):
        out, clean = (potential(x) for x in (b.at[1, 0, 0].set(bad), b))
        assert out[1] == np.inf
        assert (out[::2] == clean[::2]).all()
        assert_close(clean, jax.vmap(diagonality_potential)(b), amplification=10)
        spoilt, whole = both(b.at[1, 0, 0].set(bad)), both(b)
        assert (spoilt[1][::2] == whole[1][::2]).all()


@pytest.mark.usefixtures("x64")
def test_derivatives(getkey):
    for b in (random_psd(getkey(), 6, 9), np.diag([1.0, 2, 2, 3, 4, 5])):
        check_grads(potential, (b,), order=1, rtol=1e-6, atol=1e-6)
        check_grads(slope, (b,), order=1, modes=["rev"], rtol=1e-6, atol=1e-6)


@jax.jit
def slope(b):
    return jax.grad(diagonality_potential)(b)


@pytest.mark.usefixtures("strict")
def test_promotes_nothing_silently():
    b = jnp.ones((2, 3, 3), jnp.bfloat16)
    assert jax.eval_shape(diagonality_potential, b).dtype == jnp.bfloat16
    jax.eval_shape(jax.grad(lambda b: diagonality_potential(b).sum()), b)


def test_lowers_for_gpu_and_tpu():
    b = jax.ShapeDtypeStruct((2, 6, 6), jnp.float32)
    fn = lambda b: diagonality_potential(b).sum()
    for f in (fn, jax.grad(fn)):
        jax.export.export(jax.jit(f), platforms=["cuda", "tpu"])(b)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    message = "`matrix` must have shape (..., n, n); got (2, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        diagonality_potential(jnp.ones((2, 3)))
    message = "`matrix` must have a real floating-point dtype; got int32."
    with pytest.raises(TypeError, match=re.escape(message)):
        diagonality_potential(jnp.ones((2, 2), "int32"))

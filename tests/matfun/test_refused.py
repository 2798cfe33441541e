"""A loss that leaves refused matrices out has a gradient without NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla import matfun


GOOD = np.array([[2.0, 0.5, 0.1], [0.5, 1, 0.2], [0.1, 0.2, 3]], "float32")
INDEFINITE = [-np.eye(3), np.diag([1.0, 1, -1]), np.zeros((3, 3))]
NO_SIGN = [np.zeros((3, 3)), np.diag([1.0, 0, -1])]
CASES = {
    "minimax": (functools.partial(matfun.inverse_pth_root, p=2), INDEFINITE),
    "newton": (
        functools.partial(matfun.inverse_pth_root, p=3, method="newton"),
        INDEFINITE,
    ),
    "eigh": (functools.partial(matfun.inverse_pth_root, p=2, method="eigh"), INDEFINITE),
    "inverse_sqrtm": (matfun.inverse_sqrtm, INDEFINITE),
    "sqrtm": (functools.partial(matfun.sqrtm, method="minimax"), INDEFINITE[:2]),
    "taylor_sqrtm": (matfun.taylor_sqrtm, INDEFINITE[:1]),
    "logm": (matfun.logm, [*INDEFINITE, np.diag([1.0, 1, -1e-3])]),
    "signm": (matfun.signm, NO_SIGN),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_a_guarded_loss(name):
    """With a parameter that all matrices of the batch share."""
    fn, refused = CASES[name]

    @functools.partial(jax.jit, static_argnames="order")
    def derivative(batch, s, order=1):
        def loss(s):
            value, residual = fn(batch * s)
            kept = jnp.where((residual <= 1e-2)[:, None, None], value, 0)
            return jnp.sum(kept * jnp.arange(9.0).reshape(3, 3)), residual

        grad, residual = jax.grad(loss, has_aux=True)(s)
        value = lambda s: loss(s)[0]
        slope = jax.jvp(value, (s,), (jnp.ones_like(s),))[1]
        return grad, slope, jax.jacfwd(jax.grad(value))(s), residual

    batch = jnp.asarray(np.stack([GOOD, *refused]), jnp.float32)
    *actual, residual = derivative(batch, 1.3)
    assert (residual <= 1e-2).tolist() == [True] + [False] * len(refused)
    # In a batch of good ones only, each has the same part.
    *desired, _ = derivative(jnp.stack([batch[0]] * len(batch)), 1.3)
    desired = np.array(desired) / len(batch)
    np.testing.assert_allclose(actual, desired, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_one_threshold_serves_logarithms_of_all_scales(scale):
    plain, residual = jax.jit(matfun.logm)(GOOD)
    moved, other = jax.jit(matfun.logm)(GOOD * np.float32(scale))
    assert residual < 1e-5
    assert other < 1e-5
    expected = np.asarray(plain, "float64") + np.log(scale) * np.eye(3)
    np.testing.assert_allclose(moved, expected, atol=1e-5 * abs(np.log(scale)))


def test_asymmetry_shows_in_the_residual_of_a_square_root():
    asymmetric = jnp.array([[2.0, 1.0], [0.0, 2.0]])
    for method in ("eigh", "minimax"):
        assert matfun.sqrtm(asymmetric, method=method).residual > 0.1

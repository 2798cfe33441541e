import re

import jax
import jax.numpy as jnp
import pytest

from jaxla.factor import eigvals_tridiagonal, eigvalsh
from jaxla.matfun import inverse_pth_root, project_psd, prox_neg_log_det, signm, sqrtm
from tests.helpers import assert_close


@pytest.mark.usefixtures("unchecked")
def test_a_message_about_a_traced_integer_says_what_to_do():
    message = "`p` must be a Python integer, between 1 and 8; got an array of int32."
    with pytest.raises(TypeError, match=re.escape(message)) as raised:
        jax.jit(inverse_pth_root)(jnp.eye(2), jnp.int32(4))
    assert '`static_argnames="p"`' in str(raised.value)
    with pytest.raises(TypeError, match=re.escape("got 4.0.")):
        inverse_pth_root(jnp.eye(2), 4.0)
    fn = lambda start: eigvals_tridiagonal(jnp.ones(3), jnp.ones(2), indices=(start, 3))
    with pytest.raises(TypeError, match=re.escape("`indices[0]`")) as raised:
        jax.jit(fn)(0)
    assert '`static_argnames="indices"`' in str(raised.value)


def test_what_a_message_says_to_do_helps():
    half = jnp.eye(2) / 2
    p_static = jax.jit(inverse_pth_root, static_argnames="p")
    p_fixed = jax.jit(lambda a: inverse_pth_root(a, 4))
    for root in (p_static(16 * jnp.eye(2), 4).root, p_fixed(16 * jnp.eye(2)).root):
        assert_close(root, half, amplification=4)


def second_directional(fn, x, direction):
    along = lambda t: fn(x + t * direction)
    return jax.jacfwd(jax.jacfwd(along))(jnp.zeros((), x.dtype))


WAYS_OUT = {
    "project_psd": (
        project_psd,
        lambda x: (x + x @ signm(x).value) / 2,
    ),
    "prox_neg_log_det": (
        lambda x: prox_neg_log_det(x, 0.5),
        lambda x: (x + sqrtm(x @ x + 4 * 0.5 * jnp.eye(3)).root) / 2,
    ),
    "eigvalsh": (eigvalsh, jnp.linalg.eigvalsh),
}


@pytest.mark.parametrize("name", WAYS_OUT)
def test_a_refused_second_derivative_names_a_way_out_that_is_right(name):
    refused, instead = WAYS_OUT[name]
    with jax.enable_x64(True):
        x = jnp.array([[2.0, 1.0, 0.5], [1.0, -1.0, 0.3], [0.5, 0.3, 0.7]])
        direction = jnp.array([[0.3, -1.0, 0.2], [-1.0, 0.5, 0.1], [0.2, 0.1, -0.4]])
        with pytest.raises(NotImplementedError, match=f"`{name}` can be") as raised:
            second_directional(refused, x, direction)
        assert len(str(raised.value)) > len(f"`{name}` can be differentiated once only.")
        assert_close(instead(x), refused(x))
        first = lambda t: jax.jvp(refused, (x + t * direction,), (direction,))[1]
        exact = (first(1e-5) - first(-1e-5)) / 2e-5
        actual = second_directional(instead, x, direction)
        assert jnp.abs(actual - exact).max() < 1e-7

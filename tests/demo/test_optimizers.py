"""What the screen says of each optimizer is so."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxla
from jaxla._demo import _picture
from jaxla._demo._optimizers import OPTIMIZERS, WEIGHT_DECAY
from jaxla.kron import Blocks, Storage


PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
GRADS = {"w": jnp.arange(12.0).reshape(4, 3) - 5, "b": jnp.array([1.0, -2.0, 3.0])}


def two_updates(opt):
    update = jax.jit(opt.update)
    _, state = update(GRADS, opt.init(PARAMS), PARAMS)
    grads = {"w": GRADS["w"][::-1], "b": -GRADS["b"]}
    return update(grads, state, PARAMS)[0]


def by_hand(name):
    if name == "shampoo":
        blocks = Blocks(size=128, refresh_every=8, eager_steps=4)
        return jaxla.optim.shampoo(0.1, damping=1e-4, weight_decay=1e-4, blocks=blocks)
    return {
        "adamw": optax.adamw(0.1),
        "soap": jaxla.optim.soap(
            0.1, weight_decay=1e-4, blocks=Blocks(size=128, refresh_every=8)
        ),
        "kl-shampoo": jaxla.optim.kl_shampoo(
            0.1,
            initial_eigenvalue=None,
            weight_decay=1e-4,
            blocks=Blocks(size=128, refresh_every=8),
        ),
        "four-bit": jaxla.optim.four_bit_shampoo(
            0.1,
            weight_decay=1e-4,
            blocks=Blocks(size=128, refresh_every=8),
            storage=Storage(turns_per_root=1),
        ),
        "muon": jaxla.optim.muon(0.1, adam_scale=1.0, scale="adam", weight_decay=1e-4),
        "steepest-descent": optax.chain(
            optax.ema(0.9), jaxla.optim.steepest_descent(0.1, weight_decay=1e-4)
        ),
        "sgd": optax.chain(
            optax.trace(0.9, nesterov=True),
            optax.add_decayed_weights(1e-4),
            optax.scale(-0.1),
        ),
    }[name]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings(name):
    made = two_updates(OPTIMIZERS[name].make(lambda count: 0.1))
    expected = two_updates(by_hand(name))
    for key in PARAMS:
        np.testing.assert_allclose(made[key], expected[key], rtol=1e-5, atol=1e-7)


def test_weight_decay_is_that_of_adamw():
    told = two_updates(optax.adamw(0.1, weight_decay=WEIGHT_DECAY))
    np.testing.assert_array_equal(told["w"], two_updates(optax.adamw(0.1))["w"])


def test_each_has_a_colour_and_dashes_of_its_own():
    for styles in (_picture._COLOURS, _picture._DASHES):
        assert len(set(styles)) == len(styles) >= len(OPTIMIZERS)

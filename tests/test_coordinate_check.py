"""The coordinate check, and features that change alike at every width."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla.kron import spectral_init
from jaxla.optim import scale_by_spectral_condition, scale_by_width
from jaxla.testing import coordinate_check, CoordinateCheck


TOKENS = jax.random.randint(jax.random.key(1), (16, 6), 0, 5)
LABELS = jnp.arange(16) % 3
WIDTHS = (32, 256)


def init(key, width):
    """An embedding, a bias, a convolution and a head."""
    shapes = {"bias": (width,), "conv": (width, width, 3)}
    shapes |= {"embed": (5, width), "head": (3, width)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    return spectral_init(key, params)


def features(params):
    embed = params["embed"][TOKENS] + params["bias"]
    h = jnp.tanh(embed)
    patches = jnp.stack([h[:, :-2], h[:, 1:-1], h[:, 2:]], -1)
    conv = jnp.einsum("blik,oik->blo", patches, params["conv"])
    return {
        "bias": params["bias"],
        "embed": embed,
        "conv": conv,
        "logits": jnp.tanh(conv).mean(1) @ params["head"].T,
    }


def loss(params):
    logits = features(params)["logits"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


@pytest.mark.parametrize(
    ("opt", "rate"),
    [
        (scale_by_width("sgd"), 0.01),
        (optax.chain(optax.scale_by_adam(), scale_by_width("adam")), 0.01),
        (scale_by_spectral_condition(), 0.05),
    ],
    ids=["sgd", "adam", "normalized"],
)
def test_features_change_alike_under_the_spectral_condition(opt, rate):
    opt = optax.chain(opt, optax.scale_by_learning_rate(rate))
    found = coordinate_check(init, features, loss, lambda _: opt, WIDTHS, steps=2)
    slopes = found.slopes
    assert set(slopes) == {"bias", "conv", "embed", "logits"}
    for layer, slope in slopes.items():
        assert abs(slope) < 0.12, (layer, slope)


def test_changes_and_slopes_are_what_they_say():
    def init(key, width):
        return {"w": jnp.full(width, jax.random.uniform(key))}

    found = coordinate_check(
        init,
        lambda p: [jnp.concatenate([3 * p["w"], 0 * p["w"]]), 0 * p["w"]],
        lambda p: jnp.sum(p["w"]),
        lambda width: optax.sgd(0.1 * width),
        (2, 4, 8),
        steps=5,
        seeds=2,
    )
    # Each weight goes down by 0.1 width in a step; half of the features do so thrice.
    expected = 5 * 0.1 * np.array([2, 4, 8]) * 3 / 2**0.5
    np.testing.assert_allclose(found.changes["0"], expected[:, None] * [1, 1], rtol=1e-5)
    np.testing.assert_allclose(found.slopes["0"], 1, rtol=1e-5)
    assert np.isnan(found.slopes["1"])
    one = CoordinateCheck((64, 128), {"a": np.array([[1.0], [4.0]])})
    assert str(one) == "layer  64  128  slope\na      1   4    +2.00"


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments():
    arguments = (init, features, loss, lambda _: optax.sgd(0.1))
    for widths in ([64], [8, 8]):
        with pytest.raises(ValueError, match="`widths` must have two different ones"):
            coordinate_check(*arguments, widths)
    with pytest.raises(ValueError, match="`steps` must be an integer, at least 1"):
        coordinate_check(*arguments, WIDTHS, steps=0)

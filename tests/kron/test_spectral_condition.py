"""The spectral condition's numbers for each role, and weights drawn by it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.kron import fans, Layers, spectral_init, width_rate


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("mlp/weight", (512, 64), (512, 64)),
        ("mlp/kernel", (512, 64), (64, 512)),
        ("conv/weight", (32, 16, 3, 5), (32, 240)),
        ("conv/kernel", (3, 5, 16, 32), (32, 240)),
        ("attention/query/kernel", (64, 4, 8), (32, 64)),
        ("attention/out/kernel", (4, 8, 64), (64, 32)),
        ("blocks/weight", (7, 20, 30), (20, 30)),
        ("embed/weight", (1000, 64), (64, 1)),
        ("head/weight", (10, 64), (10, 64)),
        ("last/weight", (1, 64), (1, 64)),  # a head, however thin
        ("first/kernel", (1, 64), (64, 1)),
        ("mlp/bias", (64,), (64, 1)),
        ("conv/bias", (32, 1, 1), (32, 1)),
        ("norm/weight", (64,), (64, 1)),
        ("temperature", (), (1, 1)),
    ],
)
def test_outputs_and_inputs(path, shape, expected):
    leaf = jax.ShapeDtypeStruct(shape, "float32")
    assert fans(Layers().layer(path, leaf, thin=True), shape) == expected


def test_steps_of_each_kind_come_out_at_the_same_norm():
    """Where gradients are products of vectors that are as large as the condition says."""
    rng = np.random.default_rng(0)
    for m, n, one_hot in ((8, 512, 0), (512, 8, 0), (300, 300, 0), (400, 90, 1)):
        signs = rng.choice([-1.0, 1.0], size=m)
        backward = signs / m  # of length 1 / sqrt(m)
        forward = np.eye(n)[3] if one_hot else rng.choice([-1.0, 1.0], size=n)
        g = np.outer(backward, forward)
        fan_in = 1 if one_hot else n
        for kind, step in (("sgd", g), ("adam", np.sign(g))):
            size = width_rate(m, fan_in, kind=kind) * np.linalg.norm(step, 2)
            np.testing.assert_allclose(size, (m / fan_in) ** 0.5)


def test_weights_have_the_norm_of_the_condition():
    params = {
        "conv": {"weight": jnp.zeros((96, 16, 2, 2))},
        "embed": {"weight": jnp.zeros((300, 200), "bfloat16")},
        "kernel": jnp.zeros((16, 1200)),
        "head": {"weight": jnp.zeros((10, 1200))},
        "out": {"weight": jnp.zeros((1, 1200)), "bias": jnp.arange(1.0)},
        "step": jnp.arange(3),
    }
    # Standard deviations, written out: 1 / sqrt(in) min(1, sqrt(out / in)).
    sigma = {
        "conv": 1 / 64**0.5,
        "embed": 1.0,
        "kernel": 1 / 16**0.5,
        "head": 1 / 1200**0.5 * (10 / 1200) ** 0.5,
        "out": 1 / 1200,
    }
    new = spectral_init(jax.random.key(0), params, scale=3.0)
    for name, size in sigma.items():
        w = new[name] if name == "kernel" else new[name]["weight"]
        w = np.asarray(w, "float64")
        assert abs(w.std() / (3 * size) - 1) < 0.1, name
        assert abs(w.mean()) < 4 * 3 * size / w.size**0.5
    for w, ratio in (
        (new["kernel"].T, 1200 / 16),
        (new["head"]["weight"], 10 / 1200),
        (new["conv"]["weight"].reshape(96, 64), 96 / 64),
        (new["out"]["weight"], 1 / 1200),
    ):
        size = np.linalg.norm(np.asarray(w, "float64"), 2) / 3 / ratio**0.5
        assert 0.9 < size < 2.1
    tokens = np.linalg.norm(np.asarray(new["embed"]["weight"], "float64"), axis=1)
    assert (abs(tokens / 3 / 200**0.5 - 1) < 0.3).all()
    assert new["embed"]["weight"].dtype == jnp.bfloat16
    assert new["step"] is params["step"]
    assert new["out"]["bias"] is params["out"]["bias"]


def test_a_whole_model_of_equinox_gets_new_weights():
    model = eqx.nn.MLP(3, "scalar", 8, 2, key=jax.random.key(0))
    new = spectral_init(jax.random.key(1), model, Layers(layout="equinox"))
    assert new.activation is model.activation
    for old, layer in zip(model.layers, new.layers, strict=True):
        assert layer.bias is old.bias
        assert layer.weight.shape == old.weight.shape
        assert (layer.weight != old.weight).all()
    assert jax.tree.structure(new) == jax.tree.structure(model)
    # No two layers share their numbers.
    two = {"a": jnp.zeros((8, 8)), "b": jnp.zeros((8, 8))}
    two = spectral_init(jax.random.key(1), two)
    assert (two["a"] != two["b"]).all()


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments():
    with pytest.raises(ValueError, match="`kind` must be one of 'sgd', 'adam'; got"):
        width_rate(3, 4, kind="lion")
    with pytest.raises(TypeError, match=r"`layers` must be a `jaxla.kron.Layers`; got 3"):
        spectral_init(jax.random.key(0), {}, 3)

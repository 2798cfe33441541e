"""Roles by path and shape, and which axes are inputs and outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.kron import Axes, describe_layers, gain, Layer, Layers


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, "float32")


def told(path, shape, **choices):
    layer = Layers(**choices).layer(path, leaf(*shape))
    return layer.role, layer.matrix_shape(shape)


@pytest.mark.parametrize(
    ("path", "shape", "role", "matrices"),
    [
        # Equinox.
        ("layers/0/weight", (8, 5), "hidden", (1, 8, 5)),
        ("layers/0/bias", (8,), "vector", (1, 8, 1)),
        ("conv1/weight", (8, 3, 5, 5), "hidden", (1, 8, 75)),
        ("conv1/weight", (8, 3, 5), "hidden", (1, 8, 15)),
        ("conv1/bias", (8, 1, 1), "vector", (1, 8, 1)),
        ("token_embedding/weight", (100, 8), "embedding", (1, 8, 100)),
        ("unembed/weight", (100, 8), "head", (1, 100, 8)),
        ("lm_head/weight", (100, 8), "head", (1, 100, 8)),
        ("head/bias", (100,), "vector", (1, 100, 1)),
        ("multihead_attn/query_proj/weight", (8, 8), "hidden", (1, 8, 8)),
        # Layers stacked by `jax.vmap`.
        ("blocks/weight", (4, 8, 5), "hidden", (4, 8, 5)),
        ("blocks/bias", (4, 8), "vector", (1, 32, 1)),
        ("blocks/norm1/weight", (4, 8), "vector", (1, 32, 1)),
        ("blocks/ln_1/weight", (4, 8), "vector", (1, 32, 1)),
        # Flax.
        ("params/Dense_0/kernel", (5, 8), "hidden", (1, 8, 5)),
        ("params/Conv_0/kernel", (5, 5, 3, 8), "hidden", (1, 8, 75)),
        ("params/Embed_0/embedding", (100, 8), "embedding", (1, 8, 100)),
        ("params/LayerNorm_0/scale", (8,), "vector", (1, 8, 1)),
        ("params/blocks/Dense_0/kernel", (4, 5, 8), "hidden", (4, 8, 5)),
        ("params/blocks/LayerNorm_0/scale", (4, 8), "vector", (1, 32, 1)),
        ("params/attention/query/kernel", (8, 2, 4), "hidden", (1, 8, 8)),
        ("params/attention/out/kernel", (2, 4, 6), "hidden", (1, 6, 8)),
        # Anything else.
        ("", (8, 5), "hidden", (1, 8, 5)),
        ("a/b/c", (8, 5), "hidden", (1, 8, 5)),
        ("scalar", (), "vector", (1, 1, 1)),
        ("row", (1, 5), "vector", (1, 5, 1)),
    ],
)
def test_roles_by_default(path, shape, role, matrices):
    assert told(path, shape) == (role, matrices)


def test_layouts_and_stacked_layers_can_be_told():
    assert told("w", (5, 8), layout="flax") == ("hidden", (1, 8, 5))
    assert told("a/kernel", (5, 8), layout="equinox") == ("hidden", (1, 5, 8))
    stacked = {"blocks/*": 1, "plain/*": 0}
    assert told("blocks/v", (4, 8), stacked=stacked) == ("vector", (1, 32, 1))
    assert told("blocks/w", (4, 8, 5, 3), stacked=stacked)[1] == (4, 8, 15)
    assert told("plain/w", (4, 8, 5), stacked=stacked)[1] == (1, 4, 40)
    both = told("blocks/query/kernel", (3, 8, 2, 4), stacked=stacked)
    assert both == ("hidden", (3, 8, 8))


def test_rules_come_first():
    rules = {"*/last/*": "head", "special": Layer("embedding", Axes((0,), (2,), (1,)))}
    assert told("a/last/weight", (9, 4), rules=rules)[0] == "head"
    assert told("special", (2, 3, 4), rules=rules) == ("embedding", (3, 2, 4))
    by_size = lambda path, leaf: "vector" if leaf.shape[0] > 50 else None
    assert told("w", (51, 4), rules=by_size)[0] == "vector"
    assert told("w", (50, 4), rules=by_size)[0] == "hidden"


@pytest.mark.parametrize("axes", [Axes((2,), (0,), (1,)), Axes((-1, 0), (1,)), None])
def test_there_and_back(axes):
    layer = Layer("hidden", axes) if axes else Layer("vector")
    x = jnp.arange(24.0).reshape(2, 3, 4)
    matrices = layer.to_matrices(x)
    assert matrices.shape == layer.matrix_shape(x.shape)
    np.testing.assert_array_equal(layer.from_matrices(matrices, x.shape), x)
    if axes == Axes((2,), (0,), (1,)):
        np.testing.assert_array_equal(matrices[1], x[:, 1].T)


def test_a_matrix_maps_inputs_to_outputs():
    linear = eqx.nn.Linear(3, 5, use_bias=False, key=jax.random.key(0))
    x = jnp.array([1.0, -2.0, 0.5])
    (w,) = Layers().layer("weight", linear.weight).to_matrices(linear.weight)
    np.testing.assert_allclose(w @ x, linear(x), rtol=1e-5)
    kernel = linear.weight.T  # as Flax has it
    (w,) = Layers().layer("kernel", kernel).to_matrices(kernel)
    np.testing.assert_allclose(w @ x, linear(x), rtol=1e-5)
    table = eqx.nn.Embedding(7, 3, key=jax.random.key(1))
    (w,) = Layers().layer("embed/weight", table.weight).to_matrices(table.weight)
    np.testing.assert_array_equal(w @ jnp.eye(7)[2], table(2))


def test_gains():
    assert [gain(8, 2, scale=s) for s in ("muon", "rms", "none")] == [2, 2, 1]
    assert [gain(2, 8, scale=s) for s in ("muon", "rms", "none")] == [1, 0.5, 1]
    assert gain(4, 25, scale="adam") == pytest.approx(1.0)


def test_describes_layers():
    params = {"b": leaf(8), "blocks": {"w": leaf(4, 8, 5)}, "s": leaf()}
    assert describe_layers(params).splitlines() == [
        "b         8       vector  -",
        "blocks/w  4x8x5   hidden  4 times 8 from 5",
        "s         scalar  vector  -",
    ]
    whole = describe_layers(params, Layers(stacked={"*": 0}))
    assert "blocks/w  4x8x5   hidden  4 from 40" in whole


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"layout": "torch"}, ValueError, "`layout` must be one of 'auto', 'equinox'"),
        ({"stacked": 1}, TypeError, "`stacked` must be a mapping; got 1"),
        (
            {"stacked": {"w": 3}},
            ValueError,
            "`stacked` gives 3 leading axes for 'w', who",
        ),
        ({"stacked": {"w": 0.5}}, TypeError, "`stacked` must give integers; got 0.5"),
        ({"rules": {"w": "norm"}}, ValueError, "a `Layer` or None .* got 'norm' for 'w'"),
        (
            {"rules": {"w": "head"}, "stacked": {"w": 1}},
            ValueError,
            r"`rules` makes 'w' of shape \(3, 4\) a matrix, 'head', but without 1",
        ),
        (
            {"rules": {"w": Layer("head", Axes((0,), (0,)))}},
            ValueError,
            r"each axis of the parameter 'w' of shape \(3, 4\) once",
        ),
    ],
    ids=str,
)
def test_bad_choices(choices, error, message):
    with pytest.raises(error, match=message):
        Layers(**choices).layer("w", leaf(3, 4))


@pytest.mark.usefixtures("unchecked")
def test_bad_layers():
    with pytest.raises(ValueError, match="`role` must be one of 'hidden', 'embedding'"):
        Layer("conv", Axes((0,), (1,)))
    with pytest.raises(
        ValueError, match="`axes` must be given for a matrix and only for"
    ):
        Layer("hidden")
    with pytest.raises(ValueError, match="`scale` must be one of 'muon', 'rms', 'adam'"):
        gain(2, 3, scale="yes")

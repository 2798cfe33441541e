"""Updates of the spectral condition against NumPy, and learning rates by width."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla.optim import Layers, scale_by_spectral_condition, scale_by_width


# Each parameter with its matrices, outputs by inputs, and the inputs that count.
AS_MATRICES = {
    "bias": ((4,), lambda x: x[None, :, None], 1),
    "blocks": ((2, 5, 4), lambda x: x, 4),
    "conv": ((4, 3, 2, 2), lambda x: x.reshape(1, 4, 12), 12),
    "embed": ((7, 3), lambda x: x.T[None], 1),
    "head": ((6, 4), lambda x: x[None], 4),
    "kernel": ((3, 5), lambda x: x.T[None], 3),
    "last": ((1, 4), lambda x: x[None], 4),
    "weight": ((5, 3), lambda x: x[None], 3),
}
PARAMS = {name: jnp.ones(shape) for name, (shape, _, _) in AS_MATRICES.items()}
OPT = scale_by_spectral_condition()
UPDATE = jax.jit(OPT.update)


def tree(seed, make=lambda rng, shape: rng.normal(size=shape)):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(make(rng, shape), "float32")
        for name, (shape, _, _) in AS_MATRICES.items()
    }


def of_rank_one(rng, shape):
    """Outer products of all axes, but for layers that are stacked."""
    g = rng.normal(size=shape[0])
    for i, n in enumerate(shape[1:], 1):
        stacked = len(shape) == 3 and i == 2
        own = rng.normal(size=(2, 1, n) if stacked else n)
        g = g[..., None] * own
    return g


def expected(grads, norm="spectral"):
    """Each parameter over its norm, times sqrt(out / in)."""
    out = {}
    for name, (_, as_matrices, fan_in) in AS_MATRICES.items():
        g = np.asarray(grads[name], "float64")
        matrices = as_matrices(g)
        if name == "embed":
            sizes = np.linalg.norm(matrices, axis=1).max(-1)
        elif norm == "spectral":
            sizes = np.linalg.svd(matrices, compute_uv=False)[:, 0]
        else:
            sizes = np.linalg.norm(matrices, axis=(1, 2))
        gain = (matrices.shape[1] / fan_in) ** 0.5
        sizes = sizes.reshape(-1, *[1] * (g.ndim - 1)) if name == "blocks" else sizes
        out[name] = gain * g / sizes
    return out


def assert_trees_close(actual, desired, rtol=1e-5):
    for name, x in desired.items():
        atol = rtol * np.abs(x).max()
        np.testing.assert_allclose(actual[name], x, atol=atol, err_msg=name)


def test_updates_have_the_norm_of_the_condition():
    grads, state = tree(0), OPT.init(PARAMS)
    for _ in range(60):
        updates, state = UPDATE(grads, state)
    assert_trees_close(updates, expected(grads), 1e-4)
    shapes = [(2, 4), (1, 4), (1, 4), (1, 3), (1, 1), (1, 3)]  # no bias, no embedding
    assert [v.shape for v in state.vectors] == shapes


def test_gradients_of_rank_one_need_no_start():
    state = OPT.init(PARAMS)
    for seed in range(3):  # each unlike the one before
        grads = tree(seed, of_rank_one)
        updates, state = UPDATE(grads, state)
        assert_trees_close(updates, expected(grads))
    opt = scale_by_spectral_condition(norm="frobenius")
    updates, state = jax.jit(opt.update)(grads, opt.init(PARAMS))
    assert_trees_close(updates, expected(grads))
    assert [v.shape for v in state.vectors] == [()]


def test_the_frobenius_norm_is_another():
    opt = scale_by_spectral_condition(norm="frobenius")
    updates, _ = jax.jit(opt.update)(tree(1), opt.init(PARAMS))
    assert_trees_close(updates, expected(tree(1), "frobenius"))


def test_the_scale_of_a_gradient_does_not_matter():
    desired, _ = UPDATE(tree(2), OPT.init(PARAMS))
    for scale in (1e-30, 1e25):
        grads = jax.tree.map(lambda g, c=scale: c * g, tree(2))
        updates, state = UPDATE(grads, OPT.init(PARAMS))
        assert_trees_close(updates, desired)
        assert not any(jax.tree.leaves(state.nonfinite))


def test_bad_gradients_are_refused():
    _, state = UPDATE(tree(3), OPT.init(PARAMS))
    grads = tree(4)
    fine, after = UPDATE(grads, state)
    bad = {"blocks": jnp.nan, "embed": jnp.inf, "bias": jnp.nan, "weight": 3e38}
    for name, value in bad.items():
        grads[name] = grads[name].at[(0,) * (grads[name].ndim - 1)].set(value)
    grads["head"] = 0 * grads["head"]
    updates, new = UPDATE(grads, state)
    for name in PARAMS:
        assert bool(new.nonfinite[name]) == (name in bad), name
        if name in bad or name == "head":
            assert not updates[name].any()
        else:
            np.testing.assert_allclose(updates[name], fine[name], rtol=1e-5)
    iterated = [name for name in PARAMS if name not in ("bias", "embed")]
    for i, name in enumerate(iterated):
        source = state if name in bad or name == "head" else after
        np.testing.assert_allclose(new.vectors[i], source.vectors[i], atol=1e-5)


NARROW = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, "float32"),
    {
        "bias": (2,),
        "conv": (2, 3, 2, 2),
        "embed": (7, 2),
        "head": (6, 2),
        "kernel": (3, 2),
        "scale": (),
    },
    is_leaf=lambda x: isinstance(x, tuple),
)
WIDE = {
    "bias": (8,),
    "conv": (8, 12, 2, 2),
    "embed": (7, 8),
    "head": (6, 8),
    "kernel": (12, 8),
    "scale": (),
}
# Outputs over inputs, and one over inputs, written out.
RATES = {
    "sgd": {"bias": 8, "conv": 8 / 48, "embed": 8, "head": 6 / 8, "kernel": 8 / 12},
    "adam": {"bias": 1, "conv": 1 / 48, "embed": 1, "head": 1 / 8, "kernel": 1 / 12},
}
BASES = {
    "sgd": {"bias": 2, "conv": 2 / 12, "embed": 2, "head": 6 / 2, "kernel": 2 / 3},
    "adam": {"bias": 1, "conv": 1 / 12, "embed": 1, "head": 1 / 2, "kernel": 1 / 3},
}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_learning_rates_follow_the_width(kind):
    params = {name: np.ones(shape, "float32") for name, shape in WIDE.items()}
    for base in (None, NARROW):
        opt = scale_by_width(kind, base=base)
        updates, state = opt.update(params, opt.init(params))
        assert state == optax.EmptyState()
        for name, rate in (RATES[kind] | {"scale": 1}).items():
            start = 1 if base is None else (BASES[kind] | {"scale": 1})[name]
            np.testing.assert_allclose(updates[name], rate / start, rtol=1e-6)
            assert updates[name].shape == WIDE[name]


def test_a_narrow_model_keeps_its_learning_rates_under_a_mask():
    params = jax.tree.map(lambda x: jnp.ones(x.shape), NARROW)
    mask = {name: name != "head" for name in NARROW}
    opt = optax.masked(scale_by_width("sgd", base=NARROW), mask)
    updates, _ = opt.update(params, opt.init(params))
    for name in NARROW:
        np.testing.assert_array_equal(updates[name], params[name])


@pytest.mark.usefixtures("unchecked")
def test_bad_choices():
    with pytest.raises(ValueError, match="`norm` must be one of 'spectral', 'frobenius'"):
        scale_by_spectral_condition(norm="nuclear")
    with pytest.raises(ValueError, match="`power_steps` must be an integer, at least 0"):
        scale_by_spectral_condition(power_steps=-1)
    with pytest.raises(ValueError, match=r"unexpected: \['b'\], missing: \['a'\]"):
        OPT.update({"b": jnp.ones(3)}, OPT.init({"a": jnp.ones(3)}))
    with pytest.raises(ValueError, match="`kind` must be one of 'sgd', 'adam'; got None"):
        scale_by_width(None)
    opt = scale_by_width("sgd", base={"a": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"paths of the parameters; missing: \['b'\]"):
        opt.init({"a": jnp.ones(3), "b": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"`layers` must be a `jaxla.kron.Layers`; got 3"):
        scale_by_width("sgd", layers=3).init({"a": jnp.ones(3)})
    with pytest.raises(ValueError, match="without 0 stacked axes it has fewer than two"):
        scale_by_width("sgd", layers=Layers(rules={"a": "head"})).init({"a": jnp.ones(3)})

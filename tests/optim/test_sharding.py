"""Stacks of factors over eight simulated devices, and meshes of both kinds."""

import contextlib
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxla.optim import Blocks, shampoo, shardings

from .test_shampoo import assert_close, random_grads, run


DEVICES = 8
SHAPES = {"bias": (5,), "cols": (8, 16), "rows": (24, 8)}
SPECS = {"bias": P(), "cols": P(None, "x"), "rows": P("x", None)}
# Seven factors: one is spare, and those of a matrix lie on several devices.
OPT = shampoo(
    0.1, weight_decay=0.1, blocks=Blocks(size=8, refresh_every=2, shards=DEVICES)
)


@pytest.fixture(autouse=True)
def _eight_devices():
    if jax.device_count() < DEVICES:
        pytest.fail("needs eight devices: set `jax_num_cpu_devices` before JAX computes")


def mesh_of(kind):
    return jax.make_mesh((DEVICES,), ("x",), axis_types=(kind,))


def gradients():
    each = {name: random_grads(shape, 4) for name, shape in SHAPES.items()}
    return [
        dict(zip(each, step, strict=True)) for step in zip(*each.values(), strict=True)
    ]


def put(tree, mesh):
    where = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    return jax.device_put(tree, where)


@functools.cache
def on_one_device():
    return run(OPT, gradients()[0], gradients())


def types(tree):
    return jax.tree.map(jax.typeof, tree)


def iterated(program):
    """How many matrices the loop works on that a device computes roots by."""
    carries = re.findall(r"= \(([^()]*)\) while\(", program)
    shapes = [re.findall(r"f32\[([\d,]*),8,8\]", carry) for carry in carries]
    return {math.prod(map(int, s.split(","))) for found in shapes for s in found}


@pytest.mark.parametrize(
    ("kind", "set_mesh"),
    [(kind, by) for kind in (AxisType.Auto, AxisType.Explicit) for by in (False, True)],
    ids=str,
)
def test_spread_over_devices_equals_one_device(kind, set_mesh):
    mesh, (expected, states) = mesh_of(kind), on_one_device()
    with jax.set_mesh(mesh) if set_mesh else contextlib.nullcontext():
        grads = [put(grad, mesh) for grad in gradients()]
        params = grads[0]
        where = shardings(OPT, params, mesh, "x")
        state = jax.jit(OPT.init, out_shardings=where)(params)
        update = jax.jit(OPT.update, out_shardings=(None, where))
        update = update.lower(params, state, params).compile()
        for grad, want in zip(grads, expected, strict=True):
            old = state
            updates, state = update(grad, old, params)
            assert types(state) == types(old)
            assert_close(jax.tree.leaves(updates), jax.tree.leaves(want), 1e-4)
    if kind is AxisType.Explicit:
        assert types(updates) == types(params)
    roots = optax.tree.get(state, "roots")[8]
    single = optax.tree.get(states[-1], "roots")[8]
    assert_close(np.asarray(roots)[:7], np.asarray(single)[:7], 1e-3)

    # Each device has one factor, computes its root, and never all of them.
    assert {shard.data.shape for shard in roots.addressable_shards} == {(1, 8, 8)}
    program = update.as_text()
    assert iterated(program) == {1}
    assert not re.search(r"f32\[8,8,8\]\S* all-gather", program)


def test_replicated_stacks_are_computed_on_every_device():
    # That is what the test above finds, and forbids, where stacks are not spread.
    mesh = mesh_of(AxisType.Auto)
    everywhere = NamedSharding(mesh, P())
    grads = jax.device_put(gradients()[0], everywhere)
    state = jax.device_put(OPT.init(grads), everywhere)
    update = jax.jit(OPT.update, out_shardings=everywhere)
    program = update.lower(grads, state, grads).compile().as_text()
    assert iterated(program) == {DEVICES}


def test_moments_lie_as_their_parameters():
    mesh = mesh_of(AxisType.Auto)
    params = {
        name: jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, spec))
        for (name, shape), spec in zip(SHAPES.items(), SPECS.values(), strict=True)
    }
    where = shardings(OPT, params, mesh, "x")
    for field in ("mu", "nu"):
        specs = {name: s.spec for name, s in optax.tree.get(where, field).items()}
        assert specs == SPECS
    for field in ("factors", "roots", "residuals"):
        assert optax.tree.get(where, field)[8].spec == P("x")
    # One scalar stands in for each second moment that is not needed.
    where = shardings(shampoo(0.1, graft="none"), params, _one_device(), "x")
    assert optax.tree.get(where, "nu")["rows"].spec == P()


def test_a_parameter_that_is_not_on_the_mesh_counts_as_replicated():
    mesh = _one_device()
    where = shardings(OPT, {"w": jnp.ones((8, 16))}, mesh, "x")
    assert optax.tree.get(where, "mu")["w"] == NamedSharding(mesh, P())


def test_shards_must_divide():
    mesh, params = mesh_of(AxisType.Auto), {"w": jnp.ones((24, 8))}
    message = (
        "`axis` 'x' has 8 devices, which do not divide a stack of 4 factors evenly; "
        "give the optimizer `blocks=Blocks(shards=8)`"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        shardings(shampoo(0.1, blocks=Blocks(size=8)), params, mesh, "x")


def _one_device():
    return jax.make_mesh((1,), ("x",), (AxisType.Auto,), devices=jax.devices()[:1])

"""Checks that a transformation works on arrays that are spread over devices."""

import contextlib
import unittest
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ._toy import (
    assert_close,
    assert_same_types,
    contract,
    counted_jit,
    Factory,
    make,
    random_tree,
    steps,
)


# Matrices of one shape: what stacks them must not mind that they lie differently.
_SHAPES = {"cols": (8, 8), "replicated": (8, 8), "rows": (8, 8), "vector": (16,)}
_SPECS = {
    "cols": PartitionSpec(None, "x"),
    "replicated": PartitionSpec(None, None),
    "rows": PartitionSpec("x", None),
    "vector": PartitionSpec("x"),
}


def check_auto_mesh(factory: Factory) -> None:
    """Parameters spread over devices, with automatic axes, get the same updates.

    Rows, columns and nothing are sharded, in one tree, with the mesh set by
    `jax.set_mesh` and without.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `update` fails, the updates differ from those on one device,
    or the type of the state changes. Raises `unittest.SkipTest` on one device; for
    simulated ones, `jax.config.update("jax_num_cpu_devices", 8)` first.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_auto_mesh(optax.adam)
    """
    _check_mesh(factory, AxisType.Auto)


def check_explicit_mesh(factory: Factory) -> None:
    """The same with explicit axes, `jax.make_mesh`'s default.

    There, shardings are part of the types: those of the state stay, and those of the
    updates are those of the gradients.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `update` fails, the updates differ from those on one device,
    or a type changes. Raises `unittest.SkipTest` on one device.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_explicit_mesh(optax.adam)
    """
    _check_mesh(factory, AxisType.Explicit)


def _check_mesh(factory: Factory, axis_type: AxisType) -> None:
    opt = make(factory)
    params, *grads = (random_tree(_SHAPES, seed) for seed in range(3))
    expected, _ = steps(jax.jit(opt.update), grads, opt.init(params), params)

    num_devices = _power_of_two_below(min(len(jax.devices()), 8))
    if num_devices < 2:
        raise unittest.SkipTest("needs two devices or more")
    mesh = jax.make_mesh(
        (num_devices,),
        ("x",),
        axis_types=(axis_type,),
        devices=jax.devices()[:num_devices],
    )
    where = {key: NamedSharding(mesh, spec) for key, spec in _SPECS.items()}
    params, *grads = (jax.device_put(tree, where) for tree in (params, *grads))
    for is_set in (True, False):
        with (
            contract(
                f"updates work on a mesh with {axis_type.name.lower()} axes, "
                f"{'with' if is_set else 'without'} `jax.set_mesh`. Where shardings are "
                "part of the types, wrap `update` in `jax.sharding.auto_axes`."
            ),
            jax.set_mesh(mesh) if is_set else contextlib.nullcontext(),
        ):
            _check_steps(opt, params, grads, expected, is_set)


def _check_steps(opt: Any, params: Any, grads: Any, expected: Any, is_set: bool) -> None:
    update, traces = counted_jit(opt.update)
    state = opt.init(params)
    updates, states = steps(update, grads, state, params)
    assert_close(updates, expected, "The updates on a mesh")
    assert_same_types(updates[-1], grads[-1], "The updates on a mesh")
    assert_same_types(states[-1], state, "The state on a mesh")
    # A count that was made outside of any mesh may move into it in the first step.
    most = 1 if is_set else 2
    assert len(traces) <= most, f"`update` was traced {len(traces)} times."


def _power_of_two_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)

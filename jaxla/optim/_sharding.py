"""Optimizers on meshes: explicit axes, and where the state lies."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import optax


def with_auto_axes(update_fn: Callable) -> Callable:
    """`update_fn`, also on arrays whose mesh has explicit axes.

    There, many products and reshapes are type errors unless each names the
    sharding of its result. With automatic axes inside, the compiler chooses; the
    updates leave with the sharding of the gradients, the state with its own.
    """

    @functools.wraps(update_fn)
    def wrapped(updates, state, params=None, **extra_args):
        if not any(map(_is_explicit, jax.tree.leaves((updates, state)))):
            return update_fn(updates, state, params, **extra_args)
        specs = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (updates, state))
        inner = jax.sharding.auto_axes(
            lambda updates, state: update_fn(updates, state), out_sharding=specs
        )
        return inner(updates, state)

    return wrapped


def _is_explicit(x: Any) -> bool:
    mesh = jax.typeof(x).sharding.mesh
    return AxisType.Explicit in getattr(mesh, "axis_types", ())

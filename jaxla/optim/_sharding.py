"""Optimizers on meshes: explicit axes, and where the state lies."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec


def shardings(
    opt: optax.GradientTransformation, params: Any, mesh: Mesh, axis: str
) -> Any:
    """Where each array of an optimizer's state should lie on a mesh.

    Moments lie as their parameters do. The stacks of factors and roots are spread
    over a mesh axis, so that each device keeps, and takes the roots of, its own part.

    **Arguments:**

    - `opt`: an Optax transformation with a blocked optimizer of jaxla inside.
    - `params`: the parameters, on the mesh; or `jax.ShapeDtypeStruct`s with a
        `sharding`. A parameter that is not on the mesh counts as replicated.
    - `mesh`, `axis`: the mesh, and the name of the axis to spread over. Its size must
        divide `Blocks(shards=...)`.

    **Returns:**

    A tree like the state, of `jax.sharding.NamedSharding`, for
    `jax.jit(opt.init, out_shardings=...)` or `jax.device_put`.

    !!! example

        >>> import jax, jax.numpy as jnp, jaxla
        >>> mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> opt, params = jaxla.optim.shampoo(1e-3), {"w": jnp.ones((16, 8))}
        >>> where = jaxla.optim.shardings(opt, params, mesh, "x")
        >>> state = jax.jit(opt.init, out_shardings=where)(params)
        >>> optax.tree.get(where, "roots")[16].spec == jax.P("x")
        True
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    spread = NamedSharding(mesh, PartitionSpec(axis))

    def of_param(leaf, param):
        sharding = getattr(param, "sharding", None)
        on_mesh = isinstance(sharding, NamedSharding) and leaf.shape == param.shape
        return sharding if on_mesh else replicated

    def of_other(value):
        if not isinstance(value, dict):
            return jax.tree.map(lambda _: replicated, value)
        for leaf in jax.tree.leaves(value):  # stacks by size
            if leaf.shape[0] % mesh.shape[axis]:
                raise ValueError(
                    f"`axis` {axis!r} has {mesh.shape[axis]} devices, which do not "
                    f"divide a stack of {leaf.shape[0]} factors evenly; give the "
                    f"optimizer `blocks=Blocks(shards={mesh.shape[axis]})`."
                )
        return jax.tree.map(lambda _: spread, value)

    state = jax.eval_shape(opt.init, params)
    return optax.tree.map_params(
        opt.init, of_param, state, params, transform_non_params=of_other
    )


def with_auto_axes(update_fn: Callable) -> Callable:
    """`update_fn`, also on arrays whose mesh has explicit axes.

    There, many products and reshapes are type errors unless each names the
    sharding of its result. With automatic axes inside, the compiler chooses; the
    updates leave with the sharding of the gradients, the state with its own.
    """

    @functools.wraps(update_fn)
    def wrapped(updates, state, params=None, **extra_args):
        mesh = _explicit_mesh((updates, state))
        if mesh is None:
            return update_fn(updates, state, params, **extra_args)
        specs = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (updates, state))

        def inner(updates, state, params):
            return update_fn(updates, state, params, **extra_args)

        # Where the caller has no mesh set, the arrays' own.
        with jax.sharding.use_abstract_mesh(mesh):
            automatic: Callable = jax.sharding.auto_axes(inner, out_sharding=specs)
            return automatic(updates, state, params)

    return wrapped


def _explicit_mesh(tree: Any) -> AbstractMesh | None:
    """The mesh of the first array with explicit axes."""
    for leaf in jax.tree.leaves(tree):
        mesh = jax.typeof(leaf).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None

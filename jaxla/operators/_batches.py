"""Arrays and operators with leading batch axes: checks, dtypes and ranks."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from jaxla._errors import check_real_float


def cast(operator: Any, dtype) -> Any:
    """The operator with its arrays in a dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), operator)


def lift(operator: Any, rank: int) -> Any:
    """The operator with batch axes of size 1 in front, `rank` batch axes in all.

    All arrays of an operator have the same number of batch axes, so one goes to each.
    """
    new = (1,) * (rank - len(operator.shape) + 2)
    return jax.tree.map(lambda leaf: leaf.reshape(new + leaf.shape), operator)


def aligned(*arrays: tuple[Array, int]) -> list[Array]:
    """Arrays, each given with its number of core axes, in one dtype and batch rank."""
    dtype = jnp.result_type(*(array for array, _ in arrays))
    rank = max(array.ndim - core for array, core in arrays)
    return [
        array.astype(dtype).reshape((1,) * (rank - array.ndim + core) + array.shape)
        for array, core in arrays
    ]


def real_array(name: str, value: ArrayLike, core: str) -> Array:
    """`value` as an array with at least the axes named in `core`, or an error."""
    array = floats(name, value)
    if array.ndim < len(core.split()):
        wanted = ", ".join(["...", *core.split()]) + ("," if not core else "")
        raise ValueError(f"`{name}` must have shape ({wanted}); got {array.shape}.")
    return array


def floats(name: str, value: ArrayLike) -> Array:
    array = jnp.asarray(value)
    check_real_float(name, array)
    return array


def columns(name: str, value: ArrayLike, n: int) -> Array:
    array = floats(name, value)
    if array.ndim < 2 or array.shape[-2] != n:
        raise ValueError(f"`{name}` must have shape (..., {n}, k); got {array.shape}.")
    return array

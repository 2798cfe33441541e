"""Checks of shapes, dtypes and options, with one wording.

Every message names the argument in backticks, says what was expected and what
came. All of them are raised while tracing: nothing here looks at a value.
"""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def as_real_matrix(name: str, value: ArrayLike) -> jax.Array:
    """`value` as an array of real floating-point matrices, or an error."""
    array = jnp.asarray(value)
    check_real_float(name, array)
    if array.ndim < 2:
        raise ValueError(f"`{name}` must have shape (..., m, n); got {array.shape}.")
    return array


def as_square_matrix(name: str, value: ArrayLike) -> jax.Array:
    """`value` as an array of real square matrices, or an error."""
    array = jnp.asarray(value)
    check_real_float(name, array)
    if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        raise ValueError(f"`{name}` must have shape (..., n, n); got {array.shape}.")
    return array


def check_real_float(name: str, array) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must have a real floating-point dtype; got {array.dtype}."
        )


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}; got {value!r}.")


def check_int(name: str, value: object, *, low: int, high: int | None = None) -> None:
    """`value` must be a Python integer between `low` and `high`, both included."""
    wanted = f"at least {low}" if high is None else f"between {low} and {high}"
    if isinstance(value, jax.Array):
        argument = name.split("[")[0]
        raise TypeError(
            f"`{name}` must be a Python integer, {wanted}; got an array of "
            f"{value.dtype}. Under `jax.jit` make it static, by "
            f'`static_argnames="{argument}"` or by a function that has its value fixed.'
        )
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be a Python integer, {wanted}; got {value!r}.")
    if value < low or (high is not None and value > high):
        raise ValueError(f"`{name}` must be an integer, {wanted}; got {value}.")


def as_pair(name: str, value: object) -> tuple:
    """`value`, such as a tuple or a list, as a tuple of two, or an error."""
    try:
        pair = tuple(value)  # pyrefly: ignore[bad-argument-type]
    except TypeError:
        raise TypeError(f"`{name}` must be two integers; got {value!r}.") from None
    if len(pair) != 2:
        raise ValueError(f"`{name}` must be two integers; got {value!r}.")
    return pair


def refuse_derivative(fn: Callable, message: str) -> Callable:
    """`fn`, which raises when it is differentiated, in either mode.

    For what has no derivative that is right everywhere, such as eigenvectors: under
    `jax.lax.stop_gradient` it can be used.
    """

    @jax.custom_jvp
    def refusing(*args):
        return fn(*args)

    @refusing.defjvp
    def _(primals, tangents):
        raise NotImplementedError(message)

    return refusing

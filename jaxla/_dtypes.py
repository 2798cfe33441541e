"""Which dtype and which precision to compute in: the only file that knows.

Factorizations and iterations run in `float32` at least, because LAPACK and
cuSOLVER have no half precision; `float64` input stays in `float64`. Products
inside them ask for the highest precision, because the default of a `float32`
product is TF32 on recent GPUs and bfloat16 on TPUs, and either destroys an
inverse root at condition 1e4.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def compute_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype to compute in: `float32`, or the dtype itself if it is wider."""
    # Not `jnp.promote_types`: it raises under strict dtype promotion.
    return np.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else np.dtype(dtype)


def sum_of_squares(x: jax.Array) -> jax.Array:
    """The sum of the squares of all entries; not finite where one is not."""
    # The barrier keeps XLA from making one sum of the two, which is compiled anew for
    # each shape. The second is the same for all.
    rows = jax.lax.optimization_barrier(jnp.sum(_as_matrix(x) ** 2, 1))
    return jnp.sum(_as_matrix(rows))


def norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm of all entries; not finite where one is not."""
    return safe_sqrt(sum_of_squares(x))


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root, with a derivative of zero at zero, where it has none."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def finiteness_and_unit(
    a: jax.Array, matrix_axes: tuple[int, ...] = (-2, -1)
) -> tuple[jax.Array, jax.Array]:
    """If all entries of a matrix are finite; and a power of two near the largest."""
    largest = largest_entry(a, matrix_axes)  # one reduction for both
    finite = largest < jnp.inf
    # Of zero, 1: XLA may make one division of two, by the product of their units.
    usable = finite & (largest > 0)
    return finite, next_power_of_two(jnp.where(usable, largest, 1))


def largest_entry(a: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The largest absolute entry, infinite where one is not finite; axes stay."""
    # Not of NaN: on CPU, JAX 0.10 loses it in a maximum.
    size = jnp.where(jnp.isfinite(a), jnp.abs(a), jnp.inf)
    return size.max(axes, initial=0, keepdims=True)


def next_power_of_two(x: jax.Array) -> jax.Array:
    """A power of two from `x` to `2 x`; such that its reciprocal is normal, too.

    Scaling by it rounds nothing. For scales that a result does not depend on: no
    derivative goes through it.
    """
    info = jnp.finfo(x.dtype)
    x = 1.5 * jnp.clip(jax.lax.stop_gradient(x), 4 * info.tiny, info.max / 8)
    # With no bit of the mantissa left it rounds to 2^k: exactly, as `exp2` does not.
    return jax.lax.reduce_precision(x, info.nexp, 0)


def _as_matrix(x: jax.Array) -> jax.Array:
    """All entries as a matrix of 4096 or more, if need be with zeros.

    On CPU what sums a matrix comes from a library; what sums a short vector is
    compiled anew for each length.
    """
    cols = max(64, -(-x.size // 64))
    return jnp.pad(x.ravel(), (0, 64 * cols - x.size)).reshape(64, cols)

"""Which dtype and which precision to compute in: the only file that knows.

Factorizations and iterations run in `float32` at least, because LAPACK and
cuSOLVER have no half precision; `float64` input stays in `float64`. Products
inside them ask for the highest precision, because the default of a `float32`
product is TF32 on recent GPUs and bfloat16 on TPUs, and either destroys an
inverse root at condition 1e4.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def compute_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype to compute in: `float32`, or the dtype itself if it is wider."""
    # Not `jnp.promote_types`: it raises under strict dtype promotion.
    return np.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else np.dtype(dtype)


def norms(arrays: Sequence[jax.Array]) -> jax.Array:
    """The Euclidean norm of each array, as one vector; not finite where one is not.

    Inner products, because they come from a library where a sum of squares is
    compiled anew for each shape.
    """
    totals = [jnp.vdot(x, x, precision=jax.lax.Precision.HIGHEST) for x in arrays]
    widest = max((x.dtype for x in totals), key=lambda dtype: dtype.itemsize)
    squares = jnp.stack([x.astype(widest) for x in totals])
    # The square root of an exact zero has no derivative.
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))

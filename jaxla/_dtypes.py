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

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


_SMALL = 4096  # entries; what is padded to the longest of these costs nothing

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def compute_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype to compute in: `float32`, or the dtype itself if it is wider."""
    # Not `jnp.promote_types`: it raises under strict dtype promotion.
    return np.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else np.dtype(dtype)


def sums_of_squares(arrays: Sequence[jax.Array]) -> jax.Array:
    """The sum of squares of each array, as one vector; not finite where one is not.

    Large arrays by an inner product, which comes from a library, small ones together
    in one: a sum of squares by itself is compiled anew for each shape.
    """
    small = [i for i, x in enumerate(arrays) if x.size < _SMALL]
    large = [i for i, x in enumerate(arrays) if x.size >= _SMALL]
    widest = max((x.dtype for x in arrays), key=lambda dtype: dtype.itemsize)
    totals = [
        jnp.vdot(arrays[i], arrays[i], precision=jax.lax.Precision.HIGHEST) for i in large
    ]
    totals = [x.astype(widest)[None] for x in totals]
    if small:
        longest = max(arrays[i].size for i in small)
        rows = [
            jnp.pad(arrays[i].ravel().astype(widest), (0, longest - arrays[i].size))
            for i in small
        ]
        totals.append(jnp.sum(jnp.stack(rows) ** 2, axis=1))
    return jnp.concatenate(totals)[np.argsort([*large, *small])]


def norms(arrays: Sequence[jax.Array]) -> jax.Array:
    """The Euclidean norm of each array, as one vector; not finite where one is not."""
    squares = sums_of_squares(arrays)
    # The square root of an exact zero has no derivative.
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))

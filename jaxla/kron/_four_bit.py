r"""Matrices in four bits, two entries a byte, with a scale for each 64 of them.

The codebook is that of 4-bit Shampoo, "linear-square": $x_j = \mathrm{sign}(t_j) t_j^2$
for 16 equally spaced $t_j$ from -1 to 1, of which the one just below zero is moved to
zero.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, UInt8

from jaxla._dtypes import compute_dtype, matmul
from jaxla._errors import check_int


GROUP = 64
"""How many entries share a scale."""


def _codebook() -> np.ndarray:
    t = np.linspace(-1, 1, 16)
    t[7] = 0
    return np.sign(t) * t**2


CODEBOOK = _codebook()


class FourBit(NamedTuple):
    """An array whose last axis is stored in four bits an entry.

    - `codes`: two entries a byte: the first in the lower bits.
    - `scales`: the largest absolute value of each group of 64 entries.
    """

    codes: UInt8[Array, "*batch half"]
    scales: Float[Array, "*batch groups"]


def quantize(x: Float[ArrayLike, "*batch n"]) -> FourBit:
    r"""Stores an array in 4.5 bits an entry.

    **Arguments:**

    - `x`: finite, with an even number of entries in its last axis. Each 64 consecutive
        ones share a scale, and what is left over shares one.

    **Returns:**

    [`jaxla.kron.FourBit`][], with scales in `float32` at least. Each entry is rounded to
    the nearest of 16 values; zeros, and the entries of largest absolute value, stay
    exactly what they are.

    **Differentiation:** none; the derivative is that of the scales.

    !!! example

        >>> import jax.numpy as jnp
        >>> stored = jaxla.kron.quantize(jnp.array([-4.0, 0.0, 0.2, 1.0]))
        >>> stored.codes.shape, stored.scales
        ((2,), Array([4.], dtype=float32))
        >>> print(jaxla.kron.dequantize(stored).round(3))
        [-4.     0.     0.16   0.871]

    ??? cite "Reference"

        Wang, Zhou, Li and Huang, *4-bit Shampoo for Memory-Efficient Network
        Training*, 2024, Section 3.3.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`x` must have a real floating-point dtype; got {x.dtype}.")
    if x.ndim == 0 or x.shape[-1] % 2:
        raise ValueError(f"`x` must have an even last axis; got shape {x.shape}.")
    x = x.astype(compute_dtype(x.dtype))
    n = x.shape[-1]
    padding = [(0, 0)] * (x.ndim - 1) + [(0, -n % GROUP)]
    groups = jnp.pad(jnp.abs(x), padding).reshape(*x.shape[:-1], -1, GROUP)
    scales = groups.max(-1, initial=0)
    unit = _spread(jnp.where(scales == 0, 1, scales), n)
    # The nearest entry of the codebook: how many midpoints lie below.
    midpoints = (CODEBOOK[1:] + CODEBOOK[:-1]) / 2
    above = [(x > float(m) * unit).astype(jnp.uint8) for m in midpoints]
    codes = functools.reduce(jnp.add, above)
    return FourBit(codes[..., ::2] | codes[..., 1::2] << 4, scales)


def dequantize(stored: FourBit) -> Float[Array, "*batch n"]:
    r"""The array that [`jaxla.kron.quantize`][] stored, as near as four bits allow.

    **Arguments:**

    - `stored`: what it returned.

    **Returns:**

    An array of the dtype of the scales.

    !!! example

        >>> import jax.numpy as jnp
        >>> codes = jnp.array([[0xF0]], jnp.uint8)
        >>> jaxla.kron.dequantize(jaxla.kron.FourBit(codes, jnp.array([[3.0]])))
        Array([[-3.,  3.]], dtype=float32)
    """
    codes, scales = stored
    pairs = jnp.stack([codes & 15, codes >> 4], -1)
    both = pairs.reshape(*codes.shape[:-1], 2 * codes.shape[-1])
    # In arithmetic: looking numbers up in a table is slow on some devices.
    odd = 2 * both.astype(scales.dtype) - 15
    values = jnp.where(both == 7, 0, odd * jnp.abs(odd) / 225)
    return values * _spread(scales, both.shape[-1])


def rectify(
    vectors: Float[ArrayLike, "*batch n n"], *, steps: int = 1
) -> Float[Array, "*batch n n"]:
    r"""Makes a nearly orthogonal matrix more orthogonal, by steps of Björck.

    $V \leftarrow \frac32 V - \frac12 V V^\top V$, which squares the departure from
    orthogonality.

    **Arguments:**

    - `vectors`: with singular values between 0 and $\sqrt 3$, such as an orthogonal
        matrix that was stored in four bits.
    - `steps`: how many; a static choice.

    **Returns:** an array like `vectors`, computed in `float32` at least.

    **Cost:** `4 n^3` flops a step.

    **Differentiation:** both modes and every order.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.kron.rectify(jnp.diag(jnp.array([1.1, 0.9])), steps=2).round(3))
        [[1. 0.]
         [0. 1.]]

    ??? cite "Reference"

        Björck and Bowie, *An Iterative Algorithm for Computing the Best Estimate of an
        Orthogonal Matrix*, 1971.
    """
    check_int("steps", steps, low=0)
    v = jnp.asarray(vectors)
    v = v.astype(compute_dtype(v.dtype))
    for _ in range(steps):
        v = 1.5 * v - 0.5 * matmul(v, matmul(v.mT, v))
    return v


def _spread(scales: Array, n: int) -> Array:
    """To each of n entries the scale of its group."""
    each = jnp.broadcast_to(scales[..., None], (*scales.shape, GROUP))
    return each.reshape(*scales.shape[:-1], -1)[..., :n]

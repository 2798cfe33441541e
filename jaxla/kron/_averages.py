"""Exponential averages without bias, in one formula."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike


def debiased_weight(
    decay: ScalarLike | Float[Array, "..."], step: Int[Array, "..."]
) -> Float[Array, "..."]:
    r"""The weight of the newest term in a bias-corrected exponential average.

    With $m_t = \beta m_{t-1} + (1 - \beta) g_t$ and $\hat m_t = m_t / (1 - \beta^t)$,

    $$\hat m_t = \hat m_{t-1} + w_t (g_t - \hat m_{t-1}), \quad
      w_t = \frac{1 - \beta}{1 - \beta^t},$$

    so that the corrected average itself can be kept. $\beta = 1$ gives the limit
    $w_t = 1/t$, the plain average.

    **Arguments:**

    - `decay`: $\beta$, between 0 and 1. May be traced.
    - `step`: $t$, from 1 on.

    **Returns:**

    A `float32` array of the shape to which `decay` and `step` broadcast. Weights are
    good to about 1e-7.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.kron.debiased_weight(0.5, jnp.array([1, 2, 3])).round(3))
        [1.    0.667 0.571]
        >>> print(jaxla.kron.debiased_weight(1.0, jnp.array([1, 2, 4])))
        [1.   0.5  0.25]
    """
    step = jnp.maximum(step, 1).astype(jnp.float32)
    decay = jnp.asarray(decay, jnp.float32)
    plain = decay == 1
    power = jnp.where(plain, 0, decay) ** step
    return jnp.where(plain, 1 / step, (1 - decay) / (1 - power))


def update_mean(
    mean: Float[Array, "..."], new: Float[Array, "..."], weight: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Moves an average towards a new term, `mean + weight * (new - mean)`.

    **Arguments:**

    - `mean`, `new`: arrays of one shape.
    - `weight`: broadcast from the left: one weight for each entry of the leading
        axes. At weight zero the average stays as it is, bit for bit, whatever
        the new term may be.

    **Returns:**

    An array of the shape and dtype of `mean`.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.array([0.0, 0.5])
        >>> print(jaxla.kron.update_mean(jnp.zeros(2), jnp.ones(2), weight))
        [0.  0.5]
    """
    weight = weight.reshape(weight.shape + (1,) * (mean.ndim - weight.ndim))
    dtype = new.dtype
    old, weight = mean.astype(dtype), weight.astype(dtype)
    moved = old + weight * (new - old)
    return jnp.where(weight == 0, old, moved).astype(mean.dtype)

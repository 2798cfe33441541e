r"""The Kronecker product nearest to a second moment, from samples alone.

For $M = \mathrm{mean}_t \mathrm{vec}(G_t) \mathrm{vec}(G_t)^\top$ with row-major vec, the
rearrangement of [`jaxla.operators.nearest_kronecker`][] has the products
$R(M) \mathrm{vec}(B) = \mathrm{vec}(\mathrm{mean}_t G_t B G_t^\top)$ and
$R(M)^\top \mathrm{vec}(A) = \mathrm{vec}(\mathrm{mean}_t G_t^\top A G_t)$, so that
power iteration needs no matrix of the size of $M$.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import matmul, safe_sqrt
from jaxla._errors import check_int

from ._batches import real_array
from ._nearest import balanced, NearestKronecker, power_steps, scaled, start_of_shape


def nearest_kronecker_of_samples(
    samples: Float[ArrayLike, "*batch t m n"],
    *,
    steps: int = 10,
    start: Float[ArrayLike, "*batch n n"] | None = None,
) -> NearestKronecker:
    r"""The Kronecker product nearest to the second moment of some matrices.

    It is $A \otimes B$ nearest to
    $M = \mathrm{mean}_t \mathrm{vec}(G_t) \mathrm{vec}(G_t)^\top$ with row-major vec,
    by power iteration; $M$ is not formed. The first step from the identity makes
    $A$ a multiple of $\sum_t G_t G_t^\top$, which is what Shampoo gathers.

    **Arguments:**

    - `samples`: the $G_t$, such as gradients, along the third axis from the end.
    - `steps`: at least 1; a static choice.
    - `start`: a positive semi-definite $B$ to start from, such as the last one; the
        identity by default, which is never orthogonal to the solution.

    **Returns:**

    [`jaxla.operators.NearestKronecker`][] with positive semi-definite factors: `left`
    is $m \times m$ and `right` $n \times n$. The `error` is the square root of a
    difference, and can tell nothing below about the square root of the dtype's `eps`.
    Samples with a non-finite entry give NaN, and touch no others of the batch.

    **Cost:** $4 t m n (m + n)$ flops a step, and $2 t^2 m n$ for the error, which
    `jax.jit` leaves out where it is not used.

    **Differentiation:** both modes and every order, through the steps; the error has
    none.

    !!! example

        >>> import jax.numpy as jnp
        >>> g = jnp.array([[[0.0, 2.0], [0.0, 0.0]]])
        >>> print(jaxla.operators.nearest_kronecker_of_samples(g).right)
        [[0. 0.]
         [0. 2.]]

    ??? cite "Reference"

        Morwani et al., *A New Perspective on Shampoo's Preconditioner*, ICLR 2025.
    """
    check_int("steps", steps, low=1)
    given = real_array("samples", samples, "t m n")
    g, unit = scaled(given, 3)
    batch, (t, m, n) = g.shape[:-3], g.shape[-3:]
    if start is None:
        b = jnp.broadcast_to(jnp.eye(n, dtype=g.dtype), (*batch, n, n))
    else:
        b = start_of_shape(start, (*batch, n, n), g.dtype)
    side_by_side = jnp.moveaxis(g, -3, -2).reshape(*batch, m, t * n)
    on_top = g.reshape(*batch, t * m, n)

    def forward(b: Array) -> Array:
        """`mean_t G_t B G_t^T`, as one product over both `t` and `n`."""
        gb = matmul(g, b.reshape(*batch, 1, n, n))
        gb = jnp.moveaxis(gb, -3, -2).reshape(*batch, m, t * n)
        return (matmul(gb, side_by_side.mT) / max(t, 1)).reshape(*batch, m * m)

    def backward(a: Array) -> Array:
        ag = matmul(a.reshape(*batch, 1, m, m), g).reshape(*batch, t * m, n)
        return (matmul(on_top.mT, ag) / max(t, 1)).reshape(*batch, n * n)

    a, b = power_steps(forward, backward, b.reshape(*batch, n * n), steps)
    error = _error(jax.lax.stop_gradient(g), jax.lax.stop_gradient(b))
    a, b = a.reshape(*batch, m, m), b.reshape(*batch, n, n)
    left, right = balanced((a + a.mT) / 2, (b + b.mT) / 2, unit)
    return NearestKronecker(*(part.astype(given.dtype) for part in (left, right, error)))


def _error(g: Array, b: Array) -> Array:
    """`|M - a b^T| / |M|`; with `b = R^T a` it is `sqrt(1 - |b|^2 / |M|^2)`."""
    flat = g.reshape(*g.shape[:-2], g.shape[-2] * g.shape[-1])
    gram = matmul(flat, flat.mT) / max(flat.shape[-2], 1)
    whole = (gram**2).sum((-2, -1))
    left_out = jnp.maximum(whole - (b**2).sum(-1), 0)
    return safe_sqrt(jnp.where(whole == 0, 0, left_out / jnp.where(whole == 0, 1, whole)))

r"""Kronecker factors that fit best in the sense of Kullback and Leibler.

If the gradients $G$ ($m \times n$) were normal with covariance $L \otimes R$, the
likelihood would be largest where

$$L = \tfrac1n \mathbb{E}[G R^{-1} G^\top], \qquad
R = \tfrac1m \mathbb{E}[G^\top L^{-1} G]:$$

each factor is an average over gradients that the other has whitened. KL-Shampoo (Lin et
al., 2025) knows both as $Q \mathrm{diag}(\lambda) Q^\top$.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from jaxla._dtypes import matmul

from ._factors import Factors
from ._plan import LeafPlan, Plan
from ._sides import combine, LEFT, RIGHT, sum_per_factor, times_left, times_right
from ._stacks import Stacks


Spectra = dict[int, Float[Array, "factors size"]]
"""The eigenvalues of factors, stacked by size."""


def whitened_factors(
    stacks: Stacks, bases: Factors, spectra: Spectra, plan: Plan
) -> tuple[Factors, Spectra]:
    r"""The terms of $L$ and $R$ that come from one gradient, each whitened by the other.

    **Arguments:**

    - `stacks`: the gradients, as [`jaxla.kron.to_stacks`][] returns them.
    - `bases`, `spectra`: eigenvectors and eigenvalues of $L$ and $R$ so far, stacked by
        size. Eigenvalues must be positive, or zero for what has had no gradient.
    - `plan`: the plan by which they were stacked.

    **Returns:**

    - The diagonal blocks of $G R^{-1} G^\top / n$ and $G^\top L^{-1} G / m$.
    - The diagonals of these in the bases, $Q_L^\top (\cdot) Q_L$ and
        $Q_R^\top (\cdot) Q_R$.

    Where one side alone has factors, the other counts as the identity.

    **Cost:** `10 m n size` flops for an `m x n` parameter.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((8, 8))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks())
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> bases, spectra = {8: jnp.stack([jnp.eye(8)] * 2)}, {8: jnp.full((2, 8), 0.5)}
        >>> factors, diagonals = jaxla.kron.whitened_factors(stacks, bases, spectra, plan)
        >>> print(factors[8][0, 0, :2], diagonals[8][0, :2])
        [2. 2.] [2. 2.]

    ??? cite "Reference"

        Lin, Lowe, Dangel, Eschenhagen, Xu and Grosse, *Understanding and Improving
        Shampoo and SOAP via Kullback-Leibler Minimization*, 2025.
    """
    # What has no eigenvalues yet has had no gradient.
    half = {s: _divide(1, jnp.sqrt(spectrum)) for s, spectrum in spectra.items()}
    transposed = {size: basis.mT for size, basis in bases.items()}
    right = times_right(stacks, bases, plan)  # G Q_R
    left = times_left(transposed, stacks, plan)  # Q_Lᵀ G
    both = times_left(transposed, right, plan)  # Q_Lᵀ G Q_R

    def by_left(x: Stacks) -> Stacks:
        """Divided by the root of the left eigenvalues."""
        return combine(LEFT, lambda tile, h: tile * h[:, :, None], x, half, plan)

    def by_right(x: Stacks) -> Stacks:
        return combine(RIGHT, lambda tile, h: tile * h[:, None, :], x, half, plan)

    grams = (lambda x: matmul(x, x.mT)), (lambda x: matmul(x.mT, x))
    factors = sum_per_factor(grams, (by_right(right), by_left(left)), plan)
    squares = (lambda x: jnp.sum(x * x, 2)), (lambda x: jnp.sum(x * x, 1))
    diagonals = sum_per_factor(squares, (by_right(both), by_left(both)), plan)
    # A left factor is a mean over the columns of the matrix, a right one over its rows.
    lengths = _per_factor(plan, lambda leaf: leaf.matrix_shape[:0:-1])
    return (
        {size: _divided(x, lengths[size]) for size, x in factors.items()},
        {size: _divided(x, lengths[size]) for size, x in diagonals.items()},
    )


def _divide(x: ArrayLike, y: Array) -> Array:
    return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))


def _divided(x: Array, numbers: np.ndarray) -> Array:
    return x / jnp.asarray(numbers, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def whiten(stacks: Stacks, spectra: Spectra, eps: ScalarLike, plan: Plan) -> Stacks:
    r"""Divides rotated matrices by $\sqrt{\lambda_i \mu_j} + \epsilon$.

    **Arguments:**

    - `stacks`: what to divide, as [`jaxla.kron.rotate`][] returns it.
    - `spectra`: the eigenvalues $\lambda$ of $L$ and $\mu$ of $R$, stacked by size.
    - `eps`: $\epsilon$.
    - `plan`: the plan by which they were stacked.

    **Returns:**

    The divided stacks.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((8, 8))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks())
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> out = jaxla.kron.whiten(stacks, {8: jnp.full((2, 8), 4.0)}, 0.0, plan)
        >>> print(out[8, 8][0, 0, :2])
        [0.25 0.25]
    """
    roots = {size: jnp.sqrt(spectrum) for size, spectrum in spectra.items()}
    scale = {size: jnp.ones_like(tiles) for size, tiles in stacks.items()}
    scale = combine(LEFT, lambda x, root: x * root[:, :, None], scale, roots, plan)
    scale = combine(RIGHT, lambda x, root: x * root[:, None, :], scale, roots, plan)
    return {size: _divide(tiles, scale[size] + eps) for size, tiles in stacks.items()}


def bound_spectra(spectra: Spectra, plan: Plan, *, relative: bool = False) -> Spectra:
    r"""Eigenvalues that are not too small to divide by.

    **Arguments:**

    - `spectra`: the eigenvalues, stacked by size.
    - `plan`: the plan.
    - `relative`: to the largest of the block, or as a number? (Static.)

    **Returns:**

    The eigenvalues, those of a block of order $k$ at least
    $1 / \max(10, \min(k, 4000))^2$.

    !!! example

        >>> import jax.numpy as jnp
        >>> plan = jaxla.kron.make_plan(["w"], [jnp.ones((20, 20))], jaxla.kron.Blocks())
        >>> print(jaxla.kron.bound_spectra({24: jnp.zeros((2, 24))}, plan)[24][0, :2])
        [0.0025 0.0025]
    """
    out = {}
    for size, order in _per_factor(plan, lambda leaf: leaf.part).items():
        values = spectra[size]
        least = jnp.asarray(1 / order.clip(10, 4000)[:, None] ** 2, values.dtype)
        if relative:
            least = least * values.max(-1, keepdims=True)
        out[size] = jnp.maximum(values, least)
    return out


def _per_factor(
    plan: Plan, pair: Callable[[LeafPlan], tuple[int, ...]]
) -> dict[int, np.ndarray]:
    """For each factor its side's one of two numbers of the leaf; 1 for a spare one."""
    out = {size: np.ones(count, np.float32) for size, count in plan.num_factors.items()}
    for leaf in plan.leaves:
        places = zip(leaf.tile, (leaf.left, leaf.right), pair(leaf), strict=True)
        for size, place, number in places:
            if place.stop > place.start:
                out[size][place] = number
    return out

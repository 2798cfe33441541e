r"""Kronecker factors of blocks: statistics, staggered roots, preconditioning.

For a matrix with gradient $G$, Shampoo keeps averages $L$ of $G G^\top$ and $R$ of
$G^\top G$ and steps along $L^{-e} G R^{-e}$. Here $L$ and $R$ are block diagonal:
only the diagonal blocks of $G G^\top$ and $G^\top G$ are kept. The blocks of all
matrices, left and right, are stacked by size; each `LeafPlan` says where in these
stacks its own are.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, ScalarLike, Shaped

from jaxla._dtypes import matmul
from jaxla.matfun import (
    eigenvalue_bound,
    inverse_pth_root,
    MatrixRoot,
    num_products,
    psd_power,
)

from ._blocks import Blocks
from ._plan import Plan, TileSize
from ._sides import between, sum_per_factor
from ._stacks import Stacks
from ._staggering import after, has_statistics, refresh_window


Factors = dict[int, Float[Array, "factors size size"]]
PerFactor = dict[int, Float[Array, " factors"]]


def gram_factors(stacks: Stacks, plan: Plan) -> Factors:
    r"""Computes the diagonal blocks of $G G^\top$ and $G^\top G$, stacked by size.

    **Arguments:**

    - `stacks`: the gradients, as [`jaxla.kron.to_stacks`][] returns them.
    - `plan`: the plan by which they were stacked.

    **Returns:**

    A dictionary from size to a `(factors, size, size)` array. Where a plan for
    several devices asks for more factors than there are, the rest is zero.

    **Cost:** `4 m n size` flops for an `m x n` parameter.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((8, 4))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks())
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> grams = jaxla.kron.gram_factors(stacks, plan)
        >>> print(grams[8][:, 0, 0])
        [4. 8.]
    """
    products = (lambda x: matmul(x, x.mT)), (lambda x: matmul(x.mT, x))
    return sum_per_factor(products, (stacks, stacks), plan)


def refresh_roots(
    factors: Factors,
    roots: Factors,
    residuals: PerFactor,
    count: ScalarLike,
    *,
    blocks: Blocks,
    damping: ScalarLike,
    tolerance: ScalarLike,
) -> tuple[Factors, PerFactor, Array]:
    r"""Computes the roots $L^{-e}$ whose turn it is, and keeps the others.

    Step `count` serves every `refresh_every`-th part of each stack, so that no
    step is slow and each root is renewed once in `refresh_every` steps; the first
    `eager_steps` serve all. A new root whose residual is above `tolerance`, or not
    finite, is rejected and the old one stays. A factor that is zero has no statistics
    yet, and no root; that does not count as a rejection.

    **Arguments:**

    - `factors`, `roots`, `residuals`: the statistics, the roots and what is
        known of their quality, stacked by size.
    - `count`: the number of the step, from 0.
    - `blocks`: the choices.
    - `damping`: relative, as of [`jaxla.matfun.inverse_pth_root`][].
    - `tolerance`: the largest residual to accept.

    **Returns:**

    The roots, their residuals, and the number of roots rejected in this step.

    **Cost:** at most `ceil(factors / refresh_every)` roots of each size, or all in an
    eager step.

    !!! example

        >>> import jax.numpy as jnp
        >>> roots, residuals, rejected = jaxla.kron.refresh_roots(
        ...     {8: 16 * jnp.eye(8)[None]}, {8: jnp.zeros((1, 8, 8))},
        ...     {8: jnp.full((1,), jnp.inf)}, 0, blocks=jaxla.kron.Blocks(),
        ...     damping=1e-6, tolerance=1e-2)
        >>> roots[8][0, 0, 0].round(3), rejected
        (Array(0.5, dtype=float32), Array(0, dtype=int32))
    """

    def renew(window, *old):
        root = _root(window, blocks, damping)
        return root.residual <= tolerance, root

    new_roots, new_residuals, rejected = {}, {}, jnp.zeros([], jnp.int32)
    for size, stack in factors.items():
        if blocks.coupled_order is None:
            stack = after(rejected, stack)
        (new_roots[size], new_residuals[size]), refused = refresh_window(
            renew, stack, (roots[size], residuals[size]), count, blocks
        )
        rejected += refused
    return new_roots, new_residuals, rejected


def precondition(
    stacks: Stacks, roots: Factors, plan: Plan, *, blocks: Blocks = Blocks()
) -> Stacks:
    r"""Applies $L^{-e} G R^{-e}$ to every matrix.

    Or, where one side alone has factors, $L^{-2e} G$: $L^{-e} G$ with `normalize_trace`.

    **Arguments:**

    - `stacks`: what to precondition, as [`jaxla.kron.to_stacks`][] returns it.
    - `roots`: as of [`jaxla.kron.refresh_roots`][].
    - `plan`: the plan by which they were stacked.
    - `blocks`: the choices.

    **Returns:**

    The preconditioned stacks; see [`jaxla.kron.has_roots`][] for what they are worth.

    **Cost:** `4 m n size` flops for an `m x n` parameter.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight, blocks = jnp.ones((8, 8)), jaxla.kron.Blocks()
        >>> plan = jaxla.kron.make_plan(["w"], [weight], blocks)
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> roots = {8: 0.5 * jnp.stack([jnp.eye(8)] * 2)}
        >>> out = jaxla.kron.precondition(stacks, roots, plan)
        >>> [float(stack[0, 0, 0]) for stack in out.values()]
        [0.25]
    """
    out = between(roots, stacks, roots, plan)
    return out if blocks.normalize_trace else between(roots, out, roots, plan.lone())


def has_roots(
    factors: Factors, residuals: PerFactor, plan: Plan
) -> Bool[Array, " leaves"]:
    """Tells which parameters have a root for each of their factors.

    **Arguments:**

    - `factors`, `residuals`: as of [`jaxla.kron.refresh_roots`][]. A residual is
        infinite where no root has been accepted yet.
    - `plan`: the plan.

    **Returns:**

    One boolean a parameter of the plan. A factor that is zero is not waited for:
    nothing is to be preconditioned by it.

    !!! example

        >>> import jax.numpy as jnp
        >>> plan = jaxla.kron.make_plan(["w"], [jnp.ones((8, 8))], jaxla.kron.Blocks())
        >>> factors = {8: jnp.stack([jnp.eye(8)] * 2)}
        >>> print(jaxla.kron.has_roots(factors, {8: jnp.array([0.0, jnp.inf])}, plan))
        [False]
    """
    missing = {
        size: jnp.isinf(residuals[size]) & has_statistics(stack)
        for size, stack in factors.items()
    }
    waiting, owners = [], []
    for size in plan.stack_members():
        of_tiles = plan.owners_of_tiles(size)
        for of_size, places in zip(size, plan.factors_of_tiles(size), strict=True):
            has = places >= 0
            if has.any():
                waiting.append(missing[of_size][places[has]])
                owners.append(of_tiles[has])
    counts = jax.ops.segment_sum(
        jnp.concatenate(waiting).astype(jnp.float32),
        np.concatenate(owners),
        len(plan.leaves),
    )
    return counts == 0


def per_factor(per_leaf: Shaped[Array, " leaves"], plan: Plan) -> dict[int, Array]:
    """Gives each factor the number of its parameter.

    **Arguments:**

    - `per_leaf`: one number a parameter.
    - `plan`: the plan.

    **Returns:**

    A dictionary from size to a vector with one entry a factor.

    !!! example

        >>> import jax.numpy as jnp
        >>> plan = jaxla.kron.make_plan(["w"], [jnp.ones((8, 8))], jaxla.kron.Blocks())
        >>> print(jaxla.kron.per_factor(jnp.array([7.0]), plan))
        {8: Array([7., 7.], dtype=float32)}
    """

    # A spare factor has the index -1, which finds the zero.
    padded = jnp.concatenate([per_leaf, jnp.zeros(1, per_leaf.dtype)])
    return {size: padded[plan.owners_of_factors(size)] for size in plan.num_factors}


def per_tile(per_leaf: Shaped[Array, " leaves"], plan: Plan) -> dict[TileSize, Array]:
    """Gives each tile the number of its parameter.

    **Arguments:**

    - `per_leaf`: one number a parameter.
    - `plan`: the plan.

    **Returns:**

    A dictionary from the size of a tile to a vector with one entry a tile.

    !!! example

        >>> import jax.numpy as jnp
        >>> plan = jaxla.kron.make_plan(["w"], [jnp.ones((8, 16))], jaxla.kron.Blocks(8))
        >>> print(jaxla.kron.per_tile(jnp.array([7.0]), plan))
        {(8, 8): Array([7., 7.], dtype=float32)}
    """
    return {size: per_leaf[plan.owners_of_tiles(size)] for size in plan.stack_members()}


def root_flops(size: int, blocks: Blocks) -> int:
    """The floating-point operations of one root in `float32`.

    **Arguments:**

    - `size`: of the factor.
    - `blocks`: the choices, of which the exponent and the kind of root count.

    **Returns:**

    `2 size^3` for each product, or `11 size^3` for an eigendecomposition.

    !!! example

        >>> jaxla.kron.root_flops(128, jaxla.kron.Blocks()) // 128**3
        74
    """
    if blocks.coupled_order is None:
        return 11 * size**3
    return 2 * size**3 * num_products(blocks.coupled_order)


def _root(window: Array, blocks: Blocks, damping: ScalarLike) -> MatrixRoot:
    if blocks.normalize_trace:
        trace = _trace(window)
        window /= jnp.sqrt(jnp.where(trace > 0, trace, 1))[..., None, None]
    if blocks.coupled_order is not None:
        return inverse_pth_root(window, blocks.coupled_order, damping=damping)
    root = psd_power(window, -blocks.exponent, damping=damping)
    good = jnp.isfinite(root).all((-2, -1)) & (eigenvalue_bound(window) > 0)
    return MatrixRoot(
        jnp.where(good[..., None, None], root, 0), jnp.where(good, 0, jnp.inf)
    )


def _trace(stack: Array) -> Array:
    eye = jnp.eye(stack.shape[-1], dtype=stack.dtype)
    return jnp.einsum("...ij,ij->...", stack, eye, precision="highest")

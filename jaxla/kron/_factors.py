r"""Kronecker factors of blocks: statistics, staggered roots, preconditioning.

For a matrix with gradient $G$, Shampoo keeps averages $L$ of $G G^\top$ and $R$ of
$G^\top G$ and steps along $L^{-e} G R^{-e}$. Here $L$ and $R$ are block diagonal:
only the diagonal blocks of $G G^\top$ and $G^\top G$ are kept. The blocks of all
matrices, left and right, are stacked by size; each `LeafPlan` says where in these
stacks its own are.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from jaxla._dtypes import matmul
from jaxla.matfun import (
    eigenvalue_bound,
    inverse_pth_root,
    MatrixRoot,
    num_products,
    psd_power,
)

from ._blocks import Blocks
from ._plan import Plan
from ._stacks import Stacks


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

    grams: dict[int, list[Array]] = {size: [] for size in plan.num_factors}
    for (row_size, col_size), tiles in stacks.items():
        left, right = plan.factors_of_tiles((row_size, col_size))
        rows, cols = plan.num_factors[row_size], plan.num_factors[col_size]
        # A factor sums over the tiles in its row, or column, of blocks.
        grams[row_size].append(jax.ops.segment_sum(matmul(tiles, tiles.mT), left, rows))
        grams[col_size].append(jax.ops.segment_sum(matmul(tiles.mT, tiles), right, cols))
    return {size: functools.reduce(jnp.add, sums) for size, sums in grams.items()}


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
    new_roots, new_residuals, rejected = {}, {}, jnp.zeros([], jnp.int32)
    for size, stack in factors.items():
        if blocks.coupled_order is None:
            # One factorization after the other: on JAX 0.10 and few cores, two batched
            # ones side by side can wait forever. Not `optimization_barrier`, which
            # does not order them on CPU; no count is negative, but XLA cannot know.
            stack = jnp.where(rejected < 0, 0, stack)
        new_roots[size], new_residuals[size], refused = _refresh_window(
            lambda window: _root(window, blocks, damping),
            (stack, roots[size], residuals[size]),
            count,
            blocks,
            tolerance,
        )
        rejected += refused
    return new_roots, new_residuals, rejected


def precondition(stacks: Stacks, roots: Factors, plan: Plan) -> Stacks:
    r"""Applies $L^{-e} G R^{-e}$ to every matrix.

    **Arguments:**

    - `stacks`: what to precondition, as [`jaxla.kron.to_stacks`][] returns it.
    - `roots`: as of [`jaxla.kron.refresh_roots`][].
    - `plan`: the plan by which they were stacked.

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
    out = {}
    for (row_size, col_size), tiles in stacks.items():
        left, right = plan.factors_of_tiles((row_size, col_size))
        tiles = matmul(roots[row_size][left], tiles)
        out[row_size, col_size] = matmul(tiles, roots[col_size][right])
    return out


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
        size: jnp.isinf(residuals[size]) & _has_statistics(stack)
        for size, stack in factors.items()
    }
    counts = []
    for row_size, col_size in plan.stack_members():
        left, right = plan.factors_of_tiles((row_size, col_size))
        counts.append(
            jax.ops.segment_sum(
                (missing[row_size][left] | missing[col_size][right]).astype(jnp.float32),
                plan.owners_of_tiles((row_size, col_size)),
                len(plan.leaves),
            )
        )
    return functools.reduce(jnp.add, counts) == 0


def per_factor(per_leaf: Float[Array, " leaves"], plan: Plan) -> PerFactor:
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


def roots_per_step(count: int, blocks: Blocks) -> int:
    """The largest number of roots of one size that a step computes.

    **Arguments:**

    - `count`: the number of factors of that size.
    - `blocks`: the choices.

    **Returns:**

    `ceil(count / refresh_every)`, or a little more with several shards.

    !!! example

        >>> jaxla.kron.roots_per_step(34, jaxla.kron.Blocks(refresh_every=10))
        4
    """
    return blocks.shards * _window_length(count // blocks.shards, blocks)


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


def _refresh_window(
    root: Callable[[Array], MatrixRoot],
    stacks: tuple[Array, Array, Array],
    count: ScalarLike,
    blocks: Blocks,
    tolerance: ScalarLike,
) -> tuple[Array, Array, Array]:
    # One window in the part of each device, so that none has to fetch a factor.
    stacks = jax.tree.map(lambda x: x.reshape(blocks.shards, -1, *x.shape[1:]), stacks)
    number = stacks[0].shape[1]
    step = jnp.asarray(count, jnp.uint32)  # unsigned: JAX looks out for negative indices

    def renew(begin, length, stacks):
        window = [_window(x, begin, length) for x in stacks]
        factors, old_root, old_residual = window
        new_root, new_residual = root(factors)
        accept = new_residual <= tolerance
        kept = (
            jnp.where(accept[..., None, None], new_root, old_root),
            jnp.where(accept, new_residual, old_residual),
        )
        updated = [
            _put_window(x, y, begin) for x, y in zip(stacks[1:], kept, strict=True)
        ]
        refused = ~accept & _has_statistics(factors)
        return *updated, jnp.sum(refused, dtype=jnp.int32)

    def keep(stacks):
        return *stacks[1:], jnp.zeros([], jnp.int32)

    length, begin, due = _timetable(number, step, blocks)
    turn = functools.partial(renew, begin, length)
    if due is not True:  # fewer windows than steps: some steps have nothing to do
        turn = functools.partial(jax.lax.cond, due, turn, keep)
    if blocks.eager_steps and blocks.refresh_every > 1:
        all_of_them = functools.partial(renew, jnp.zeros_like(begin), number)
        eager = step < blocks.eager_steps
        turn = functools.partial(jax.lax.cond, eager, all_of_them, turn)
    roots, residuals, rejected = turn(stacks)
    return roots.reshape(-1, *roots.shape[2:]), residuals.reshape(-1), rejected


def _window_length(count: int, blocks: Blocks) -> int:
    return -(-count // blocks.refresh_every)


def _timetable(
    count: int, step: Array, blocks: Blocks
) -> tuple[int, Array, Array | bool]:
    """The length of a window, where this step's begins, and if it has one at all."""
    length = _window_length(count, blocks)
    windows, period = -(-count // length), blocks.refresh_every
    phase = step % period
    # Evenly spread over the period. The last window begins where it still fits,
    # and overlaps the one before.
    begin = jnp.minimum(phase * windows // period * length, count - length)
    return length, begin, windows == period or phase * windows % period < windows


def _window(x: Array, begin: Array, length: int) -> Array:
    zero = jnp.zeros([], begin.dtype)
    start = (zero, begin, *[zero] * (x.ndim - 2))
    return jax.lax.dynamic_slice(x, start, (x.shape[0], length, *x.shape[2:]))


def _put_window(x: Array, window: Array, begin: Array) -> Array:
    zero = jnp.zeros([], begin.dtype)
    return jax.lax.dynamic_update_slice(x, window, (zero, begin, *[zero] * (x.ndim - 2)))


def _has_statistics(stack: Array) -> Array:
    """Which factors are not zero; one that is not finite is not."""
    return jnp.abs(stack).max((-2, -1)) != 0


def _trace(stack: Array) -> Array:
    eye = jnp.eye(stack.shape[-1], dtype=stack.dtype)
    return jnp.einsum("...ij,ij->...", stack, eye, precision="highest")

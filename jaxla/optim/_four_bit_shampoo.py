r"""4-bit Shampoo (Wang, Zhou, Li and Huang, 2024), in blocks, before another optimizer.

A matrix with gradient $G$ hands $\hat L G \hat R$ on, in the size of $G$, with
$\hat L \approx (\mathbb{E}\, G G^\top)^{-1/4}$ and $\hat R \approx
(\mathbb{E}\, G^\top G)^{-1/4}$. Eigenvectors and roots are kept in four bits. The
mathematics is in `jaxla.kron`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ScalarLike

from jaxla import kron
from jaxla._dtypes import norm

from ._blocked import (
    check_blocks,
    check_no_roots,
    counters,
    give_back,
    Gradients,
    plan_for,
    take_in,
    then_decay_and_rate,
)
from ._leaves import check_gradients
from ._sharding import with_auto_axes


class ScaleByFourBitShampooState(NamedTuple):
    """State of [`jaxla.optim.scale_by_four_bit_shampoo`][].

    Read it by `optax.tree.get`.
    """

    count: Any  # int32 scalar: the number of updates
    steps: Any  # int32 scalars, a tree like the parameters: gradients taken in
    nonfinite: Any  # bool scalars, likewise: was the last gradient refused?
    rejected: Any  # int32 scalar: bases and roots refused in the last update
    bases: Any  # size -> `jaxla.kron.StoredBasis`: averages of G Gᵀ and Gᵀ G
    roots: Any  # size -> `jaxla.kron.StoredRoot`: their inverse fourth roots


def scale_by_four_bit_shampoo(
    beta: ScalarLike = 0.95,
    damping: ScalarLike = 1e-6,
    *,
    blocks: kron.Blocks = kron.Blocks(),
    storage: kron.Storage = kron.Storage(),
) -> optax.GradientTransformationExtraArgs:
    r"""Turns each matrix's gradient to $\hat L G \hat R$, and keeps its norm.

    Chain it before any first-order optimizer, which then sees preconditioned gradients.
    In one update, in this order: the factors whose turn it is take in the gradient; the
    roots whose turn it is are computed anew; the gradient is preconditioned and rescaled
    to its own norm, over the whole parameter. What is not a matrix passes as it is. So
    does a matrix until each of its factors that sees a gradient has a root.

    In the paper all factors take in one gradient in $T_1 = 100$ steps and have a new root
    in $T_2 = 500$. Here $T_1$ is `blocks.refresh_every` and $T_2$ is
    `storage.turns_per_root` times that, and the work is spread evenly: in each step some
    factors have their turn. With `beta` the averages reach back over some
    `refresh_every / (1 - beta)` steps.

    They are corrected for their start, where the paper's begin with $10^{-6} I$: a
    gradient that is scaled by a number is only scaled by it, from some 1e-12 to 1e18;
    far below, the update is zero. Columns are sorted by their
    eigenvalues for the orthogonal iteration, as in [`jaxla.optim.scale_by_soap`][].

    **Arguments:**

    - `beta`: decay of the averages, over turns.
    - `damping`: added to the eigenvalues before the root, relative to the largest.
    - `blocks`: block size, refresh period and rules, see [`jaxla.kron.Blocks`][]. What
        concerns roots must be left as it is. (Static.)
    - `storage`: the bits, and how often roots are renewed, see
        [`jaxla.kron.Storage`][]. (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs` with a
    [`jaxla.optim.ScaleByFourBitShampooState`][]. What is not rounded is held in `float32`
    at least, whatever the dtype of the parameters. A parameter whose gradient is not
    finite (or so large that its square is not) gets a zero here, which is what the
    optimizer behind this one sees; its statistics stay as they were, and its entry of
    `nonfinite` says so.

    **Cost:** per update and for an `m x n` parameter in blocks of size `s`,
    `8 m n s` flops, and [`jaxla.kron.stored_flops`][] for `1 / refresh_every` of the
    blocks. The state holds about `(1.125 s + 8) (m + n)` bytes. While an update runs, the
    roots are there in `float32`, too: another `4 s (m + n)`.

    **Differentiation:** bases and roots count as constants.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = optax.chain(jaxla.optim.scale_by_four_bit_shampoo(), optax.adamw(0.1))
        >>> params = jnp.ones((4, 3))
        >>> updates, state = opt.update(params, opt.init(params), params)
        >>> print((params + updates).round(3)[0])
        [0.9 0.9 0.9]

    ??? cite "Reference"

        Wang, Zhou, Li and Huang, *4-bit Shampoo for Memory-Efficient Network Training*,
        2024, Algorithm 3.
    """
    check_blocks(blocks)
    check_no_roots("four_bit_shampoo", blocks, "has one kind of root")
    if not isinstance(storage, kron.Storage):
        raise TypeError(f"`storage` must be a `jaxla.kron.Storage`; got {storage!r}.")

    def init_fn(params):
        flops = functools.partial(kron.stored_flops, storage=storage)
        plan, dtype = plan_for(params, blocks, "bases", flops)
        stored = {
            size: kron.first_stored(size, number, storage, dtype)
            for size, number in plan.num_factors.items()
        }
        return ScaleByFourBitShampooState(
            **counters(params),
            rejected=jnp.zeros([], jnp.int32),
            # A leaf also where there is no matrix: `optax.tree.map_params` needs one.
            bases={size: s[0] for size, s in stored.items()} or jnp.zeros([]),
            roots={size: s[1] for size, s in stored.items()} or jnp.zeros([]),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        check_gradients(updates, state.steps, shapes=False)
        if not jax.tree.leaves(updates):
            return updates, state._replace(count=optax.safe_increment(state.count))
        grads = take_in(updates, state, blocks)
        out, state = _step(grads, state, beta, damping, blocks, storage)
        return give_back(updates, state, out, grads.finite, grads.steps)

    return optax.GradientTransformationExtraArgs(init_fn, with_auto_axes(update_fn))


def four_bit_shampoo(
    learning_rate: optax.ScalarOrSchedule,
    beta: ScalarLike = 0.95,
    damping: ScalarLike = 1e-6,
    weight_decay: ScalarLike = 0.0,
    weight_decay_mask: Any = None,
    *,
    inner: optax.GradientTransformation | None = None,
    blocks: kron.Blocks = kron.Blocks(),
    storage: kron.Storage = kron.Storage(),
) -> optax.GradientTransformationExtraArgs:
    """4-bit Shampoo before AdamW, or before another first-order optimizer.

    [`jaxla.optim.scale_by_four_bit_shampoo`][], then `inner`, then decoupled weight
    decay, then the learning rate. Those of `optax.adamw` are a good first guess.

    **Arguments:**

    - `learning_rate`: a number or a schedule.
    - `beta`, `damping`, `blocks`, `storage`: as of
        [`jaxla.optim.scale_by_four_bit_shampoo`][].
    - `weight_decay`, `weight_decay_mask`: as of [`jaxla.optim.shampoo`][].
    - `inner`: from preconditioned gradients to directions, without a learning rate;
        `optax.scale_by_adam()` by default. `optax.trace(0.9)` makes it SGD with momentum.
        (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs`. Where a gradient is not finite, `inner`
    sees a zero.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = jaxla.optim.four_bit_shampoo(0.1)
        >>> params = {"w": jnp.eye(4, 3), "b": jnp.ones(3)}
        >>> loss = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2)
        >>> state = opt.init(params)
        >>> for _ in range(20):
        ...     updates, state = opt.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 1)
        True

    ??? cite "Reference"

        As of [`jaxla.optim.scale_by_four_bit_shampoo`][].
    """
    scale = scale_by_four_bit_shampoo(beta, damping, blocks=blocks, storage=storage)
    inner = optax.scale_by_adam() if inner is None else inner
    scale = optax.chain(scale, inner)
    return then_decay_and_rate(scale, weight_decay, weight_decay_mask, learning_rate)


def _step(
    grads: Gradients,
    state: ScaleByFourBitShampooState,
    beta: ScalarLike,
    damping: ScalarLike,
    blocks: kron.Blocks,
    storage: kron.Storage,
) -> tuple[list, ScaleByFourBitShampooState]:
    plan = grads.plan
    _check_stacks(plan, state.bases)
    if not plan.num_factors:
        return grads.leaves, state
    leaves = [
        jnp.where(ok, g, 0) for g, ok in zip(grads.leaves, grads.finite, strict=True)
    ]
    G = grads.to_stacks(leaves)
    grams = kron.gram_factors(G, plan)
    taken = kron.per_factor(jnp.stack(grads.finite).astype(grads.dtype), plan)
    choices: dict[str, Any] = {"blocks": blocks, "storage": storage}
    bases, bad_bases = kron.refresh_stored_bases(
        grams, state.bases, taken, state.count, beta=beta, **choices
    )
    roots, bad_roots = kron.refresh_stored_roots(
        bases, state.roots, state.count, damping=damping, **choices
    )
    matrices, residuals = kron.restore_roots(roots)
    sizes = jnp.stack([norm(g).astype(grads.dtype) for g in leaves])
    D = kron.graft(kron.precondition(G, matrices, plan), sizes, plan)
    ready = kron.has_roots(grams, residuals, plan)
    out = list(leaves)
    for i, x in kron.from_stacks(D, plan).items():
        out[i] = jnp.where(ready[i], x.astype(out[i].dtype), out[i])
    rejected = bad_bases + bad_roots
    return out, state._replace(bases=bases, roots=roots, rejected=rejected)


def _check_stacks(plan: kron.Plan, bases: Any) -> None:
    """Gradients have the shapes of the parameters, as far as the state can tell."""
    held = bases if isinstance(bases, dict) else {}
    held = {size: len(basis.turns) for size, basis in held.items()}
    if held != plan.num_factors:
        raise ValueError(
            "`updates` must have the shapes of the parameters that `init` was given; "
            f"they make blocks {plan.num_factors} (size: number), those made {held}."
        )

r"""SOAP (Vyas et al., 2024): Adam in the eigenbases of Shampoo's factors, in blocks.

A matrix with gradient $G$ keeps averages $L$ of $G G^\top$ and $R$ of $G^\top G$, of
which only diagonal blocks, and bases $Q_L$, $Q_R$ close to their eigenvectors. Adam runs
on $Q_L^\top G Q_R$, and its step is rotated back. Other parameters are left to Adam.
The mathematics is in `jaxla.kron`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import ScalarLike

from jaxla import kron

from ._blocked import (
    adam,
    blocked,
    check_no_roots,
    Gradients,
    per_size,
    start,
    then_decay_and_rate,
)


class ScaleBySoapState(NamedTuple):
    """State of [`jaxla.optim.scale_by_soap`][]; read it by `optax.tree.get`."""

    count: Any  # int32 scalar: the number of updates
    steps: Any  # int32 scalars, a tree like the parameters: gradients taken in
    nonfinite: Any  # bool scalars, likewise: was the last gradient refused?
    rejected: Any  # int32 scalar: bases refused in the last update
    mu: Any  # first moments, a tree like the parameters, not rotated
    nu: Any  # second moments, likewise; a scalar zero for each matrix
    factors: Any  # size -> (factors, size, size): averages of G Gᵀ and Gᵀ G
    bases: Any  # size -> (factors, size, size): orthogonal, near their eigenvectors
    variances: Any  # "rows x cols" -> (tiles, rows, cols): second moments, rotated


def scale_by_soap(
    b1: ScalarLike = 0.95,
    b2: ScalarLike = 0.95,
    shampoo_beta: ScalarLike | None = None,
    eps: ScalarLike = 1e-8,
    *,
    blocks: kron.Blocks = kron.Blocks(),
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in the eigenbases of each matrix's $L$ and $R$.

    In one update, in this order: the averages take in the gradient; momentum and
    gradient are rotated, $Q_L^\top M Q_R$ and $G' = Q_L^\top G Q_R$; the second moment
    takes in $G'^2$; Adam's step is rotated back; and the bases whose turn it is are
    moved, by one step of orthogonal iteration, for the steps to come.

    The bases of the first step are the eigenvectors of the first factors. In them the
    first gradient is diagonal: Adam would divide rounding errors by themselves. The
    paper's code therefore makes no first step. Here all entries of a tile share the
    mean of its second moment in that step, which is the gradient in the size of Adam's
    step. Like all others, it does not depend on the bases that rows and columns are
    given in, and the gradient counts in every average.

    **Arguments:**

    - `b1`: decay of the momentum, which is kept as it is and rotated when used.
    - `b2`: decay of the second moment. All averages are corrected for their start at
        zero.
    - `shampoo_beta`: decay of $L$ and $R$; by default that of `b2`.
    - `eps`: Adam's, in the rotated basis.
    - `blocks`: block size, refresh period and rules, see [`jaxla.kron.Blocks`][].
        There are no roots: what concerns these must be left as it is. (Static.)
    - `mu_dtype`: dtype of the momentum, by default at least `float32`. Under
        `optax.inject_hyperparams` give it by name, `"bfloat16"`. (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs` with a
    [`jaxla.optim.ScaleBySoapState`][]. Statistics and bases are held in `float32` at
    least, whatever the dtype of the parameters. A parameter whose gradient is not
    finite (or so large that its square is not) gets a zero update, its statistics stay
    as they were, and its entry of `nonfinite` says so. A parameter whose first gradient
    is zero, or refused, starts as Adam, and its bases from the identity.

    **Cost:** per update and for an `m x n` parameter in blocks of size `s`,
    `16 m n s` flops, and a product and a QR decomposition for `1 / refresh_every` of
    the blocks. The first step decomposes them all. The state holds two moments, and
    `2 s (m + n)` numbers for the blocks and their bases.

    **Differentiation:** bases count as constants.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = optax.chain(jaxla.optim.scale_by_soap(), optax.scale(-0.1))
        >>> params = jnp.ones((4, 3))
        >>> state = opt.init(params)
        >>> updates, state = opt.update(params, state)
        >>> print((params + updates).round(3)[0])
        [0.9 0.9 0.9]

    ??? cite "Reference"

        Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson and Kakade, *SOAP:
        Improving and Stabilizing Shampoo using Adam*, 2024, Algorithm 3.
    """
    check_no_roots("soap", blocks)
    decays = (b1, b2, b2 if shampoo_beta is None else shampoo_beta)

    def init_fn(params):
        plan, dtype, common = start(
            params, blocks, mu_dtype, _left_to_adam, "bases", kron.basis_flops
        )
        return ScaleBySoapState(
            **common,
            rejected=jnp.zeros([], jnp.int32),
            factors=per_size(plan, lambda s, n: jnp.zeros((n, s, s), dtype)),
            bases=per_size(
                plan, lambda s, n: jnp.tile(jnp.eye(s, dtype=dtype), (n, 1, 1))
            ),
            variances=_second_moments(plan, dtype, blocks.shards),
        )

    def step(grads, mu, nu, state):
        return _step(grads, mu, nu, state, eps, blocks)

    return blocked(init_fn, step, blocks, decays)


def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: ScalarLike = 0.95,
    b2: ScalarLike = 0.95,
    shampoo_beta: ScalarLike | None = None,
    eps: ScalarLike = 1e-8,
    weight_decay: ScalarLike = 0.0,
    weight_decay_mask: Any = None,
    *,
    blocks: kron.Blocks = kron.Blocks(),
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The SOAP optimizer.

    [`jaxla.optim.scale_by_soap`][], then decoupled weight decay, then the learning
    rate. A learning rate that suits `optax.adamw` is a good first guess; the paper
    takes 3e-3 for language models.

    **Arguments:**

    - `learning_rate`: a number or a schedule.
    - `b1`, `b2`, `shampoo_beta`, `eps`, `blocks`, `mu_dtype`: as of
        [`jaxla.optim.scale_by_soap`][].
    - `weight_decay`, `weight_decay_mask`: as of [`jaxla.optim.shampoo`][].

    **Returns:**

    An `optax.GradientTransformationExtraArgs`.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = jaxla.optim.soap(0.1)
        >>> params = {"w": jnp.eye(4, 3), "b": jnp.ones(3)}
        >>> loss = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2)
        >>> state = opt.init(params)
        >>> for _ in range(30):
        ...     updates, state = opt.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 1)
        True

    ??? cite "Reference"

        As of [`jaxla.optim.scale_by_soap`][].
    """
    scale = scale_by_soap(b1, b2, shampoo_beta, eps, blocks=blocks, mu_dtype=mu_dtype)
    return then_decay_and_rate(scale, weight_decay, weight_decay_mask, learning_rate)


def _left_to_adam(leaf: kron.LeafPlan) -> bool:
    return leaf.axes is None


def _step(
    grads: Gradients,
    mu,
    nu,
    state: ScaleBySoapState,
    eps: ScalarLike,
    blocks: kron.Blocks,
):
    w1, w2, w_factors = grads.weights
    plan = grads.plan
    mu = list(map(kron.update_mean, mu, grads.leaves, w1))
    nu = [
        kron.update_mean(v, g * g, w) if _left_to_adam(leaf) else v
        for leaf, v, g, w in zip(plan.leaves, nu, grads.leaves, w2, strict=True)
    ]
    moments = [m.astype(g.dtype) for m, g in zip(mu, grads.leaves, strict=True)]
    if not plan.num_factors:
        return [adam(m, v, eps) for m, v in zip(moments, nu, strict=True)], mu, nu, state

    G, M = grads.to_stacks(grads.leaves), grads.to_stacks(moments)
    factors = jax.tree.map(
        kron.update_mean,
        state.factors,
        kron.gram_factors(G, plan),
        kron.per_factor(jnp.stack(w_factors), plan),
    )
    Q = kron.first_bases(factors, state.bases, state.count)
    rotated, means = kron.rotate(G, Q, plan), kron.rotate(M, Q, plan)
    weights = kron.per_tile(jnp.stack(w2), plan)
    is_first = kron.per_tile(jnp.stack(grads.steps) == 1, plan)
    N, V = {}, {}
    for size, g in rotated.items():
        old = state.variances[_name(size)][: len(g)]
        V[size] = kron.update_mean(old, g * g, weights[size])
        shared = jnp.where(
            is_first[size][:, None, None], _mean(V[size], G[size]), V[size]
        )
        N[size] = _adam(means[size], shared, eps)
    D = kron.rotate_back(N, Q, plan)
    Q, rejected = kron.refresh_bases(factors, Q, state.count, blocks=blocks)

    matrices = kron.from_stacks(D, plan)
    out = [
        matrices[i].astype(m.dtype) if i in matrices else adam(m, v, eps)
        for i, (m, v) in enumerate(zip(moments, nu, strict=True))
    ]
    variances = {
        _name(size): _padded(v, state.variances[_name(size)]) for size, v in V.items()
    }
    return (
        out,
        mu,
        nu,
        state._replace(factors=factors, bases=Q, variances=variances, rejected=rejected),
    )


def _mean(V, G):
    """The mean of the second moment over the entries of a tile that are not zero.

    Of the rotated gradient's squares in the first step, which is that of the gradient's.
    """
    count = jnp.sum(G != 0, (1, 2), keepdims=True).astype(V.dtype)
    return jnp.sum(V, (1, 2), keepdims=True) / jnp.maximum(count, 1)


def _adam(mean, variance, eps: ScalarLike):
    """Adam's step; zero where there has been no gradient, as in the padding."""
    return mean / (jnp.sqrt(jnp.where(variance == 0, 1, variance)) + eps)


def _second_moments(plan: kron.Plan, dtype, shards: int):
    stacks = {}
    for size in plan.stack_members():
        tiles = len(plan.owners_of_tiles(size))
        # Spare ones at the end, so that devices have equal parts.
        length = -(-tiles // shards) * shards
        stacks[_name(size)] = jnp.zeros((length, *size), dtype)
    return stacks or jnp.zeros([])


def _name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _padded(stack, like):
    return jnp.pad(stack, ((0, len(like) - len(stack)), (0, 0), (0, 0)))

r"""Shampoo (Gupta, Koren and Singer, 2018), blocked, stacked and staggered.

A matrix-shaped parameter with gradient $G$ keeps averages $L$ of $G G^\top$ and $R$
of $G^\top G$, of which only diagonal blocks, and steps along $L^{-1/4} G R^{-1/4}$,
rescaled to the size of Adam's step ("grafting", Anil et al., 2020). Other
parameters are left to Adam. The mathematics is in `jaxla.kron`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import ScalarLike

from jaxla import kron
from jaxla._dtypes import norm
from jaxla._errors import check_choice

from ._blocked import adam, blocked, Gradients, per_size, start, then_decay_and_rate


class ScaleByShampooState(NamedTuple):
    """State of [`jaxla.optim.scale_by_shampoo`][]; read it by `optax.tree.get`."""

    count: Any  # int32 scalar: the number of updates
    steps: Any  # int32 scalars, a tree like the parameters: gradients taken in
    nonfinite: Any  # bool scalars, likewise: was the last gradient refused?
    rejected: Any  # int32 scalar: roots refused in the last update
    mu: Any  # first moments, a tree like the parameters
    nu: Any  # second moments, likewise; a scalar zero where none is needed
    factors: Any  # size -> (factors, size, size): averages of G Gᵀ and Gᵀ G
    roots: Any  # size -> (factors, size, size): their inverse roots when last computed
    residuals: Any  # size -> (factors,): of these roots; infinite if there is none yet


def scale_by_shampoo(
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.99,
    eps: ScalarLike = 1e-8,
    damping: ScalarLike = 1e-6,
    tolerance: ScalarLike = 1e-2,
    *,
    blocks: kron.Blocks = kron.Blocks(),
    graft: str = "adam",
    momentum: str = "before",
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Preconditions each matrix as $L^{-e} G R^{-e}$.

    In one update, in this order: the averages take in the gradient; the roots whose
    turn it is are computed anew; the momentum (or the gradient) is preconditioned;
    the result is rescaled over the whole parameter. Until all its factors have had a
    first root, a parameter takes the step whose size is grafted, unchanged.

    **Arguments:**

    - `b1`: decay of the momentum.
    - `b2`: decay of the averages $L$ and $R$, and of Adam's second moment. All
        averages are corrected for their start at zero. `1.0` averages over all steps.
    - `eps`: Adam's, for the grafted size and for parameters that are not matrices.
    - `damping`: added to each factor before its root, relative to a bound of its
        largest eigenvalue. In `float32`, not below `1e-6`.
    - `tolerance`: a root with a larger residual is refused, and the old one kept.
    - `blocks`: block size, refresh period, exponent and rules, see
        [`jaxla.kron.Blocks`][]. (Static.)
    - `graft`: whose step size to take over each whole parameter: `"adam"`, `"sgd"`
        (the norm of the momentum) or `"none"`, which also means no step at all
        before there are roots. (Static.)
    - `momentum`: `"before"` preconditions the average of the gradients, so that
        everything but the direction is Adam; `"after"` averages the preconditioned
        gradients. (Static.)
    - `mu_dtype`: dtype of the momentum, by default at least `float32`. Under
        `optax.inject_hyperparams` give it by name, `"bfloat16"`. (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs` with a
    [`jaxla.optim.ScaleByShampooState`][]. Statistics and roots are held in
    `float32` at least, whatever the dtype of the parameters. A parameter whose
    gradient is not finite (or so large that its square is not) gets a zero update,
    its statistics stay as they were, and its entry of `nonfinite` says so.

    **Cost:** per update and for an `m x n` parameter in blocks of size `s`,
    `8 m n s` flops, and the roots of `1 / refresh_every` of the blocks. The state
    holds two moments, and `2 s (m + n)` numbers for the blocks and their roots.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = optax.chain(jaxla.optim.scale_by_shampoo(), optax.scale(-0.1))
        >>> params = jnp.ones((4, 3))
        >>> state = opt.init(params)
        >>> updates, state = opt.update(params, state)
        >>> print((params + updates).round(3)[0])
        [0.9 0.9 0.9]

    ??? cite "Reference"

        Gupta, Koren and Singer, *Shampoo: Preconditioned Stochastic Tensor
        Optimization*, 2018, Algorithm 1; Anil, Gupta, Koren, Regan and Singer,
        *Scalable Second Order Optimization for Deep Learning*, 2020, for blocks
        and grafting.
    """
    check_choice("graft", graft, ("adam", "sgd", "none"))
    check_choice("momentum", momentum, ("before", "after"))
    hyper = _Hyperparameters(eps, damping, tolerance, blocks, graft, momentum)

    def init_fn(params):
        flops = functools.partial(kron.root_flops, blocks=blocks)
        plan, dtype, common = start(
            params, blocks, mu_dtype, hyper.needs_nu, "roots", flops
        )
        hyper.check_scales(plan)
        return ScaleByShampooState(
            **common,
            rejected=jnp.zeros([], jnp.int32),
            factors=per_size(plan, lambda s, n: jnp.zeros((n, s, s), dtype)),
            roots=per_size(plan, lambda s, n: jnp.zeros((n, s, s), dtype)),
            residuals=per_size(plan, lambda _, n: jnp.full((n,), jnp.inf, dtype)),
        )

    def step(grads, mu, nu, state):
        return _step(grads, mu, nu, state, hyper)

    return blocked(init_fn, step, blocks, (b1, b2))


def shampoo(
    learning_rate: optax.ScalarOrSchedule,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.99,
    eps: ScalarLike = 1e-8,
    damping: ScalarLike = 1e-6,
    tolerance: ScalarLike = 1e-2,
    weight_decay: ScalarLike = 0.0,
    weight_decay_mask: Any = None,
    *,
    blocks: kron.Blocks = kron.Blocks(),
    graft: str = "adam",
    momentum: str = "before",
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The Shampoo optimizer.

    [`jaxla.optim.scale_by_shampoo`][], then decoupled weight decay, then the
    learning rate. With the default grafting, a learning rate that suits
    `optax.adamw` is a good first guess.

    **Arguments:**

    - `learning_rate`: a number or a schedule.
    - `b1`, `b2`, `eps`, `damping`, `tolerance`, `blocks`, `graft`, `momentum`,
        `mu_dtype`: as of [`jaxla.optim.scale_by_shampoo`][].
    - `weight_decay`: added to the update as `weight_decay * params`, before the
        learning rate, as `optax.adamw` does.
    - `weight_decay_mask`: a tree of booleans, or a function from parameters to
        one: which parameters decay. Under `optax.inject_hyperparams` add
        `static_args="weight_decay_mask"`: whatever can be called, an Equinox model
        of booleans too, would be taken for a schedule.

    **Returns:**

    An `optax.GradientTransformationExtraArgs`.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = jaxla.optim.shampoo(0.1)
        >>> params = {"w": jnp.eye(4, 3), "b": jnp.ones(3)}
        >>> loss = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2)
        >>> state = opt.init(params)
        >>> for _ in range(20):
        ...     updates, state = opt.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 1)
        True

    ??? cite "Reference"

        As of [`jaxla.optim.scale_by_shampoo`][].
    """
    scale = scale_by_shampoo(
        b1,
        b2,
        eps,
        damping,
        tolerance,
        blocks=blocks,
        graft=graft,
        momentum=momentum,
        mu_dtype=mu_dtype,
    )
    return then_decay_and_rate(scale, weight_decay, weight_decay_mask, learning_rate)


class _Hyperparameters(NamedTuple):
    eps: ScalarLike
    damping: ScalarLike
    tolerance: ScalarLike
    blocks: kron.Blocks
    graft: str
    momentum: str

    def needs_nu(self, leaf: kron.LeafPlan) -> bool:
        return leaf.axes is None or self.graft == "adam"

    def check_scales(self, plan: kron.Plan) -> None:
        """Grafting must set the size of a step whose root has none."""
        if self.graft == "none" and self.blocks.normalize_trace:
            for leaf in plan.leaves:
                if leaf.one_sided:
                    raise ValueError(
                        "`graft='none'` does not go with `normalize_trace=True` of "
                        f"`blocks` where {leaf.path!r} is one-sided: a trace is that of "
                        "two sides. Graft, or leave `normalize_trace` at False."
                    )

    def step_alone(self, leaf: kron.LeafPlan, mean, variance, eps):
        """The step without preconditioner: Adam's, or the momentum itself."""
        return adam(mean, variance, eps) if self.needs_nu(leaf) else mean


def _step(grads: Gradients, mu, nu, state: ScaleByShampooState, hyper: _Hyperparameters):
    w1, w2 = grads.weights
    if hyper.momentum == "before":
        mu = list(map(kron.update_mean, mu, grads.leaves, w1))
    nu = [
        kron.update_mean(v, g * g, w) if hyper.needs_nu(leaf) else v
        for leaf, v, g, w in zip(grads.plan.leaves, nu, grads.leaves, w2, strict=True)
    ]
    state = _accumulate_and_refresh(grads, w2, state, hyper)
    source = mu if hyper.momentum == "before" else grads.leaves
    source = [m.astype(g.dtype) for m, g in zip(source, grads.leaves, strict=True)]
    out = _precondition(source, nu, state, grads, hyper)
    if hyper.momentum == "after":
        mu = out = list(map(kron.update_mean, mu, out, w1))
    return out, mu, nu, state


def _accumulate_and_refresh(
    grads: Gradients, weights, state: ScaleByShampooState, hyper: _Hyperparameters
) -> ScaleByShampooState:
    """The state with new factors, and with new roots for those whose turn it is."""
    if not grads.plan.num_factors:
        return state
    factors = jax.tree.map(
        kron.update_mean,
        state.factors,
        kron.gram_factors(grads.to_stacks(grads.leaves), grads.plan),
        kron.per_factor(jnp.stack(weights), grads.plan),
    )
    roots, residuals, rejected = kron.refresh_roots(
        factors,
        state.roots,
        state.residuals,
        state.count,
        blocks=hyper.blocks,
        damping=hyper.damping,
        tolerance=hyper.tolerance,
    )
    return state._replace(
        factors=factors, roots=roots, residuals=residuals, rejected=rejected
    )


def _precondition(
    source, nu, state: ScaleByShampooState, grads: Gradients, hyper: _Hyperparameters
):
    """The direction of every parameter: Shampoo's for matrices, Adam's for the rest."""
    plan = grads.plan
    out = [
        hyper.step_alone(leaf, m, v, hyper.eps)
        for leaf, m, v in zip(plan.leaves, source, nu, strict=True)
    ]
    if not plan.num_factors:
        return out
    source_stacks = grads.to_stacks(source)
    stacks = kron.precondition(source_stacks, state.roots, plan, blocks=hyper.blocks)
    if hyper.graft != "none":
        stacks = kron.graft(stacks, _sizes(source, nu, grads, hyper), plan)
    ready = kron.has_roots(state.factors, state.residuals, plan)
    for i, x in kron.from_stacks(stacks, plan).items():
        other = 0 if hyper.graft == "none" else out[i]
        out[i] = jnp.where(ready[i], x.astype(source[i].dtype), other)
    return out


def _sizes(source, nu, grads: Gradients, hyper: _Hyperparameters) -> jax.Array:
    """The norm of the step whose size is taken over, for each parameter."""
    sizes = []
    for leaf, m, v in zip(grads.plan.leaves, source, nu, strict=True):
        if leaf.axes is None:
            sizes.append(jnp.zeros([], grads.dtype))
            continue
        # The barrier keeps XLA from storing the step for where it is needed once more.
        eps = jnp.asarray(hyper.eps, m.dtype)
        alone = hyper.step_alone(leaf, *jax.lax.optimization_barrier((m, v, eps)))
        sizes.append(norm(alone).astype(grads.dtype))
    return jnp.stack(sizes)

r"""Shampoo (Gupta, Koren and Singer, 2018), blocked, stacked and staggered.

A matrix-shaped parameter with gradient $G$ keeps averages $L$ of $G G^\top$ and $R$
of $G^\top G$, of which only diagonal blocks, and steps along $L^{-1/4} G R^{-1/4}$,
rescaled to the size of Adam's step ("grafting", Anil et al., 2020). Other
parameters are left to Adam. The mathematics is in `jaxla.kron`.
"""

from typing import Any, cast, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import ScalarLike

from jaxla import kron
from jaxla._dtypes import compute_dtype, norm, sum_of_squares
from jaxla._errors import check_choice

from ._describe import record_plan
from ._leaves import check_gradients, check_parameters, named_leaves, path_name
from ._sharding import with_auto_axes


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
    if not isinstance(blocks, kron.Blocks):
        raise TypeError(f"`blocks` must be a `jaxla.kron.Blocks`; got {blocks!r}.")

    hyper = _Hyperparameters(
        b1, b2, eps, damping, tolerance, blocks, graft, momentum, mu_dtype
    )

    def init_fn(params):
        return _init(params, hyper)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        return _update(updates, state, hyper)

    return optax.GradientTransformationExtraArgs(init_fn, with_auto_axes(update_fn))


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
    return optax.chain(
        scale_by_shampoo(
            b1,
            b2,
            eps,
            damping,
            tolerance,
            blocks=blocks,
            graft=graft,
            momentum=momentum,
            mu_dtype=mu_dtype,
        ),
        # `Any`: Optax's annotation has no room for a NumPy scalar.
        optax.add_decayed_weights(cast(Any, weight_decay), weight_decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


class _Hyperparameters(NamedTuple):
    b1: ScalarLike
    b2: ScalarLike
    eps: ScalarLike
    damping: ScalarLike
    tolerance: ScalarLike
    blocks: kron.Blocks
    graft: str
    momentum: str
    mu_dtype: DTypeLike | None

    def needs_nu(self, leaf: kron.LeafPlan) -> bool:
        return leaf.axes is None or self.graft == "adam"

    def step_alone(self, leaf: kron.LeafPlan, mean, variance, eps):
        """The step without preconditioner: Adam's, or the momentum itself."""
        return mean / (jnp.sqrt(variance) + eps) if self.needs_nu(leaf) else mean


def _init(params, hyper: _Hyperparameters) -> ScaleByShampooState:
    paths, leaves = named_leaves(params)
    check_parameters(paths, leaves)
    plan = kron.make_plan(paths, leaves, hyper.blocks)
    record_plan(plan, hyper.blocks)
    plan_of = dict(zip(paths, plan.leaves, strict=True))

    def first_moment(leaf):
        return jnp.zeros_like(leaf, dtype=hyper.mu_dtype or compute_dtype(leaf.dtype))

    def second_moment(path, leaf):
        dtype = compute_dtype(leaf.dtype)
        if hyper.needs_nu(plan_of[path_name(path)]):
            return jnp.zeros_like(leaf, dtype=dtype)
        return jnp.zeros([], dtype)

    dtype = _factor_dtype(leaves, plan)
    return ScaleByShampooState(
        count=jnp.zeros([], jnp.int32),
        steps=jax.tree.map(lambda _: jnp.zeros([], jnp.int32), params),
        nonfinite=jax.tree.map(lambda _: jnp.zeros([], bool), params),
        rejected=jnp.zeros([], jnp.int32),
        mu=jax.tree.map(first_moment, params),
        nu=jax.tree.map_with_path(second_moment, params),
        factors=_per_size(plan, lambda s, n: jnp.zeros((n, s, s), dtype)),
        roots=_per_size(plan, lambda s, n: jnp.zeros((n, s, s), dtype)),
        residuals=_per_size(plan, lambda _, n: jnp.full((n,), jnp.inf, dtype)),
    )


def _update(updates, state: ScaleByShampooState, hyper: _Hyperparameters):
    check_gradients(updates, state.mu)
    paths, leaves = named_leaves(updates)
    if not leaves:
        return updates, state._replace(count=optax.safe_increment(state.count))
    plan = kron.make_plan(paths, leaves, hyper.blocks)
    grads = [leaf.astype(compute_dtype(leaf.dtype)) for leaf in leaves]
    # Nor will an entry of a Gram matrix overflow. The barrier keeps XLA from storing the
    # squares for the second moments.
    finite = [
        jnp.isfinite(sum_of_squares(jax.lax.optimization_barrier(g))) for g in grads
    ]
    # A refused gradient has weight zero in every average, and is not counted.
    steps = [
        n + ok.astype(n.dtype)
        for n, ok in zip(jax.tree.leaves(state.steps), finite, strict=True)
    ]
    decays = jnp.stack([jnp.asarray(b, jnp.float32) for b in (hyper.b1, hyper.b2)])
    weights = [
        jnp.where(ok, kron.debiased_weight(decays, n), 0)
        for n, ok in zip(steps, finite, strict=True)
    ]
    w1, w2 = ([w[i] for w in weights] for i in (0, 1))

    mu, nu = jax.tree.leaves(state.mu), jax.tree.leaves(state.nu)
    if hyper.momentum == "before":
        mu = list(map(kron.update_mean, mu, grads, w1))
    nu = [
        kron.update_mean(v, g * g, w) if hyper.needs_nu(leaf) else v
        for leaf, v, g, w in zip(plan.leaves, nu, grads, w2, strict=True)
    ]
    curvature = _accumulate_and_refresh(grads, w2, state, plan, hyper)
    source = mu if hyper.momentum == "before" else grads
    source = [m.astype(g.dtype) for m, g in zip(source, grads, strict=True)]
    out = _precondition(source, nu, curvature, plan, hyper)
    if hyper.momentum == "after":
        mu = out = list(map(kron.update_mean, mu, out, w1))

    out = [
        jnp.where(ok, u, 0).astype(leaf.dtype)
        for ok, u, leaf in zip(finite, out, leaves, strict=True)
    ]
    unflatten = jax.tree.structure(updates).unflatten
    return unflatten(out), curvature._replace(
        count=optax.safe_increment(state.count),
        steps=unflatten(steps),
        nonfinite=unflatten([~ok for ok in finite]),
        mu=unflatten(mu),
        nu=unflatten(nu),
    )


def _accumulate_and_refresh(
    grads, weights, state: ScaleByShampooState, plan: kron.Plan, hyper: _Hyperparameters
) -> ScaleByShampooState:
    """The state with new factors, and with new roots for those whose turn it is."""
    if not plan.num_factors:
        return state
    dtype = _factor_dtype(grads, plan)
    stacks = kron.to_stacks([g.astype(dtype) for g in grads], plan)
    factors = jax.tree.map(
        kron.update_mean,
        state.factors,
        kron.gram_factors(stacks, plan),
        kron.per_factor(jnp.stack(weights), plan),
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
    source, nu, state: ScaleByShampooState, plan: kron.Plan, hyper: _Hyperparameters
):
    """The direction of every parameter: Shampoo's for matrices, Adam's for the rest."""
    out = [
        hyper.step_alone(leaf, m, v, hyper.eps)
        for leaf, m, v in zip(plan.leaves, source, nu, strict=True)
    ]
    if not plan.num_factors:
        return out
    dtype = _factor_dtype(source, plan)
    stacks = kron.to_stacks([m.astype(dtype) for m in source], plan)
    stacks = kron.precondition(stacks, state.roots, plan)
    if hyper.graft != "none":
        stacks = kron.graft(stacks, _sizes(source, nu, plan, hyper, dtype), plan)
    ready = kron.has_roots(state.factors, state.residuals, plan)
    for i, x in kron.from_stacks(stacks, plan).items():
        other = 0 if hyper.graft == "none" else out[i]
        out[i] = jnp.where(ready[i], x.astype(source[i].dtype), other)
    return out


def _sizes(source, nu, plan: kron.Plan, hyper: _Hyperparameters, dtype) -> jax.Array:
    """The norm of the step whose size is taken over, for each parameter."""
    sizes = []
    for leaf, m, v in zip(plan.leaves, source, nu, strict=True):
        if leaf.axes is None:
            sizes.append(jnp.zeros([], dtype))
            continue
        # The barrier keeps XLA from storing the step for where it is needed once more.
        eps = jnp.asarray(hyper.eps, m.dtype)
        alone = hyper.step_alone(leaf, *jax.lax.optimization_barrier((m, v, eps)))
        sizes.append(norm(alone).astype(dtype))
    return jnp.stack(sizes)


def _factor_dtype(leaves, plan: kron.Plan) -> np.dtype:
    """The widest dtype that a matrix of the plan is computed in."""
    dtypes = [
        compute_dtype(leaf.dtype)
        for leaf, leaf_plan in zip(leaves, plan.leaves, strict=True)
        if leaf_plan.axes is not None
    ]
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=np.dtype(jnp.float32))


def _per_size(plan: kron.Plan, make):
    stacks = {size: make(size, count) for size, count in plan.num_factors.items()}
    # A leaf also where there is no matrix: `optax.tree.map_params` needs one.
    return stacks or jnp.zeros([])

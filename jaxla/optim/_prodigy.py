r"""A step size that finds out how far there is to go, under any norm.

$$\eta_{t+1} = \max\Big(\eta_t,\;
  \frac{\langle g_t, w_0 - w_t \rangle}{\|g_t\|_*}\Big)$$

For a convex loss it never exceeds the distance $\|w_0 - w_\star\|$: it is Prodigy's
(Mishchenko and Defazio, 2023) without its averages, as seen by Bernstein and Newhouse.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ScalarLike

from jaxla import kron
from jaxla._dtypes import compute_dtype

from ._leaves import check_gradients
from ._roles import check_layers, is_finite
from ._sharding import with_auto_axes
from ._steepest import Norms, norms_of_roles, steepest


class ProdigyStepSizeState(NamedTuple):
    """State of [`jaxla.optim.prodigy_step_size`][]."""

    count: Any  # int32 scalar: the number of updates
    step_size: Any  # float32 scalar: the largest found; `initial` counts if it is larger
    start: Any  # the parameters that `init` was given
    inner: Any  # the state of the inner transformation


def prodigy_step_size(
    inner: optax.GradientTransformation,
    norm: Norms = None,
    initial: ScalarLike = 1e-6,
    *,
    layers: kron.Layers = kron.Layers(),
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the directions of a transformation by a step size that it finds.

    It grows from `initial` as long as the way from the start, seen along the gradient, is
    longer than it. Chain it with `optax.scale_by_learning_rate(1.0)`, or a schedule that
    starts with 1.

    **Arguments:**

    - `inner`: gives directions of steps of norm 1, such as
        [`jaxla.optim.scale_by_steepest_descent`][] or
        [`jaxla.optim.scale_by_muon`][] with `adam_scale=1.0`.
    - `norm`, `layers`: of the distance, as of
        [`jaxla.optim.scale_by_steepest_descent`][]; of all layers it is the largest.
        (Static.)
    - `initial`: the first step size, a lower bound of the distance to go.

    **Returns:**

    An `optax.GradientTransformationExtraArgs` with a
    [`jaxla.optim.ProdigyStepSizeState`][], whose `update` needs the parameters. A
    parameter whose gradient is not finite says nothing about the step size.

    **Cost:** that of [`jaxla.optim.scale_by_steepest_descent`][], for the dual norm. The
    state holds one number for each entry of a parameter.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> inner = jaxla.optim.scale_by_steepest_descent()
        >>> opt = jaxla.optim.prodigy_step_size(inner, initial=1e-3)
        >>> opt = optax.chain(opt, optax.scale_by_learning_rate(1.0))
        >>> params = jnp.array([5.0, 5.0])
        >>> state = opt.init(params)
        >>> for _ in range(30):
        ...     updates, state = opt.update(params, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(1 < optax.tree.get(state, "step_size") <= 5)
        True

    ??? cite "Reference"

        Bernstein and Newhouse, *Old Optimizer, New Norm: An Anthology*, 2024, on
        Prodigy; Mishchenko and Defazio, *Prodigy: An Expeditiously Adaptive
        Parameter-Free Learner*, 2023.
    """
    norms = norms_of_roles(norm)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        check_layers(params, layers)
        # Copies: a step may give away the memory of the parameters.
        copy = lambda p: jnp.array(p, dtype=compute_dtype(p.dtype), copy=True)
        return ProdigyStepSizeState(
            count=jnp.zeros([], jnp.int32),
            step_size=jnp.zeros([], jnp.float32),
            start=jax.tree.map(copy, params),
            inner=inner.init(params),
        )

    def step_size(grads, state, params):
        check_gradients(grads, state.start)
        finite = [is_finite(g) for g in jax.tree.leaves(grads)]
        _, dual = steepest(grads, finite, norms, layers)
        along = jnp.zeros([])
        for g, ok, w0, w in zip(
            *map(jax.tree.leaves, (grads, finite, state.start, params)), strict=True
        ):
            way = jnp.where(ok, g, 0).astype(w0.dtype) * (w0 - w.astype(w0.dtype))
            along += jnp.sum(way).astype(along.dtype)
        found = along / jnp.where(dual > 0, dual, 1)
        # A product that overflows says nothing either.
        found = jnp.where(jnp.isfinite(found) & (dual > 0), found, 0)
        return jnp.maximum(state.step_size, found.astype(jnp.float32))

    def update_fn(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(
                "`params` is needed by `prodigy_step_size`: call "
                "`opt.update(grads, state, params)`."
            )
        # From the start on, so that another `initial` has an effect at once.
        eta = jnp.maximum(state.step_size, jnp.asarray(initial, jnp.float32))
        directions, inner_state = inner.update(updates, state.inner, params, **extra_args)
        new = step_size(updates, state, params)
        scaled = jax.tree.map(lambda u: (eta * u).astype(u.dtype), directions)
        count = optax.safe_increment(state.count)
        return scaled, ProdigyStepSizeState(count, new, state.start, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, with_auto_axes(update_fn))

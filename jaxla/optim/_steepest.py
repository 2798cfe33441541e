r"""Steepest descent under a norm for each layer (Bernstein and Newhouse, 2024).

$$\arg\min_D\; \langle G, D \rangle + \tfrac{\lambda}{2} \|D\|^2
  = -\tfrac{1}{\lambda} \|G\|_* \, T(G)$$

with the norm $\max_l \|D_l\|$ of all layers. The mathematics is in `jaxla.kron`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ScalarLike

from jaxla import kron
from jaxla._dtypes import compute_dtype
from jaxla.matfun import polar_express

from ._blocked import then_decay_and_rate
from ._leaves import check_gradients
from ._roles import check_layers, is_finite, layers_of
from ._sharding import with_auto_axes


Norms = kron.Norm | Mapping[str, kron.Norm] | None


class ScaleBySteepestDescentState(NamedTuple):
    """State of [`jaxla.optim.scale_by_steepest_descent`][]."""

    count: Any  # int32 scalar: the number of updates
    nonfinite: Any  # bool scalars, a tree like the parameters: was the last one refused?


def scale_by_steepest_descent(
    norm: Norms = None,
    *,
    dual_scale: bool = False,
    layers: kron.Layers = kron.Layers(),
) -> optax.GradientTransformationExtraArgs:
    r"""Turns the gradient of each layer into the direction that its norm calls steepest.

    By default, hidden matrices have the spectral norm, embeddings that of the columns
    (one a token), heads that of the rows (one a logit), and vectors the largest entry.

    **Arguments:**

    - `norm`: a [`jaxla.kron.Norm`][] for all layers, or a mapping from roles,
        `"hidden"`, `"embedding"`, `"head"` and `"vector"`, to norms, which replace the
        default ones. To weigh layers, give a norm its factor by
        [`jaxla.kron.composite_norm`][]. (Static.)
    - `dual_scale`: multiply all directions by the dual norm of the whole gradient,
        $\sum_l \|G_l\|_*$, so that steps get shorter near a minimum. Without it each
        layer takes a step of norm 1. (Static.)
    - `layers`: roles and axes by path and shape, see [`jaxla.kron.Layers`][]. (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs` with a
    [`jaxla.optim.ScaleBySteepestDescentState`][]. It has no momentum: put `optax.ema` in
    front of it. A parameter whose gradient is not finite gets a zero update, and its
    entry of `nonfinite` says so.

    **Cost:** that of the duality maps: for a hidden `m x n` matrix, `m >= n`, about
    `32 m n n + 18 n n n` flops, in one call for all of a shape; a few operations an entry
    for all others. The state holds a bit a parameter.

    !!! example

        >>> import jax.numpy as jnp
        >>> opt = jaxla.optim.scale_by_steepest_descent()
        >>> weight = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> grads = {"bias": jnp.array([1e-3, -5.0]), "weight": weight}
        >>> updates, _ = opt.update(grads, opt.init(grads))
        >>> print(updates["bias"], updates["weight"].round(1)[0])
        [ 1. -1.] [1. 0.]

    ??? cite "Reference"

        Bernstein and Newhouse, *Old Optimizer, New Norm: An Anthology*, 2024,
        Propositions 1 and 5.
    """
    norms = norms_of_roles(norm)

    def init_fn(params):
        check_layers(params, layers)
        return ScaleBySteepestDescentState(
            count=jnp.zeros([], jnp.int32),
            nonfinite=jax.tree.map(lambda _: jnp.zeros([], bool), params),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        # The state has no shapes: only the trees can be compared.
        scalars = jax.tree.map(lambda _: jnp.zeros([]), updates)
        check_gradients(scalars, state.nonfinite)
        leaves, treedef = jax.tree.flatten(updates)
        finite = [is_finite(leaf) for leaf in leaves]
        steps, dual = steepest(updates, finite, norms, layers)
        out = [
            (dual * t if dual_scale else t).astype(leaf.dtype)
            for t, leaf in zip(steps, leaves, strict=True)
        ]
        return treedef.unflatten(out), ScaleBySteepestDescentState(
            count=optax.safe_increment(state.count),
            nonfinite=treedef.unflatten([~ok for ok in finite]),
        )

    return optax.GradientTransformationExtraArgs(init_fn, with_auto_axes(update_fn))


def steepest_descent(
    learning_rate: optax.ScalarOrSchedule,
    norm: Norms = None,
    weight_decay: ScalarLike = 0.0,
    weight_decay_mask: Any = None,
    *,
    dual_scale: bool = False,
    layers: kron.Layers = kron.Layers(),
) -> optax.GradientTransformationExtraArgs:
    """Steepest descent under a norm for each layer.

    [`jaxla.optim.scale_by_steepest_descent`][], then decoupled weight decay, then the
    learning rate.

    **Arguments:**

    - `learning_rate`: a number or a schedule: the norm of the step of each layer, if
        there is no `dual_scale`.
    - `norm`, `dual_scale`, `layers`: as of [`jaxla.optim.scale_by_steepest_descent`][].
    - `weight_decay`, `weight_decay_mask`: as of [`jaxla.optim.shampoo`][].

    **Returns:**

    An `optax.GradientTransformationExtraArgs`.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = jaxla.optim.steepest_descent(0.1, dual_scale=True)
        >>> params = {"w": jnp.eye(4, 3), "b": jnp.ones(3)}
        >>> loss = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2)
        >>> updates, _ = opt.update(jax.grad(loss)(params), opt.init(params), params)
        >>> bool(loss(optax.apply_updates(params, updates)) < loss(params))
        True

    ??? cite "Reference"

        As of [`jaxla.optim.scale_by_steepest_descent`][].
    """
    scale = scale_by_steepest_descent(norm, dual_scale=dual_scale, layers=layers)
    return then_decay_and_rate(scale, weight_decay, weight_decay_mask, learning_rate)


def steepest(
    grads: Any,
    finite: list[jax.Array],
    norms: Mapping[str, kron.Norm],
    layers: kron.Layers,
) -> tuple[list[jax.Array], jax.Array]:
    """The duality map of each leaf, and the dual norm of all; refused ones count as zero.

    They are in the dtype that they were computed in.
    """
    shapes = [leaf.shape for leaf in jax.tree.leaves(grads)]
    layer_of = layers_of(grads, layers)
    matrices = [
        layer.to_matrices(jnp.where(ok, g, 0).astype(compute_dtype(g.dtype)))
        for layer, ok, g in zip(layer_of, finite, jax.tree.leaves(grads), strict=True)
    ]
    directions: dict[int, jax.Array] = {}
    for role in sorted({layer.role for layer in layer_of}):
        ours = [i for i, layer in enumerate(layer_of) if layer.role == role]
        maps = norms[role].duality_maps([matrices[i] for i in ours])
        directions |= dict(zip(ours, maps, strict=True))
    dual = jnp.zeros([])
    for i, g in enumerate(matrices):
        dual += jnp.sum(g * directions[i]).astype(dual.dtype)
    steps = [
        layer.from_matrices(directions[i], shapes[i]) for i, layer in enumerate(layer_of)
    ]
    return steps, dual


def norms_of_roles(norm: Norms) -> dict[str, kron.Norm]:
    """The norm of each role."""
    defaults = {
        "hidden": kron.spectral_norm(polar_express(8)),
        "embedding": kron.column_norm(),
        "head": kron.row_norm(),
        "vector": kron.sign_norm(),
    }
    if isinstance(norm, kron.Norm):
        return dict.fromkeys(defaults, norm)
    given = dict(norm or {})
    if not all(isinstance(value, kron.Norm) for value in given.values()):
        raise TypeError(
            "`norm` must be a `jaxla.kron.Norm` or a mapping from roles to such; got "
            f"{norm!r}."
        )
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ValueError(
            f"`norm` has roles {unknown}; expected some of {', '.join(defaults)}."
        )
    return defaults | given

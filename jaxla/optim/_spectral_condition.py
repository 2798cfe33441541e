r"""Updates of the size that the spectral condition has (Yang, Simon and Bernstein, 2023).

$$\Delta W_l = -\eta \sqrt{n_{out} / n_{in}}\; G_l / \|G_l\|_2$$

The mathematics is in `jaxla.kron`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxla import kron
from jaxla._dtypes import compute_dtype
from jaxla._errors import check_choice, check_int

from ._leaves import check_gradients
from ._roles import check_layers, layers_of
from ._sharding import with_auto_axes


class ScaleBySpectralConditionState(NamedTuple):
    """State of [`jaxla.optim.scale_by_spectral_condition`][]."""

    count: Any  # int32 scalar: the number of updates
    nonfinite: Any  # bool scalars, a tree like the parameters: was the last one refused?
    vectors: Any  # a list: the singular vectors of each leaf of matrices, in their order


def scale_by_spectral_condition(
    *,
    norm: str = "spectral",
    power_steps: int = 2,
    layers: kron.Layers = kron.Layers(),
) -> optax.GradientTransformationExtraArgs:
    r"""Gives the update of each layer the spectral norm that suits its width.

    $G \mapsto \sqrt{n_{out} / n_{in}}\; G / \|G\|$, with $n_{out}$ and $n_{in}$ as of
    [`jaxla.kron.fans`][]. The direction stays that of the gradient, or of whatever comes
    before in a chain, such as `optax.trace` or `optax.scale_by_adam`. One update changes
    features by at most about the learning rate, as the root of the mean square, at every
    width; a learning rate that was found for a narrow model serves a wide one.

    **Arguments:**

    - `norm`: of hidden matrices, convolutions and heads: `"spectral"`, as a few power
        iterations find it; or `"frobenius"`, which needs no state and is as large for
        gradients of rank one, and for others up to the root of their rank larger.
        (Static.)
    - `power_steps`: how many power iterations an update, each started where the last one
        ended, see [`jaxla.kron.power_iteration`][]. (Static.)
    - `layers`: roles and axes by path and shape, see [`jaxla.kron.Layers`][]. Of an
        embedding, the norm is the largest of a token; vectors have the Frobenius
        norm. (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs` with a
    [`jaxla.optim.ScaleBySpectralConditionState`][]. A parameter whose gradient, or its
    norm, is not finite gets a zero update, its vector stays as it was, and its entry of
    `nonfinite` says so. The scale of a gradient does not matter, from 1e-30 to 1e37.

    **Cost:** for an `m x n` matrix `10 m n` flops and `4 m n` for each power iteration,
    in one call for all of a shape. The state holds `min(m, n)` numbers a matrix.

    !!! example

        >>> import jax.numpy as jnp, optax
        >>> opt = optax.chain(optax.trace(0.9), jaxla.optim.scale_by_spectral_condition(),
        ...                   optax.scale_by_learning_rate(0.1))
        >>> params = {"weight": jnp.full((64, 16), 1e-3), "bias": jnp.full(64, 1e-3)}
        >>> updates, _ = opt.update(params, opt.init(params))
        >>> norm = jnp.linalg.norm(updates["weight"], 2)  # 0.1 sqrt(64 / 16)
        >>> print(norm.round(3), updates["bias"][:2])
        0.2 [-0.1 -0.1]

    ??? cite "Reference"

        Yang, Simon and Bernstein, *A Spectral Condition for Feature Learning*, 2023.
    """
    check_choice("norm", norm, ("spectral", "frobenius"))
    check_int("power_steps", power_steps, low=0)

    def init_fn(params):
        of_leaf = check_layers(params, layers, thin=True)
        leaves = jax.tree.leaves(params)
        vectors = [_first_vector(of_leaf[i], leaves[i]) for i in _iterated(of_leaf, norm)]
        return ScaleBySpectralConditionState(
            count=jnp.zeros([], jnp.int32),
            nonfinite=jax.tree.map(lambda _: jnp.zeros([], bool), params),
            # A leaf also where there is no matrix: `optax.tree.map_params` needs one.
            vectors=vectors or [jnp.zeros([])],
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        # The state does not have all shapes: only the trees can be compared.
        scalars = jax.tree.map(lambda _: jnp.zeros([]), updates)
        check_gradients(scalars, state.nonfinite)
        leaves, treedef = jax.tree.flatten(updates)
        of_leaf = layers_of(updates, layers, thin=True)
        ours = _iterated(of_leaf, norm)
        matrices = [
            layer.to_matrices(g.astype(compute_dtype(g.dtype)))
            for layer, g in zip(of_leaf, leaves, strict=True)
        ]
        old = state.vectors if ours else []
        found, new = kron.power_iteration(
            [matrices[i] for i in ours], old, steps=power_steps
        )
        norms = [
            found[ours.index(i)] if i in ours else _norm(layer, matrices[i])
            for i, layer in enumerate(of_leaf)
        ]
        finite = [jnp.isfinite(size).all() for size in norms]
        out = []
        for ok, g, size, layer, leaf in zip(
            finite, matrices, norms, of_leaf, leaves, strict=True
        ):
            gain = kron.gain(*kron.fans(layer, leaf.shape), scale="rms")
            u = layer.from_matrices(gain * _divide(g, size), leaf.shape)
            out.append(jnp.where(ok, u, 0).astype(leaf.dtype))
        vectors = [
            jnp.where(finite[i], v, before)
            for i, v, before in zip(ours, new, old, strict=True)
        ]
        return treedef.unflatten(out), ScaleBySpectralConditionState(
            count=optax.safe_increment(state.count),
            nonfinite=treedef.unflatten([~ok for ok in finite]),
            vectors=vectors or state.vectors,
        )

    return optax.GradientTransformationExtraArgs(init_fn, with_auto_axes(update_fn))


def _iterated(of_leaf: list[kron.Layer], norm: str) -> list[int]:
    """Which leaves have norms that power iterations find."""
    roles = ("hidden", "head") if norm == "spectral" else ()
    return [i for i, layer in enumerate(of_leaf) if layer.role in roles]


def _first_vector(layer: kron.Layer, leaf: Any) -> jax.Array:
    batch, m, n = layer.matrix_shape(leaf.shape)
    return jnp.zeros([batch, min(m, n)], compute_dtype(leaf.dtype))


def _norm(layer: kron.Layer, g: jax.Array) -> jax.Array:
    """Of an embedding the largest of a token; of anything else the Frobenius norm."""
    norm = kron.column_norm() if layer.role == "embedding" else kron.frobenius_norm()
    return norm.norm(g)


def _divide(g: jax.Array, size: jax.Array) -> jax.Array:
    """Matrices by their norms; zero stays zero."""
    size = size[:, None, None]
    return jnp.where(size > 0, g / jnp.where(size > 0, size, 1), 0)

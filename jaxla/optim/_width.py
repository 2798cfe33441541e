r"""Learning rates by width, as the spectral condition has them (Yang et al., 2023).

$$\eta_l \propto n_{out} / n_{in}\ \text{for SGD}, \qquad
\eta_l \propto 1 / n_{in}\ \text{for Adam}$$

The mathematics is in `jaxla.kron`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxla import kron
from jaxla._errors import check_choice

from ._leaves import named_leaves
from ._roles import check_layers


def scale_by_width(
    kind: str, *, base: Any = None, layers: kron.Layers = kron.Layers()
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the learning rate of each layer by what suits its width.

    The factors of [`jaxla.kron.width_rate`][], or how much larger they are than those of
    a narrow model for which the learning rate was found. The last in a chain but for the
    learning rate: what comes before it, and [`jaxla.kron.spectral_init`][], make the
    spectral condition hold.

    **Arguments:**

    - `kind`: what comes before: `"sgd"`, $n_{out} / n_{in}$, for gradients and averages
        of them; or `"adam"`, $1 / n_{in}$, for steps with entries of order 1, such as
        those of Adam and of signs. (Static.)
    - `base`: the parameters of a narrow model, or a tree of `jax.ShapeDtypeStruct`, with
        the paths of the parameters: learning rates are as they are for it, and follow
        the condition from there on. (Static.)
    - `layers`: roles and axes by path and shape, see [`jaxla.kron.Layers`][]. (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs` without a state. Gradients that are not
    finite stay so, as with `optax.scale`.

    **Cost:** a product an entry.

    !!! example

        >>> import jax.numpy as jnp, optax
        >>> base = {"weight": jax.ShapeDtypeStruct((64, 64), "float32")}
        >>> opt = optax.chain(optax.scale_by_adam(),
        ...                   jaxla.optim.scale_by_width("adam", base=base),
        ...                   optax.scale_by_learning_rate(0.01))
        >>> params = {"weight": jnp.ones((256, 256))}
        >>> updates, _ = opt.update(params, opt.init(params))
        >>> print(updates["weight"][0, 0])  # a quarter
        -0.0025

    ??? cite "Reference"

        Yang, Simon and Bernstein, *A Spectral Condition for Feature Learning*, 2023;
        Yang et al., *Tensor Programs V*, 2022, for learning rates found on narrow models.
    """
    check_choice("kind", kind, ("sgd", "adam"))
    shapes = None if base is None else dict(zip(*named_leaves(base), strict=True))

    def init_fn(params):
        check_layers(params, layers)
        _factors(params, kind, shapes, layers)
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        factors = _factors(updates, kind, shapes, layers)
        leaves, treedef = jax.tree.flatten(updates)
        out = [factor * leaf for factor, leaf in zip(factors, leaves, strict=True)]
        return treedef.unflatten(out), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _factors(
    tree: Any, kind: str, base: Mapping[str, Any] | None, layers: kron.Layers
) -> list[float]:
    """What to multiply each leaf by."""
    paths, leaves = named_leaves(tree)

    def rate(path, leaf):
        fans = kron.fans(layers.layer(path, leaf, thin=True), leaf.shape)
        return kron.width_rate(*fans, kind=kind)

    factors = [rate(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
    if base is None:
        return factors
    missing = [path for path in paths if path not in base]
    if missing:
        raise ValueError(
            f"`base` must have the paths of the parameters; missing: {missing}."
        )
    return [
        factor / rate(path, base[path])
        for factor, path in zip(factors, paths, strict=True)
    ]

"""What a parameter is for, and whether its gradient can be used."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxla import kron
from jaxla._dtypes import sum_of_squares

from ._leaves import check_parameters, named_leaves


def layers_of(tree: Any, layers: kron.Layers, *, thin: bool = False) -> list[kron.Layer]:
    """The role and the axes of each leaf of a tree."""
    if not isinstance(layers, kron.Layers):
        raise TypeError(f"`layers` must be a `jaxla.kron.Layers`; got {layers!r}.")
    paths, leaves = named_leaves(tree)
    return [
        layers.layer(path, leaf, thin=thin)
        for path, leaf in zip(paths, leaves, strict=True)
    ]


def check_layers(
    params: Any, layers: kron.Layers, *, thin: bool = False
) -> list[kron.Layer]:
    """The same for parameters, which are looked at first."""
    check_parameters(*named_leaves(params))
    return layers_of(params, layers, thin=thin)


def is_finite(x: jax.Array) -> jax.Array:
    """Whether all entries are, however large."""
    # By what sums arrays of all shapes in the same few ways, and compiles soon.
    return sum_of_squares(jnp.where(jnp.isfinite(x), 0, 1).astype(x.dtype)) == 0

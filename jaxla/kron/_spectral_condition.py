r"""The spectral condition: how large weights and updates are at every width.

$$\|W_l\|_2 = \Theta(\sqrt{n_{out} / n_{in}}), \qquad
  \|\Delta W_l\|_2 = \Theta(\sqrt{n_{out} / n_{in}})$$

Then the entries of features, and their changes, are of order 1 however wide the layers
are (Yang, Simon and Bernstein, 2023), as with the maximal update parametrization.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, ScalarLike

from jaxla._dtypes import compute_dtype
from jaxla._errors import check_choice

from ._layers import Layer, Layers


def fans(layer: Layer, shape: tuple[int, ...]) -> tuple[int, int]:
    r"""The outputs and inputs of a parameter, as the spectral condition counts them.

    | role | $n_{out}$ | $n_{in}$ | because |
    |---|---|---|---|
    | hidden, head | rows | columns | inputs have entries of order 1: length $\sqrt{n}$ |
    | convolution | channels | channels times taps | an input is a patch |
    | embedding | features | 1 | an input is one-hot: of length 1 |
    | vector | entries | 1 | a bias is a weight from an input that is always 1 |

    A weight of one output or one input is a matrix here, not a vector, if its name does
    not say otherwise; a class token of shape `(1, n)` needs the rule `"vector"`.

    **Arguments:**

    - `layer`: the role and the axes, of [`jaxla.kron.Layers`][].
    - `shape`: of the parameter. Stacked layers count once.

    **Returns:** $n_{out}$ and $n_{in}$.

    !!! example

        >>> import jax
        >>> conv = jax.ShapeDtypeStruct((32, 16, 3, 3), "float32")
        >>> layer = jaxla.kron.Layers().layer("conv/weight", conv, thin=True)
        >>> jaxla.kron.fans(layer, conv.shape)
        (32, 144)
    """
    _, m, n = layer.matrix_shape(shape)
    return m, 1 if layer.role == "embedding" else n


def width_rate(fan_out: int, fan_in: int, *, kind: str) -> float:
    r"""What to multiply the learning rate of a layer by, so that the condition holds.

    **Arguments:**

    - `fan_out`, `fan_in`: of [`jaxla.kron.fans`][].
    - `kind`: of optimizer. `"sgd"`: $n_{out} / n_{in}$, as gradients have a spectral norm
        of order $\sqrt{n_{in} / n_{out}}$ where the condition holds. `"adam"`, for all
        whose steps have entries of order 1: $1 / n_{in}$, as such steps have a norm of
        order $\sqrt{n_{out} n_{in}}$ where few directions make up most of them.

    **Returns:** the factor.

    !!! example

        >>> jaxla.kron.width_rate(1024, 64, kind="sgd")
        16.0
        >>> jaxla.kron.width_rate(1024, 64, kind="adam")
        0.015625
    """
    check_choice("kind", kind, ("sgd", "adam"))
    return (fan_out if kind == "sgd" else 1) / fan_in


def spectral_init(
    key: Key[Array, ""],
    params: Any,
    layers: Layers = Layers(),
    *,
    scale: ScalarLike = 1.0,
) -> Any:
    r"""Draws new weights whose spectral norms are as the spectral condition has it.

    Normal entries with the standard deviation

    $$\sigma = \frac{c}{\sqrt{n_{in}}} \min(1, \sqrt{n_{out} / n_{in}}),$$

    since a matrix of them has $\|W\|_2 \approx \sigma (\sqrt{n_{in}} + \sqrt{n_{out}})$:
    between $c$ and $2 c$ times $\sqrt{n_{out} / n_{in}}$. Other initializers leave the
    minimum out, and have a head that is too large for wide layers.

    **Arguments:**

    - `key`: of `jax.random`.
    - `params`: the parameters, or a whole Equinox model. Of each matrix, only the shape
        and dtype count. Vectors, such as biases and scales of norms, and all leaves
        that are not real floating-point arrays are returned as they are.
    - `layers`: roles and axes by path and shape, see [`jaxla.kron.Layers`][]. Embeddings
        are to be known as such; heads need not be. (Static.)
    - `scale`: $c$: 1 keeps the size of features through square linear layers,
        $\sqrt{2}$ through those with a ReLU.

    **Returns:** a tree like `params`.

    !!! example

        >>> import jax, jax.numpy as jnp
        >>> params = {"bias": jnp.zeros(4096), "weight": jnp.zeros((4096, 64))}
        >>> params = jaxla.kron.spectral_init(jax.random.key(0), params)
        >>> print(jnp.linalg.norm(params["weight"], 2).round(0))  # sqrt(64) + 1
        9.0

    ??? cite "Reference"

        Yang, Simon and Bernstein, *A Spectral Condition for Feature Learning*, 2023,
        Parametrization 1.
    """
    if not isinstance(layers, Layers):
        raise TypeError(f"`layers` must be a `jaxla.kron.Layers`; got {layers!r}.")
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    keys = jax.random.split(key, max(1, len(with_paths)))
    new = []
    for own_key, (path, leaf) in zip(keys, with_paths, strict=False):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        new.append(_draw(own_key, name, leaf, layers, scale))
    return treedef.unflatten(new)


def _draw(key: Array, path: str, leaf: Any, layers: Layers, scale: ScalarLike) -> Any:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return leaf
    layer = layers.layer(path, leaf, thin=True)
    if layer.role == "vector":
        return leaf
    fan_out, fan_in = fans(layer, leaf.shape)
    sigma = min(1, (fan_out / fan_in) ** 0.5) / fan_in**0.5
    entries = jax.random.normal(key, leaf.shape, compute_dtype(dtype))
    return (scale * sigma * entries).astype(dtype)

"""How much features change in the first steps of training, by the width of a model.

The coordinate check of Yang et al. (*Tensor Programs V*, 2022): where changes grow or
shrink with the width, a learning rate that was found for a narrow model does not serve a
wide one.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxla._errors import check_int


@dataclasses.dataclass(frozen=True)
class CoordinateCheck:
    """What [`jaxla.testing.coordinate_check`][] has found; `print` it.

    - `widths`: of the models.
    - `changes`: for each layer a `(widths, seeds)` array: by how much its features
        changed, as the root of the mean square of all their entries.
    - `slopes`: for each layer that of the logarithm of its changes, on average over
        seeds, against that of the width: about 0 where changes do not depend on the
        width; NaN where one is zero or not finite.
    """

    widths: tuple[int, ...]
    changes: dict[str, np.ndarray]

    @functools.cached_property
    def slopes(self) -> dict[str, float]:
        return {
            name: _slope(self.widths, change) for name, change in self.changes.items()
        }

    def __str__(self) -> str:
        rows = [("layer", *map(str, self.widths), "slope")]
        for name, change in self.changes.items():
            cells = (f"{value:.3g}" for value in change.mean(1))
            rows.append((name, *cells, f"{self.slopes[name]:+.2f}"))
        sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True))
            for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)


def coordinate_check(
    init: Callable[[jax.Array, int], Any],
    features: Callable[[Any], Any],
    loss: Callable[[Any], jax.Array],
    optimizer: Callable[[int], optax.GradientTransformation],
    widths: Sequence[int],
    *,
    steps: int = 1,
    seeds: int = 3,
) -> CoordinateCheck:
    r"""Measures how much the features of each layer change, for models of many widths.

    Train each for a few steps and compare the features of the same examples before and
    after. Slopes near 0 show that a model is parametrized, and its optimizer scaled,
    such that all layers learn at every width; see [`jaxla.kron.spectral_init`][],
    [`jaxla.optim.scale_by_width`][] and
    [`jaxla.optim.scale_by_spectral_condition`][].

    **Arguments:**

    - `init`: a function from a key of `jax.random` and a width to the parameters, a
        tree of floating-point arrays.
    - `features`: a function from the parameters to a tree of arrays, one for each layer,
        such as a dictionary: what the layers put out for some examples. Outputs before
        their activation function tell most, as nothing bounds them.
    - `loss`: a function from the parameters to a number that is to be made small.
    - `optimizer`: a function from a width to an optimizer.
    - `widths`: two different ones at least.
    - `steps`: of training.
    - `seeds`: how many models of each width.

    **Returns:**

    A [`jaxla.testing.CoordinateCheck`][] with the `changes` and their `slopes`.

    **Cost:** one compilation a width.

    !!! example

        >>> import jax, jax.numpy as jnp, jaxla.testing, optax
        >>> x = jnp.ones((1, 8))
        >>> def init(key, width):
        ...     shapes = {"0/kernel": (8, width), "1/kernel": (width, 1)}
        ...     params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        ...     return jaxla.kron.spectral_init(key, params)
        >>> def features(params):
        ...     hidden = x @ params["0/kernel"]
        ...     return {"hidden": hidden, "out": jnp.tanh(hidden) @ params["1/kernel"]}
        >>> loss = lambda params: jnp.sum((features(params)["out"] - 1) ** 2)
        >>> opt = optax.chain(jaxla.optim.scale_by_width("sgd"), optax.scale(-1e-3))
        >>> check = jaxla.testing.coordinate_check(
        ...     init, features, loss, lambda width: opt, widths=[64, 1024])
        >>> max(abs(slope) for slope in check.slopes.values()) < 0.2
        True

    ??? cite "Reference"

        Yang, Hu, Babuschkin, Sidor, Liu, Farhi, Ryder, Pachocki, Chen and Gao, *Tensor
        Programs V*, 2022, Appendix D.1.
    """
    widths = tuple(widths)
    if len(set(widths)) < 2:
        raise ValueError(f"`widths` must have two different ones at least; got {widths}.")
    for width in widths:
        check_int("widths", width, low=1)
    check_int("steps", steps, low=1)
    check_int("seeds", seeds, low=1)

    def change(key, width):
        params = init(key, width)
        opt, before = optimizer(width), features(params)

        def step(_, carry):
            params, state = carry
            updates, state = opt.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        params, _ = jax.lax.fori_loop(0, steps, step, (params, opt.init(params)))
        return jax.tree.map(_change, features(params), before)

    compiled = jax.jit(change, static_argnums=1)
    keys = [jax.random.key(seed) for seed in range(seeds)]
    found = [[jax.device_get(compiled(key, width)) for key in keys] for width in widths]
    each, _ = jax.tree_util.tree_flatten_with_path(found[0][0])
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in each]
    values = np.array([[jax.tree.leaves(one) for one in row] for row in found], float)
    return CoordinateCheck(widths, {name: values[..., i] for i, name in enumerate(names)})


def _change(after: jax.Array, before: jax.Array) -> jax.Array:
    difference = after.astype(jnp.float32) - before.astype(jnp.float32)
    return jnp.sqrt(jnp.mean(difference**2))


def _slope(widths: tuple[int, ...], change: np.ndarray) -> float:
    if not (np.isfinite(change).all() and (change > 0).all()):
        return float("nan")
    return float(np.polyfit(np.log(widths), np.log(change).mean(1), 1)[0])

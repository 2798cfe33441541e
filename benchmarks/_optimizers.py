"""The optimizers that are compared in training, by name: one line each.

All decay the weights alike, by the default of `optax.adamw`; whatever else is not as
it is by default is told.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax

from jaxla.kron import Layers
from jaxla.optim import (
    four_bit_shampoo,
    kl_shampoo,
    muon,
    shampoo,
    soap,
    steepest_descent,
)


ADAMW = "optax.adamw"
WEIGHT_DECAY = 1e-4
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make an optimizer, and which learning rates to try.

    - `make`: from a learning rate or a schedule to the optimizer.
    - `centre`: of the learning rates of a sweep.
    - `told`: the settings that are not the default ones.
    """

    make: Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]
    centre: float
    told: str = "as it is"


def _steepest_descent(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    descent = steepest_descent(rate, weight_decay=WEIGHT_DECAY)
    return optax.chain(optax.ema(MOMENTUM), descent)


def _sgd(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(WEIGHT_DECAY)
    momentum = optax.trace(MOMENTUM, nesterov=True)
    return optax.chain(momentum, decay, optax.scale_by_learning_rate(rate))


def _hidden_matrices(params: Any) -> Any:
    """For Optax's Muon: the axes of hidden matrices, and `None` for the others."""

    def dimensions(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        layer = Layers().layer(name, leaf)
        if layer.role != "hidden" or layer.axes is None:
            return None
        return optax.contrib.MuonDimensionNumbers(layer.axes.cols, layer.axes.rows)

    return jax.tree_util.tree_map_with_path(dimensions, params)


_OPTAX_MUON = partial(
    optax.contrib.muon,
    weight_decay=WEIGHT_DECAY,
    adam_weight_decay=WEIGHT_DECAY,
    consistent_rms=0.2,
    muon_weight_dimension_numbers=_hidden_matrices,
)


OPTIMIZERS = {
    ADAMW: Recipe(optax.adamw, 1e-2),
    "optax.adamw, b2=0.95": Recipe(partial(optax.adamw, b2=0.95), 1e-2, "`b2=0.95`"),
    "jaxla shampoo": Recipe(partial(shampoo, weight_decay=WEIGHT_DECAY), 1e-2),
    "jaxla soap": Recipe(partial(soap, weight_decay=WEIGHT_DECAY), 1e-2),
    "jaxla kl_shampoo": Recipe(
        partial(kl_shampoo, initial_eigenvalue=None, weight_decay=WEIGHT_DECAY),
        1e-2,
        "`initial_eigenvalue=None`",
    ),
    "jaxla four_bit_shampoo": Recipe(
        partial(four_bit_shampoo, weight_decay=WEIGHT_DECAY), 1e-2, "before Adam"
    ),
    "jaxla muon": Recipe(
        partial(muon, scale="adam", adam_scale=1.0, weight_decay=WEIGHT_DECAY),
        1e-2,
        "`scale='adam', adam_scale=1.0`",
    ),
    "optax.contrib.muon": Recipe(
        _OPTAX_MUON,
        1e-2,
        "`consistent_rms=0.2`, and told which parameters are hidden matrices",
    ),
    "jaxla steepest_descent": Recipe(
        _steepest_descent, 3e-2, f"after `optax.ema({MOMENTUM})`"
    ),
    "gradient descent": Recipe(_sgd, 0.3, f"Nesterov momentum {MOMENTUM}"),
}

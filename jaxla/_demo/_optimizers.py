"""The optimizers that can be compared, by name.

Each is made from a schedule of learning rates, with the defaults of its package;
the decoupled weight decay is the same for all, that of `optax.adamw`.
"""

from collections.abc import Callable

import optax
import optax.contrib

from jaxla.kron import Blocks
from jaxla.optim import shampoo


WEIGHT_DECAY = 1e-4


def _adamw(schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(schedule, weight_decay=WEIGHT_DECAY)


def _shampoo(schedule: optax.Schedule) -> optax.GradientTransformation:
    return shampoo(
        schedule,
        weight_decay=WEIGHT_DECAY,
        damping=1e-4,
        blocks=Blocks(size=256, refresh_every=4),
    )


def _muon(schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.contrib.muon(schedule, weight_decay=WEIGHT_DECAY)


def _sgd(schedule: optax.Schedule) -> optax.GradientTransformation:
    """With Nesterov's momentum."""
    return optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY),
        optax.sgd(schedule, momentum=0.9, nesterov=True),
    )


OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "shampoo": _shampoo,
    "muon": _muon,
    "sgd": _sgd,
}

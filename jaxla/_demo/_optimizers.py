"""The optimizers that can be compared, by name.

Each is made from a schedule of learning rates. The decoupled weight decay is the same
for all, that of `optax.adamw`; what else differs from a default is told on the screen.
"""

import dataclasses
from collections.abc import Callable

import optax

from jaxla.kron import Blocks, Storage
from jaxla.optim import (
    four_bit_shampoo,
    kl_shampoo,
    muon,
    shampoo,
    soap,
    steepest_descent,
)


WEIGHT_DECAY = 1e-4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make an optimizer, and what to tell of its settings."""

    told: str
    make: Callable[[optax.Schedule], optax.GradientTransformation]


def _adamw(schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(schedule, weight_decay=WEIGHT_DECAY)


def _shampoo(schedule: optax.Schedule) -> optax.GradientTransformation:
    # These runs are a hundred steps long or a few: most is learnt in the first of them,
    # in which roots that are a few steps old are out of date.
    return shampoo(
        schedule,
        damping=1e-4,
        weight_decay=WEIGHT_DECAY,
        blocks=Blocks(size=128, refresh_every=8, eager_steps=4),
    )


def _soap(schedule: optax.Schedule) -> optax.GradientTransformation:
    return soap(
        schedule, weight_decay=WEIGHT_DECAY, blocks=Blocks(size=128, refresh_every=8)
    )


def _kl_shampoo(schedule: optax.Schedule) -> optax.GradientTransformation:
    # These runs are over before eigenvalues of 0.1 would have become those of gradients.
    return kl_shampoo(
        schedule,
        initial_eigenvalue=None,
        weight_decay=WEIGHT_DECAY,
        blocks=Blocks(size=128, refresh_every=8),
    )


def _four_bit(schedule: optax.Schedule) -> optax.GradientTransformation:
    # By default each root is renewed in each fifth turn: too rarely for such short runs.
    return four_bit_shampoo(
        schedule,
        weight_decay=WEIGHT_DECAY,
        blocks=Blocks(size=128, refresh_every=8),
        storage=Storage(turns_per_root=1),
    )


def _muon(schedule: optax.Schedule) -> optax.GradientTransformation:
    # Steps of the size of Adam's, so that one range of learning rates suits all.
    return muon(schedule, adam_scale=1.0, scale="adam", weight_decay=WEIGHT_DECAY)


def _steepest_descent(schedule: optax.Schedule) -> optax.GradientTransformation:
    descent = steepest_descent(schedule, weight_decay=WEIGHT_DECAY)
    return optax.chain(optax.ema(0.9), descent)


def _sgd(schedule: optax.Schedule) -> optax.GradientTransformation:
    momentum = optax.trace(decay=0.9, nesterov=True)
    decay = optax.add_decayed_weights(WEIGHT_DECAY)
    return optax.chain(momentum, decay, optax.scale_by_learning_rate(schedule))


OPTIMIZERS = {
    "adamw": Recipe("optax.adamw as it is (b1 0.9, b2 0.999)", _adamw),
    "shampoo": Recipe(
        "jaxla.optim.shampoo with blocks of 128, all roots renewed in each of the first "
        "4 steps and once in 8 from then on, and damping 1e-4 (b1 0.9, b2 0.99)",
        _shampoo,
    ),
    "soap": Recipe(
        "jaxla.optim.soap with blocks of 128, each basis renewed once in 8 steps "
        "(b1 0.95, b2 0.95)",
        _soap,
    ),
    "kl-shampoo": Recipe(
        "jaxla.optim.kl_shampoo with blocks of 128, each basis renewed once in 8 steps, "
        "and first eigenvalues from the first gradient (b1 0.9, b2 0.98)",
        _kl_shampoo,
    ),
    "four-bit": Recipe(
        "jaxla.optim.four_bit_shampoo before Adam (b1 0.9, b2 0.999) with blocks of 128, "
        "each basis and each root renewed once in 8 steps",
        _four_bit,
    ),
    "muon": Recipe(
        "jaxla.optim.muon in steps of Adam's size (b1 0.95, for the rest 0.9 and 0.95)",
        _muon,
    ),
    "steepest-descent": Recipe(
        "jaxla.optim.steepest_descent on averaged gradients (decay 0.9): the spectral "
        "norm for weights, the largest entry for biases",
        _steepest_descent,
    ),
    "sgd": Recipe("gradient descent with Nesterov momentum 0.9", _sgd),
}

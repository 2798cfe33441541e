"""Optax transformations, each faithful to its paper.

| you want | call |
|---|---|
| Shampoo in place of `optax.adamw` | `shampoo` |
| its preconditioner in a chain of your own | `scale_by_shampoo` |
| to choose block sizes, refresh period, exponent, exceptions | `Blocks` |
| to see what each parameter gets, and what it costs | `describe` |
| to spread the state over devices | `shardings` |

They are ordinary `optax.GradientTransformationExtraArgs`: chain, mask, partition,
accumulate, inject hyperparameters, `vmap` and checkpoint them as you would Adam.
"""

from jaxla.kron import Axes as Axes, Blocks as Blocks

from ._describe import describe as describe
from ._shampoo import (
    scale_by_shampoo as scale_by_shampoo,
    ScaleByShampooState as ScaleByShampooState,
    shampoo as shampoo,
)
from ._sharding import shardings as shardings

"""Optax transformations, each faithful to its paper.

| you want | call |
|---|---|
| Shampoo in place of `optax.adamw` | `shampoo` |
| its preconditioner in a chain of your own | `scale_by_shampoo` |
| Muon, and Adam for what is no hidden matrix | `muon`, `scale_by_muon` |
| steepest descent under a norm for each layer | `steepest_descent`, ... |
| a step size that finds out how far there is to go | `prodigy_step_size` |
| learning rates that serve every width | `scale_by_width`, \
`scale_by_spectral_condition` |
| to choose which parameter is a hidden matrix, which axes are inputs | `Layers` |
| Adam in the eigenbases of Shampoo's statistics | `soap`, `scale_by_soap` |
| Shampoo with statistics in four bits, before any optimizer | `four_bit_shampoo`, ... |
| Shampoo whose factors fit in the sense of Kullback and Leibler | `kl_shampoo`, ... |
| to choose block sizes, refresh period, exponent, exceptions | `Blocks` |
| to choose the bits, and how often roots are renewed | `Storage` |
| to see what each parameter gets, and what it costs | `describe` |
| to spread the state over devices | `shardings` |

They are ordinary `optax.GradientTransformationExtraArgs`: chain, mask, partition,
accumulate, inject hyperparameters, `vmap` and checkpoint them as you would Adam.
"""

from jaxla.kron import (
    Axes as Axes,
    Blocks as Blocks,
    Layer as Layer,
    Layers as Layers,
    Storage as Storage,
)

from ._describe import describe as describe
from ._four_bit_shampoo import (
    four_bit_shampoo as four_bit_shampoo,
    scale_by_four_bit_shampoo as scale_by_four_bit_shampoo,
    ScaleByFourBitShampooState as ScaleByFourBitShampooState,
)
from ._kl_shampoo import (
    kl_shampoo as kl_shampoo,
    scale_by_kl_shampoo as scale_by_kl_shampoo,
    ScaleByKlShampooState as ScaleByKlShampooState,
)
from ._muon import (
    muon as muon,
    scale_by_muon as scale_by_muon,
    ScaleByMuonState as ScaleByMuonState,
)
from ._prodigy import (
    prodigy_step_size as prodigy_step_size,
    ProdigyStepSizeState as ProdigyStepSizeState,
)
from ._shampoo import (
    scale_by_shampoo as scale_by_shampoo,
    ScaleByShampooState as ScaleByShampooState,
    shampoo as shampoo,
)
from ._sharding import shardings as shardings
from ._soap import (
    scale_by_soap as scale_by_soap,
    ScaleBySoapState as ScaleBySoapState,
    soap as soap,
)
from ._spectral_condition import (
    scale_by_spectral_condition as scale_by_spectral_condition,
    ScaleBySpectralConditionState as ScaleBySpectralConditionState,
)
from ._steepest import (
    scale_by_steepest_descent as scale_by_steepest_descent,
    ScaleBySteepestDescentState as ScaleBySteepestDescentState,
    steepest_descent as steepest_descent,
)
from ._width import scale_by_width as scale_by_width

"""Kronecker-factored curvature of parameters that are cut into blocks.

Read in this order: `Blocks` holds the static choices, `make_plan` turns them and
the shapes of the parameters into a `Plan`, `to_stacks` stacks arrays by it,
`gram_factors` computes the statistics of every block, `refresh_roots` and
`precondition` take their inverse roots and apply them, `from_stacks` and `graft`
give the step its shape and its size.

Parameters of a hundred shapes have blocks of two or three sizes. The blocks of a
size are one stack: the number of roots in a program does not grow with the number
of parameters.

Where memory is short, `first_stored`, `refresh_stored_bases` and `refresh_stored_roots`
keep eigenvectors and roots in four bits, as `Storage` tells them.

Beside it, steepest descent under norms: `Layers` finds out the role of each parameter
and which of its axes are inputs and outputs; `spectral_norm`, `column_norm` and others
have a dual norm and a direction of steepest descent; `map_similar` does that for
matrices of many shapes in a few calls. `spectral_init`, `width_rate` and
`power_iteration` keep weights and updates in proportion to the width of their layers.
"""

from ._averages import debiased_weight as debiased_weight, update_mean as update_mean
from ._blocks import Axes as Axes, Blocks as Blocks
from ._eigenbases import (
    basis_flops as basis_flops,
    first_bases as first_bases,
    refresh_bases as refresh_bases,
    rotate as rotate,
    rotate_back as rotate_back,
)
from ._factors import (
    gram_factors as gram_factors,
    has_roots as has_roots,
    per_factor as per_factor,
    per_tile as per_tile,
    precondition as precondition,
    refresh_roots as refresh_roots,
    root_flops as root_flops,
)
from ._four_bit import (
    dequantize as dequantize,
    FourBit as FourBit,
    quantize as quantize,
    rectify as rectify,
)
from ._grafting import graft as graft, parameter_norms as parameter_norms
from ._kullback_leibler import (
    bound_spectra as bound_spectra,
    whiten as whiten,
    whitened_factors as whitened_factors,
)
from ._layers import (
    describe_layers as describe_layers,
    gain as gain,
    Layer as Layer,
    Layers as Layers,
)
from ._norms import (
    column_norm as column_norm,
    composite_norm as composite_norm,
    frobenius_norm as frobenius_norm,
    Norm as Norm,
    rms_norm as rms_norm,
    row_norm as row_norm,
    sign_norm as sign_norm,
    spectral_norm as spectral_norm,
)
from ._plan import (
    LeafPlan as LeafPlan,
    make_plan as make_plan,
    Plan as Plan,
)
from ._power_iteration import power_iteration as power_iteration
from ._similar import map_similar as map_similar, merge_shapes as merge_shapes
from ._spectral_condition import (
    fans as fans,
    spectral_init as spectral_init,
    width_rate as width_rate,
)
from ._stacks import from_stacks as from_stacks, to_stacks as to_stacks
from ._staggering import roots_per_step as roots_per_step
from ._storage import (
    first_stored as first_stored,
    restore_roots as restore_roots,
    Storage as Storage,
    StoredBasis as StoredBasis,
    StoredRoot as StoredRoot,
)
from ._stored_bases import (
    refresh_stored_bases as refresh_stored_bases,
    refresh_stored_roots as refresh_stored_roots,
    stored_flops as stored_flops,
)

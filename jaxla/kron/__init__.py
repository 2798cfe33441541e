"""Kronecker-factored curvature of parameters that are cut into tiles.

Read in this order: `Blocks` holds the static choices, `make_plan` turns them and
the shapes of the parameters into a `Plan`, `to_tiles` cuts arrays by it,
`gram_factors` computes the statistics of every tile, `refresh_roots` and
`precondition` take their inverse roots and apply them, `from_tiles` and `graft`
give the step its shape and its size.

Parameters of a hundred shapes become tiles of two or three sizes. The tiles of a
size are one stack: the number of operations does not grow with that of parameters.
"""

from ._averages import debiased_weight as debiased_weight
from ._averages import update_mean as update_mean
from ._blocks import Axes as Axes
from ._blocks import Blocks as Blocks
from ._factors import gram_factors as gram_factors
from ._factors import precondition as precondition
from ._factors import refresh_roots as refresh_roots
from ._factors import stack_per_factor as stack_per_factor
from ._grafting import graft as graft
from ._plan import LeafPlan as LeafPlan
from ._plan import Plan as Plan
from ._plan import make_plan as make_plan
from ._tiles import from_tiles as from_tiles
from ._tiles import tiles_of as tiles_of
from ._tiles import to_tiles as to_tiles

"""Kronecker-factored curvature of parameters that are cut into blocks.

Read in this order: `Blocks` holds the static choices, `make_plan` turns them and
the shapes of the parameters into a `Plan`, `to_stacks` stacks arrays by it,
`gram_factors` computes the statistics of every block, `refresh_roots` and
`precondition` take their inverse roots and apply them, `from_stacks` and `graft`
give the step its shape and its size.

Parameters of a hundred shapes have blocks of two or three sizes. The blocks of a
size are one stack: the number of roots in a program does not grow with the number
of parameters.
"""

from ._averages import debiased_weight as debiased_weight, update_mean as update_mean
from ._blocks import Axes as Axes, Blocks as Blocks
from ._factors import (
    gram_factors as gram_factors,
    has_roots as has_roots,
    per_factor as per_factor,
    precondition as precondition,
    refresh_roots as refresh_roots,
    root_flops as root_flops,
    roots_per_step as roots_per_step,
)
from ._grafting import graft as graft
from ._plan import (
    LeafPlan as LeafPlan,
    make_plan as make_plan,
    Plan as Plan,
)
from ._stacks import from_stacks as from_stacks, to_stacks as to_stacks

"""Optax transformations."""

from ..kron import Blocks as Blocks
from ._shampoo import ScaleByShampooState as ScaleByShampooState
from ._shampoo import scale_by_shampoo as scale_by_shampoo
from ._shampoo import shampoo as shampoo

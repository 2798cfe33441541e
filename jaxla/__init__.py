"""Linear algebra in JAX for people who train and study models.

Rooms, from the ground floor up: `factor` (factorizations), `matfun` (functions of
matrices), `operators` (linear operators with structure), `kron` (Kronecker-factored
curvature of blocks), `optim` (Optax transformations), `testing` (contract checks for
transformations and operators of your own).
"""

import importlib.metadata

from . import (
    factor as factor,
    kron as kron,
    matfun as matfun,
    operators as operators,
    optim as optim,
)


__version__ = importlib.metadata.version("jaxla")

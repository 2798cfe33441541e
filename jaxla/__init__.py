"""Linear algebra in JAX for people who train and study models."""

from . import kron as kron
from . import matfun as matfun
from . import optim as optim

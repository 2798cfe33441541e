r"""How eigenvectors and inverse roots of factors are kept: in four bits, or as they are.

4-bit Shampoo (Wang et al., 2024) does not keep a factor $A$ itself, which in four bits
would be indefinite. It keeps eigenvalues $\lambda$ and, in four bits, eigenvectors $V$.
Of the inverse root it keeps the diagonal as it is, and the rest in four bits.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxla._errors import check_choice, check_int

from ._factors import Factors, PerFactor
from ._four_bit import dequantize, FourBit, quantize, rectify


@dataclasses.dataclass(frozen=True)
class Storage:
    """How eigenvectors and roots are kept, and how often roots are renewed.

    **Arguments:**

    - `bits`: 4, or 32 for no rounding at all.
    - `smallest`: factors of a smaller size are not rounded.
    - `turns_per_root`: each root is renewed once in `turns_per_root * refresh_every`
        steps. Each factor has its turn to take in a gradient once in `refresh_every`, of
        [`jaxla.kron.Blocks`][]; some twice, where their number does not divide evenly.
    - `basis_steps`, `root_steps`: steps of [`jaxla.kron.rectify`][] that rounded
        eigenvectors take before a gradient is added to them, and before their root.

    !!! example

        The paper's schedule, for runs of many thousand steps:

        >>> blocks = jaxla.kron.Blocks(size=1200, refresh_every=100)
        >>> storage = jaxla.kron.Storage(turns_per_root=5)
    """

    bits: int = 4
    smallest: int = 64
    turns_per_root: int = 5
    basis_steps: int = 1
    root_steps: int = 4

    def __post_init__(self):
        check_choice("bits", self.bits, (4, 32))
        for field in ("smallest", "turns_per_root"):
            check_int(field, getattr(self, field), low=1)
        for field in ("basis_steps", "root_steps"):
            check_int(field, getattr(self, field), low=0)

    def rounds(self, size: int) -> bool:
        """Are factors of this size kept in four bits?"""
        return self.bits == 4 and size >= self.smallest


class StoredBasis(NamedTuple):
    r"""What is kept of factors $V \mathrm{diag}(\lambda) V^\top$ of one size.

    - `values`: $\lambda$, not in order.
    - `vectors`: $V^\top$. A row is an eigenvector, in groups of its own.
    - `turns`: how many gradients each factor has taken in.
    """

    values: Float[Array, "factors size"]
    vectors: FourBit | Float[Array, "factors size size"]
    turns: Int[Array, " factors"]


class StoredRoot(NamedTuple):
    """What is kept of roots of one size; zero where there is none yet.

    - `diagonal`: their diagonals.
    - `rest`: all the rest.
    """

    diagonal: Float[Array, "factors size"]
    rest: FourBit | Float[Array, "factors size size"]


def first_stored(
    size: int, factors: int, storage: Storage, dtype: DTypeLike = jnp.float32
) -> tuple[StoredBasis, StoredRoot]:
    """Factors that are zero, with the identity for eigenvectors, and no roots.

    **Arguments:**

    - `size`, `factors`: the size and how many there are.
    - `storage`: the choices.
    - `dtype`: of what is not rounded.

    **Returns:**

    [`jaxla.kron.StoredBasis`][] and [`jaxla.kron.StoredRoot`][].

    !!! example

        >>> basis, root = jaxla.kron.first_stored(128, 9, jaxla.kron.Storage())
        >>> basis.vectors.codes.shape, root.diagonal.shape
        ((9, 128, 64), (9, 128))
    """

    def repeated(matrix):
        stored = store(matrix, storage.rounds(size))
        return jax.tree.map(lambda x: jnp.tile(x, (factors, 1, 1)), stored)

    values, diagonal = (jnp.zeros((factors, size), dtype) for _ in range(2))
    turns = jnp.zeros((factors,), jnp.int32)
    basis = StoredBasis(values, repeated(jnp.eye(size, dtype=dtype)), turns)
    return basis, StoredRoot(diagonal, repeated(jnp.zeros((size, size), dtype)))


def restore_roots(roots: dict[int, StoredRoot]) -> tuple[Factors, PerFactor]:
    """The roots as matrices, and infinity for those that are not there yet.

    **Arguments:**

    - `roots`: what is kept, by size.

    **Returns:**

    What [`jaxla.kron.precondition`][] asks for, and `residuals` for
    [`jaxla.kron.has_roots`][].

    !!! example

        >>> _, root = jaxla.kron.first_stored(8, 1, jaxla.kron.Storage())
        >>> matrices, residuals = jaxla.kron.restore_roots({8: root})
        >>> print(matrices[8].shape, residuals[8])
        (1, 8, 8) [inf]
    """
    matrices, residuals = {}, {}
    for size, (diagonal, rest) in roots.items():
        eye = jnp.eye(size, dtype=diagonal.dtype)
        matrices[size] = restore(rest) + diagonal[..., None] * eye
        missing = (diagonal == 0).all(-1)
        residuals[size] = jnp.where(missing, jnp.inf, 0).astype(diagonal.dtype)
    return matrices, residuals


def store(matrix: Array, rounds: bool) -> FourBit | Array:
    """The matrix, or its rows in four bits."""
    return quantize(matrix) if rounds else matrix


def restore(stored: FourBit | Array, steps: int = 0) -> Array:
    """The matrix, made orthogonal by so many steps if it was rounded."""
    if isinstance(stored, FourBit):
        return rectify(dequantize(stored), steps=steps)
    return stored

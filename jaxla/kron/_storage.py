r"""Eigenvalues and eigenvectors of Kronecker factors, and their roots, in four bits.

4-bit Shampoo (Wang et al., 2024) does not keep a factor $A$ itself, which in four bits
would be indefinite. It keeps eigenvalues $\lambda$ and, in four bits, eigenvectors $V$,
adds a gradient to $V \mathrm{diag}(\lambda) V^\top$, and takes one step of orthogonal
iteration from $V$. Of the inverse root it keeps the diagonal as it is, and the rest in
four bits.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, ScalarLike

from jaxla._dtypes import matmul
from jaxla._errors import check_choice, check_int

from ._averages import debiased_weight, update_mean
from ._blocks import Blocks
from ._eigenbases import basis_flops, orthogonal_iteration
from ._factors import Factors, PerFactor
from ._four_bit import dequantize, FourBit, quantize, rectify
from ._staggering import after, has_statistics, refresh_window


@dataclasses.dataclass(frozen=True)
class Storage:
    """How eigenvectors and roots are kept, and how often roots are renewed.

    **Arguments:**

    - `bits`: 4, or 32 for no rounding at all.
    - `smallest`: factors of a smaller size are not rounded.
    - `turns_per_root`: each root is renewed once in `turns_per_root * refresh_every`
        steps. Each factor has its turn to take in a gradient once in `refresh_every`, of
        [`jaxla.kron.Blocks`][].
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
        stored = _store(matrix, storage.rounds(size))
        return jax.tree.map(lambda x: jnp.tile(x, (factors, 1, 1)), stored)

    values, diagonal = (jnp.zeros((factors, size), dtype) for _ in range(2))
    turns = jnp.zeros((factors,), jnp.int32)
    basis = StoredBasis(values, repeated(jnp.eye(size, dtype=dtype)), turns)
    return basis, StoredRoot(diagonal, repeated(jnp.zeros((size, size), dtype)))


def refresh_stored_bases(
    grams: Factors,
    bases: dict[int, StoredBasis],
    taken: PerFactor,
    count: ScalarLike,
    *,
    beta: ScalarLike,
    blocks: Blocks,
    storage: Storage,
) -> tuple[dict[int, StoredBasis], Array]:
    r"""Factors whose turn it is take in a gradient.

    $A = (1 - w) V \mathrm{diag}(\lambda) V^\top + w M$ with $M = G G^\top$ or $G^\top G$,
    then one step of orthogonal iteration from $V$ to $P$, and
    $\lambda = \mathrm{diag}(P^\top A P)$. The weight $w$ is that of an average over turns
    with decay `beta`, corrected for its start. Whose turn it is: see
    [`jaxla.kron.refresh_roots`][].

    **Arguments:**

    - `grams`: $M$, as of [`jaxla.kron.gram_factors`][]; what is not taken must be finite,
        too.
    - `bases`: what is kept, by size.
    - `taken`: zero for factors whose gradient is to be left out.
    - `count`: the number of the step, from 0.
    - `beta`, `blocks`, `storage`: the choices.

    **Returns:**

    What is kept now, and how many new bases were refused, because they were not finite.
    A refused gradient leaves no trace. Neither does a gradient of zero before any other.

    **Cost:** [`jaxla.kron.stored_flops`][] for each of at most
    `ceil(factors / refresh_every)` factors of each size.

    **Differentiation:** bases are constants.

    !!! example

        >>> import jax.numpy as jnp
        >>> basis, _ = jaxla.kron.first_stored(8, 1, jaxla.kron.Storage())
        >>> grams = {8: jnp.diag(jnp.arange(1.0, 9.0))[None]}
        >>> bases, refused = jaxla.kron.refresh_stored_bases(
        ...     grams, {8: basis}, {8: jnp.ones(1)}, 0, beta=0.95,
        ...     blocks=jaxla.kron.Blocks(), storage=jaxla.kron.Storage())
        >>> print(bases[8].values[0], bases[8].turns, refused)
        [1. 2. 3. 4. 5. 6. 7. 8.] [1] 0
    """
    grams, bases = jax.lax.stop_gradient((grams, bases))

    def renew(M, old, take):
        turns, size = old.turns + 1, M.shape[-1]
        V = _restore(old.vectors, storage.basis_steps).mT
        A = matmul(V * old.values[..., None, :], V.mT)
        A = update_mean(A, M, debiased_weight(beta, turns))
        P = orthogonal_iteration(A, V)
        values = jnp.maximum(jnp.sum(P * matmul(A, P), -2), 0)
        new = StoredBasis(values, _store(P.mT, storage.rounds(size)), turns)
        good = jnp.isfinite(P).all((-2, -1)) & jnp.isfinite(values).all(-1)
        known = (old.turns > 0) | has_statistics(M)
        return good & known & (take > 0), [new]

    out, refused = {}, jnp.zeros([], jnp.int32)
    for size, stack in grams.items():
        stack = after(refused, stack)
        (out[size],), bad = refresh_window(
            renew, stack, [bases[size]], count, blocks, [taken[size]]
        )
        refused += bad
    return out, refused


def refresh_stored_roots(
    bases: dict[int, StoredBasis],
    roots: dict[int, StoredRoot],
    count: ScalarLike,
    *,
    damping: ScalarLike,
    blocks: Blocks,
    storage: Storage,
) -> tuple[dict[int, StoredRoot], Array]:
    r"""Computes the roots whose turn it is, and keeps the others.

    $V \mathrm{diag}(\lambda + \epsilon \max \lambda)^{-1/4} V^\top$, for each factor once
    in `turns_per_root * refresh_every` steps.

    **Arguments:**

    - `bases`, `roots`: what is kept, by size.
    - `count`: the number of the step, from 0.
    - `damping`: $\epsilon$.
    - `blocks`, `storage`: the choices.

    **Returns:**

    The roots, and how many were refused, because they were not finite. A factor that has
    taken in nothing yet has no root, and does not count.

    **Cost:** [`jaxla.kron.stored_flops`][].

    **Differentiation:** roots are constants.

    !!! example

        >>> import jax.numpy as jnp
        >>> basis, root = jaxla.kron.first_stored(8, 1, jaxla.kron.Storage())
        >>> basis = basis._replace(values=jnp.full((1, 8), 16.0))
        >>> roots, refused = jaxla.kron.refresh_stored_roots(
        ...     {8: basis}, {8: root}, 0, damping=1e-6,
        ...     blocks=jaxla.kron.Blocks(), storage=jaxla.kron.Storage())
        >>> print(roots[8].diagonal[0].round(3), refused)
        [0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5] 0
    """
    bases = jax.lax.stop_gradient(bases)
    period = storage.turns_per_root * blocks.refresh_every
    blocks = dataclasses.replace(blocks, refresh_every=period)

    def renew(values, old, vectors):
        values = values[..., 0]
        largest = values.max(-1, keepdims=True)
        damped = values + jnp.asarray(damping, values.dtype) * largest
        V = _restore(vectors, storage.root_steps).mT
        X = matmul(V * (damped**-0.25)[..., None, :], V.mT)
        diagonal = jnp.diagonal(X, axis1=-2, axis2=-1)
        rest = X - diagonal[..., None] * jnp.eye(X.shape[-1], dtype=X.dtype)
        # The root of something infinite would be zero.
        good = jnp.isfinite(X).all((-2, -1)) & jnp.isfinite(largest[..., 0])
        return good, [StoredRoot(diagonal, _store(rest, isinstance(vectors, FourBit)))]

    out, refused = {}, jnp.zeros([], jnp.int32)
    for size, basis in bases.items():
        values = after(refused, basis.values[..., None])
        (out[size],), bad = refresh_window(
            renew, values, [roots[size]], count, blocks, [basis.vectors]
        )
        refused += bad
    return out, refused


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
        matrices[size] = _restore(rest) + diagonal[..., None] * eye
        missing = (diagonal == 0).all(-1)
        residuals[size] = jnp.where(missing, jnp.inf, 0).astype(diagonal.dtype)
    return matrices, residuals


def stored_flops(size: int, storage: Storage) -> int:
    """The floating-point operations of a turn, with its share of a root.

    **Arguments:**

    - `size`: of the factor.
    - `storage`: the choices.

    **Returns:**

    `26/3 size^3` for the basis and `2 size^3` for a root, and `4 size^3` for each step
    that makes eigenvectors orthogonal.

    !!! example

        >>> jaxla.kron.stored_flops(30, jaxla.kron.Storage())
        244800
    """
    basis, root = 4 * size**3 + basis_flops(size), 2 * size**3
    if storage.rounds(size):
        basis += 4 * size**3 * storage.basis_steps
        root += 4 * size**3 * storage.root_steps
    return basis + root // storage.turns_per_root


def _store(matrix: Array, rounds: bool) -> FourBit | Array:
    return quantize(matrix) if rounds else matrix


def _restore(stored: FourBit | Array, steps: int = 0) -> Array:
    if isinstance(stored, FourBit):
        return rectify(dequantize(stored), steps=steps)
    return stored

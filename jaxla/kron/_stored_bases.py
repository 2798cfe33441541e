r"""Turns of factors of which eigenvalues and stored eigenvectors are all that is kept.

A turn adds a gradient to $V \mathrm{diag}(\lambda) V^\top$ and takes one step of
orthogonal iteration from $V$ (Wang et al., 2024, Algorithms 1 and 2).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ScalarLike

from jaxla._dtypes import matmul

from ._averages import debiased_weight, update_mean
from ._blocks import Blocks
from ._eigenbases import basis_flops, orthogonal_iteration
from ._factors import Factors, PerFactor
from ._four_bit import FourBit
from ._staggering import after, has_statistics, refresh_window
from ._storage import restore, Storage, store, StoredBasis, StoredRoot


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
        V = restore(old.vectors, storage.basis_steps).mT
        A = matmul(V * old.values[..., None, :], V.mT)
        A = update_mean(A, M, debiased_weight(beta, turns))
        P = orthogonal_iteration(A, V)
        values = jnp.maximum(jnp.sum(P * matmul(A, P), -2), 0)
        new = StoredBasis(values, store(P.mT, storage.rounds(size)), turns)
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
        V = restore(vectors, storage.root_steps).mT
        X = matmul(V * (damped**-0.25)[..., None, :], V.mT)
        diagonal = jnp.diagonal(X, axis1=-2, axis2=-1)
        rest = X - diagonal[..., None] * jnp.eye(X.shape[-1], dtype=X.dtype)
        # The root of something infinite would be zero.
        good = jnp.isfinite(X).all((-2, -1)) & jnp.isfinite(largest[..., 0])
        return good, [StoredRoot(diagonal, store(rest, isinstance(vectors, FourBit)))]

    out, refused = {}, jnp.zeros([], jnp.int32)
    for size, basis in bases.items():
        values = after(refused, basis.values[..., None])
        (out[size],), bad = refresh_window(
            renew, values, [roots[size]], count, blocks, [basis.vectors]
        )
        refused += bad
    return out, refused


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

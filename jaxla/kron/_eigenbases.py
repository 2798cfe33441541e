r"""Eigenbases of Kronecker factors: rotations into them, and how they are kept up.

SOAP (Vyas et al., 2024) works in orthogonal bases $Q_L$ and $Q_R$ close to those of the
eigenvectors of $L$ and $R$. After a first eigendecomposition, one step of orthogonal
iteration, a product and a QR decomposition, follows the factors as they change.

The iteration needs its columns in the order of their eigenvalues. They are sorted for
it and then put back: each keeps its place, so that what is known of it, such as second
moments in the rotated basis, need not be moved.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ScalarLike

from jaxla._dtypes import matmul

from ._blocks import Blocks
from ._factors import Factors
from ._plan import Plan
from ._sides import between
from ._stacks import Stacks
from ._staggering import after, has_statistics, refresh_window


def rotate(stacks: Stacks, bases: Factors, plan: Plan) -> Stacks:
    r"""Rotates every matrix into its bases, $Q_L^\top G Q_R$.

    **Arguments:**

    - `stacks`: what to rotate, as [`jaxla.kron.to_stacks`][] returns it.
    - `bases`: orthogonal matrices, stacked by size as the factors are.
    - `plan`: the plan by which they were stacked.

    **Returns:**

    The rotated stacks.

    **Cost:** `4 m n size` flops for an `m x n` parameter.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.ones((8, 8))
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks())
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> factors = jaxla.kron.gram_factors(stacks, plan)
        >>> identity = {8: jnp.stack([jnp.eye(8)] * 2)}
        >>> bases = jaxla.kron.first_bases(factors, identity, 0)
        >>> out = jaxla.kron.rotate(stacks, bases, plan)
        >>> print(jnp.abs(out[8, 8][0, 0, :2]).round(3))
        [8. 0.]
    """
    return between(_transposed(bases), stacks, bases, plan)


def rotate_back(stacks: Stacks, bases: Factors, plan: Plan) -> Stacks:
    r"""Undoes [`jaxla.kron.rotate`][], $Q_L N Q_R^\top$.

    **Arguments:**

    - `stacks`, `bases`, `plan`: as of [`jaxla.kron.rotate`][].

    **Returns:**

    The stacks in the original basis.

    **Cost:** `4 m n size` flops for an `m x n` parameter.

    !!! example

        >>> import jax.numpy as jnp
        >>> plan = jaxla.kron.make_plan(["w"], [jnp.ones((8, 8))], jaxla.kron.Blocks())
        >>> swap = {8: jnp.stack([jnp.eye(8)[::-1]] * 2)}
        >>> stacks = {(8, 8): jnp.arange(64.0).reshape(1, 8, 8)}
        >>> print(jaxla.kron.rotate_back(stacks, swap, plan)[8, 8][0, 0, :2])
        [63. 62.]
    """
    return between(bases, stacks, _transposed(bases), plan)


def first_bases(factors: Factors, bases: Factors, count: ScalarLike) -> Factors:
    r"""In step 0, the eigenvectors of every factor; later, the bases as they are.

    A factor that is zero, or not finite, keeps its basis. Rows that are zero, of the
    padding for instance, have basis vectors to themselves.

    **Arguments:**

    - `factors`, `bases`: symmetric and orthogonal matrices, stacked by size.
    - `count`: the number of the step. May be traced.

    **Returns:**

    Bases like `bases`, columns in descending order of eigenvalues.

    **Cost:** about `11 size^3` flops a factor in step 0, then none, also under
    `jax.vmap`.

    **Differentiation:** bases are constants.

    !!! example

        >>> import jax.numpy as jnp
        >>> factors = {8: jnp.diag(jnp.arange(1.0, 9.0))[None]}
        >>> bases = jaxla.kron.first_bases(factors, {8: jnp.eye(8)[None]}, 0)
        >>> print(jnp.abs(bases[8][0, :, 0]))
        [0. 0. 0. 0. 0. 0. 0. 1.]
    """
    factors = jax.lax.stop_gradient(factors)

    def decompose(carry):
        count, bases = carry
        # What does not depend on the loop, XLA would do before it, in every step.
        out, refused = {}, count
        for size, stack in factors.items():
            apart = _unused_apart(after(refused, stack))
            _, vectors = jnp.linalg.eigh(apart, symmetrize_input=False)
            good = jnp.isfinite(vectors).all((-2, -1)) & has_statistics(stack)
            vectors = vectors[..., ::-1].astype(bases[size].dtype)
            out[size] = jnp.where(good[:, None, None], vectors, bases[size])
            refused += jnp.sum(~good, dtype=jnp.int32)
        return count + 1, out

    # Not `cond`: under `vmap` that would decompose in every step.
    start = (jnp.asarray(count, jnp.int32), jax.lax.stop_gradient(bases))
    return jax.lax.while_loop(lambda carry: carry[0] == 0, decompose, start)[1]


def refresh_bases(
    factors: Factors, bases: Factors, count: ScalarLike, *, blocks: Blocks
) -> tuple[Factors, Array]:
    r"""Moves the bases whose turn it is towards the eigenvectors of their factors.

    One step of orthogonal iteration, $Q \leftarrow \mathrm{qr}(A Q)$ with columns in
    descending order of $\mathrm{diag}(Q^\top A Q)$, each of which then returns to its
    place. Whose turn it is: see [`jaxla.kron.refresh_roots`][].

    **Arguments:**

    - `factors`, `bases`: symmetric and orthogonal matrices, stacked by size.
    - `count`: the number of the step, from 0.
    - `blocks`: the choices.

    **Returns:**

    The bases, and the number of those refused in this step, because they were not
    finite. A refused basis stays as it was.

    **Cost:** a product and a QR decomposition of each of at most
    `ceil(factors / refresh_every)` factors of each size.

    **Differentiation:** bases are constants.

    !!! example

        >>> import jax.numpy as jnp
        >>> factors = {8: jnp.diag(jnp.arange(1.0, 9.0))[None]}
        >>> bases, refused = jaxla.kron.refresh_bases(
        ...     factors, {8: jnp.eye(8)[None]}, 0, blocks=jaxla.kron.Blocks())
        >>> print(jnp.abs(bases[8][0]).trace(), refused)
        8.0 0
    """
    factors, bases = jax.lax.stop_gradient((factors, bases))

    def renew(window, basis):
        basis = orthogonal_iteration(window, basis).astype(basis.dtype)
        good = jnp.isfinite(basis).all((-2, -1)) & has_statistics(window)
        return good, [basis]

    out, refused = {}, jnp.zeros([], jnp.int32)
    for size, stack in factors.items():
        stack = after(refused, stack)
        (out[size],), bad = refresh_window(renew, stack, [bases[size]], count, blocks)
        refused += bad
    return out, refused


def basis_flops(size: int) -> int:
    """The floating-point operations of one step towards an eigenbasis.

    **Arguments:**

    - `size`: of the factor.

    **Returns:**

    `2 size^3` for a product, and `8/3 size^3` for the QR decomposition.

    !!! example

        >>> jaxla.kron.basis_flops(30)
        126000
    """
    return 2 * size**3 + 8 * size**3 // 3


def orthogonal_iteration(A: Array, Q: Array) -> Array:
    """One step towards the eigenvectors of `A`, each of which keeps its place."""
    A = _unused_apart(A)
    AQ = matmul(A, Q)
    order = jnp.argsort(-jnp.sum(Q * AQ, -2), -1)  # diag(Qᵀ A Q), descending
    sorted_Q = jnp.linalg.qr(_columns(AQ, order)).Q
    return _columns(sorted_Q, jnp.argsort(order, -1))


def _columns(A: Array, order: Array) -> Array:
    return jnp.take_along_axis(A, order[..., None, :], -1)


def _unused_apart(A: Array) -> Array:
    """`A` with a negative number in place of each zero row's diagonal entry.

    No positive eigenvalue is near it: what decomposes this matrix does not mix padding
    with what is padded.
    """
    diagonal = jnp.diagonal(A, axis1=-2, axis2=-1)
    unused = jnp.where(diagonal == 0, jnp.sum(diagonal, -1, keepdims=True), 0)
    return A - unused[..., None] * jnp.eye(A.shape[-1], dtype=A.dtype)


def _transposed(bases: Factors) -> Factors:
    return {size: basis.mT for size, basis in bases.items()}

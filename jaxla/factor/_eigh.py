r"""Eigenvalues and eigenvectors of symmetric matrices, many small ones above all.

Closed forms for sizes up to 3, Jacobi's method with the batch in the last axis for those
somewhat larger, and else what JAX has, LAPACK on CPU.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._batching import native_vmap
from jaxla._dtypes import compute_dtype, finiteness_and_unit, matmul
from jaxla._errors import as_square_matrix, check_choice, refuse_derivative

from ._jacobi import eigh_jacobi
from ._small import eigh_closed


class Eigh(NamedTuple):
    r"""An eigendecomposition $A = V \mathrm{diag}(w) V^\top$.

    - `eigenvalues`: $w$, in ascending order.
    - `eigenvectors`: $V$, orthogonal; column $i$ belongs to $w_i$.
    """

    eigenvalues: Float[Array, "*batch n"]
    eigenvectors: Float[Array, "*batch n n"]


def eigh(
    matrix: Float[ArrayLike, "*batch n n"],
    *,
    method: str = "auto",
    broadening: float | None = None,
) -> Eigh:
    r"""Computes the eigenvalues and eigenvectors of symmetric matrices.

    **Arguments:**

    - `matrix`: real and symmetric; its symmetric part is taken. Half precision is
        computed in `float32`.
    - `method`: `"closed"` forms, for sizes up to 3 only; `"jacobi"`, all matrices of the
        batch in step; `"lapack"`, which is `jnp.linalg.eigh`; or `"auto"`: the closed
        form at size 2; for 64 matrices or more, counting those that `jax.vmap` adds, the
        closed form at size 3 and Jacobi up to size 10; and else LAPACK.
    - `broadening`: what makes eigenvectors differentiable, see below: at least 0, or
        `None`.

    **Returns:**

    [`jaxla.factor.Eigh`][], in the dtype of `matrix`. A matrix with a non-finite entry
    has NaN in all of its eigenvalues and eigenvectors, and touches no other of its batch.

    **Cost:** on one core, for a thousand 4x4 matrices about an eighth of the time of
    `jnp.linalg.eigh`, little more than a quarter at 8x8. Jacobi's method takes 4 to 7
    sweeps of about $9 n^3$ flops in `float32`. Checks and scaling add 2 to 4 % to
    LAPACK's time for a single small matrix.

    **Accuracy:** residual and departure from orthogonality are of the order of
    `n * eps`, relative to the norm of the matrix, with each method.

    **Differentiation:** refused by default, with a `NotImplementedError`: eigenvectors
    have no derivative at repeated eigenvalues. Eigenvalues alone have one, in
    [`jaxla.factor.eigvalsh`][]; functions of a matrix, such as its powers, have one
    too, in `jaxla.matfun`. With `broadening` $b$, both modes, once:
    $\dot w = \mathrm{diag}(V^\top \dot A V)$ and
    $\dot V = V (F \circ (V^\top \dot A V))$ with

    $$F_{ij} = \frac{g}{g^2 + (b \max |w|)^2}, \quad g = w_j - w_i,$$

    and 0 for 0/0. With 0 this is exact where all eigenvalues differ, and large where two
    are close. A positive $b$ bounds it, and makes the gradient wrong by a part of about
    $(b \max|w| / g)^2$. At repeated eigenvalues the gradient means something
    only for a loss that does not depend on the choice of eigenvectors, and even then
    with 0 or with small $b$ it may lack a part. A second derivative raises
    `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> jaxla.factor.eigh(jnp.array([[2.0, 1.0], [1.0, 2.0]])).eigenvalues
        Array([1., 3.], dtype=float32)

    ??? cite "Reference"

        Golub, Van Loan, *Matrix Computations*, 4th ed., Section 8.5.
    """
    matrix = as_square_matrix("matrix", matrix)
    check_choice("method", method, ("auto", "closed", "jacobi", "lapack"))
    check_broadening(broadening)
    n = matrix.shape[-1]
    if method == "closed" and n > 3:
        raise ValueError(f'`method` "closed" is for sizes up to 3; got {matrix.shape}.')
    a = matrix.astype(compute_dtype(matrix.dtype))
    decompose = _METHODS[method]
    if broadening is None:
        w, v = refuse_derivative(decompose, _NO_DERIVATIVE)(a)
    else:
        w, v = _broadened(decompose, float(broadening), a)
    return Eigh(w.astype(matrix.dtype), v.astype(matrix.dtype))


def check_broadening(broadening: object) -> None:
    if broadening is None:
        return
    number = isinstance(broadening, (int, float)) and not isinstance(broadening, bool)
    if not number or not broadening >= 0:
        raise ValueError(
            f"`broadening` must be a number of at least 0, or None; got {broadening!r}."
        )


def broadened_inverse(g: Array, eps: Array) -> Array:
    """`g / (g^2 + eps^2)`, and 0 where both vanish, without overflow."""
    large = jnp.maximum(jnp.abs(g), eps)
    safe = jnp.where(large == 0, 1, large)
    g, eps = g / safe, eps / safe
    return jnp.where(
        large == 0, 0, g / jnp.where(large == 0, 1, g * g + eps * eps) / safe
    )


def batch_last(fn: Callable, a: Array) -> tuple[Array, ...]:
    """`fn` on `a` with its batch flattened and in the last axis; and its outputs back."""
    batch = a.shape[:-2]
    flat = a.reshape(math.prod(batch), *a.shape[-2:])
    out = fn(flat.transpose(1, 2, 0))
    return tuple(jnp.moveaxis(x, -1, 0).reshape(*batch, *x.shape[:-1]) for x in out)


_NO_DERIVATIVE = (
    "`eigh` has no derivative: eigenvectors of repeated eigenvalues have none. For "
    "eigenvalues alone use `jaxla.factor.eigvalsh`, for functions of a matrix those of "
    "`jaxla.matfun`; or give `broadening`."
)

# From where on it is faster than LAPACK on CPU: see benchmarks/small_eigh.py.
_JACOBI_SIZE, _MANY = 10, 64


def _choose(a: Array) -> str:
    n = a.shape[-1]
    many = a.size >= _MANY * n * n
    if n <= 2 or (n == 3 and many):
        return "closed"
    return "jacobi" if n <= _JACOBI_SIZE and many else "lapack"


def _decompose(method: str, a: Array) -> tuple[Array, Array]:
    method = _choose(a) if method == "auto" else method
    if method == "lapack" or a.size == 0:
        return _scaled(functools.partial(jnp.linalg.eigh, symmetrize_input=False), a)
    fn = eigh_closed if method == "closed" or a.shape[-1] < 2 else eigh_jacobi
    w, v = batch_last(functools.partial(_scaled, fn, matrix_axes=(0, 1)), a)
    return w, v


def _scaled(fn: Callable, a: Array, matrix_axes=(-2, -1)) -> tuple[Array, Array]:
    """`fn` on symmetric finite matrices with entries of order 1, and undoes all that."""
    first, second = matrix_axes
    usable, unit = finiteness_and_unit(a, matrix_axes)
    a = jnp.where(usable, a * (1 / unit), 0)
    w, v = fn(jax.lax.optimization_barrier((a + a.swapaxes(first, second)) / 2))
    w = jnp.where(usable.squeeze(first), w * unit.squeeze(first), jnp.nan)
    return w, jnp.where(usable, v, jnp.nan)


_METHODS = {
    # Without `jit` it would be slow outside of one.
    method: native_vmap(jax.jit(functools.partial(_decompose, method)))
    for method in ("auto", "closed", "jacobi", "lapack")
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _broadened(decompose: Callable, broadening: float, a: Array):
    return decompose(a)


@_broadened.defjvp
def _broadened_jvp(decompose: Callable, broadening: float, primals, tangents):
    (a,), (da,) = primals, tangents
    once = refuse_derivative(
        decompose, "`eigh` can be differentiated once only, and that with `broadening`."
    )
    w, v = once(a)
    inner = matmul(v.mT, matmul((da + da.mT) / 2, v))
    eps = broadening * jnp.abs(w).max(-1, initial=0)[..., None, None]
    f = broadened_inverse(w[..., None, :] - w[..., :, None], eps)
    return (w, v), (jnp.diagonal(inner, axis1=-2, axis2=-1), matmul(v, f * inner))

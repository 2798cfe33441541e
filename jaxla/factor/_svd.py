"""Thin singular value decompositions, of many small matrices above all."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._batching import native_vmap
from jaxla._dtypes import compute_dtype, finiteness_and_unit, matmul
from jaxla._errors import as_real_matrix, check_choice, refuse_derivative

from ._eigh import (
    batch_last,
    broadened_inverse,
    check_broadening,
)
from ._jacobi import permute, ranking
from ._one_sided import column_norms, directions, orthogonalize


class Svd(NamedTuple):
    r"""A thin singular value decomposition $A = U \mathrm{diag}(s) V^\top$.

    With $k = \min(m, n)$:

    - `u`: $U$, of $k$ orthonormal columns.
    - `s`: $s$, in descending order.
    - `vt`: $V^\top$, of $k$ orthonormal rows.
    """

    u: Float[Array, "*batch m k"]
    s: Float[Array, "*batch k"]
    vt: Float[Array, "*batch k n"]


def svd(
    matrix: Float[ArrayLike, "*batch m n"],
    *,
    method: str = "auto",
    broadening: float | None = None,
) -> Svd:
    r"""Computes thin singular value decompositions.

    **Arguments:**

    - `matrix`: real, of any rank. Half precision is computed in `float32`.
    - `method`: `"jacobi"`, one-sided, all matrices of the batch in step; `"lapack"`,
        which is `jnp.linalg.svd`; or `"auto"`: Jacobi where the shorter side is at most
        8, the longer one at most 16, and 64 matrices or more are to do, counting those
        that `jax.vmap` adds; and else LAPACK.
    - `broadening`: what makes singular vectors differentiable, see below: at least 0, or
        `None`.

    **Returns:**

    [`jaxla.factor.Svd`][], in the dtype of `matrix`. Of singular values that are zero,
    the vectors are orthonormal to the others as well. A matrix with a non-finite entry
    has NaN everywhere, and touches no other of its batch.

    **Cost:** on one core, for a thousand 4x4 matrices about an eighth of the time of
    `jnp.linalg.svd`, two fifths at 8x8.

    **Accuracy:** residual and departure from orthogonality are of the order of
    `n * eps`. With `"jacobi"` and $m \ge n$, each singular value has a relative error of
    about `eps` times the condition of the matrix with its columns scaled to norm 1.

    **Differentiation:** refused by default, with a `NotImplementedError`, as singular
    vectors have no derivative where singular values are repeated, or zero. With
    `broadening` $b$, both modes, once, by the usual formula, in which
    $g / (g^2 + (b \max s)^2)$ stands for $1 / g$, and 0 for 1 / 0; $g$ is a difference
    of singular values, their sum, or one of them. What this is good for is said at
    [`jaxla.factor.eigh`][]. A second derivative raises `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> jaxla.factor.svd(jnp.array([[0.0, 2.0], [3.0, 0.0]])).s
        Array([3., 2.], dtype=float32)

    ??? cite "Reference"

        Demmel, Veselić, *Jacobi's method is more accurate than QR*, SIAM J. Matrix Anal.
        Appl. 13, 1992; Townsend, *Differentiating the singular value decomposition*,
        2016.
    """
    matrix = as_real_matrix("matrix", matrix)
    check_choice("method", method, ("auto", "jacobi", "lapack"))
    check_broadening(broadening)
    a = matrix.astype(compute_dtype(matrix.dtype))
    tall = a.shape[-2] >= a.shape[-1]
    a = a if tall else a.mT
    decompose = _METHODS[method]
    if broadening is None:
        u, s, vt = refuse_derivative(decompose, _NO_DERIVATIVE)(a)
    else:
        u, s, vt = _broadened(decompose, float(broadening), a)
    u, vt = (u, vt) if tall else (vt.mT, u.mT)
    return Svd(*(x.astype(matrix.dtype) for x in (u, s, vt)))


_NO_DERIVATIVE = (
    "`svd` has no derivative: singular vectors of repeated or zero singular values have "
    "none. For functions of a matrix use those of `jaxla.matfun`; or give `broadening`."
)

# From where on it is faster than LAPACK on CPU: see benchmarks/small_eigh.py.
_JACOBI_COLUMNS, _JACOBI_ROWS, _JACOBI_BATCH = 8, 16, 64


def _decompose(method: str, a: Array) -> tuple[Array, Array, Array]:
    m, n = a.shape[-2:]
    if method == "auto":
        few = n <= _JACOBI_COLUMNS and m <= _JACOBI_ROWS
        many = a.size >= _JACOBI_BATCH * m * n
        method = "jacobi" if few and many else "lapack"
    usable, unit = finiteness_and_unit(a)
    a = jnp.where(usable, a * (1 / unit), 0)
    if method == "lapack" or a.size == 0:
        u, s, vt = jnp.linalg.svd(a, full_matrices=False)
    else:
        u, s, vt = batch_last(_jacobi, a)
    u, vt = (jnp.where(usable, x, jnp.nan) for x in (u, vt))
    return u, jnp.where(usable[..., 0], s * unit[..., 0], jnp.nan), vt


def _jacobi(a: Array) -> tuple[Array, Array, Array]:
    """Of a matrix with the batch last, and no more columns than rows."""
    n = a.shape[1]
    x = jax.lax.optimization_barrier(a.swapaxes(0, 1))
    v = 0 * x[:, :1] + jnp.eye(n, dtype=a.dtype)[:, :, None]
    x, v = orthogonalize(x, v)
    s = column_norms(x)
    order = ranking(-s)
    x, s, v = (permute(y, order) for y in (x, s, v))
    return directions(x, s).swapaxes(0, 1), s, v


_METHODS = {
    method: native_vmap(jax.jit(functools.partial(_decompose, method)))
    for method in ("auto", "jacobi", "lapack")
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _broadened(decompose: Callable, broadening: float, a: Array):
    return decompose(a)


@_broadened.defjvp
def _broadened_jvp(decompose: Callable, broadening: float, primals, tangents):
    (a,), (da,) = primals, tangents
    once = refuse_derivative(
        decompose, "`svd` can be differentiated once only, and that with `broadening`."
    )
    u, s, vt = once(a)
    eps = broadening * s.max(-1, initial=0)[..., None, None]
    left, right = s[..., :, None], s[..., None, :]
    f = broadened_inverse(right - left, eps) * broadened_inverse(right + left, eps)
    av, ua = matmul(da, vt.mT), matmul(u.mT, da)
    p = matmul(ua, vt.mT)
    inverse = broadened_inverse(right, eps)
    du = matmul(u, f * (p * right + left * p.mT)) + (av - matmul(u, p)) * inverse
    dvt = matmul((f * (left * p + p.mT * right)).mT, vt)
    dvt = dvt + inverse.mT * (ua - matmul(p, vt))
    return (u, s, vt), (du, jnp.diagonal(p, axis1=-2, axis2=-1), dvt)

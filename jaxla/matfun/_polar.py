r"""The polar decomposition $A = U H$ from products, and its derivative.

$X_{k+1} = X_k\, t_k(X_k^\top X_k)$ with the quadratics $t_k$ that are best for the
interval in which the singular values lie by then (`_minimax.py`). How many of them a
matrix needs is found out by Cholesky factorizations, which a shift beyond the smallest
eigenvalue of $A^\top A$ makes fail.

$$\mathrm{d}U = U \Omega + (I - U U^\top)\, \mathrm{d}A\, H^{-1}, \qquad
H \Omega + \Omega H = U^\top \mathrm{d}A - \mathrm{d}A^\top U$$

has no difference of singular values in it, and is finite at orthogonal matrices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, finiteness_and_unit, matmul
from jaxla._errors import as_real_matrix
from jaxla.factor import eigh

from ._minimax import inverse_root_stages


class Polar(NamedTuple):
    r"""A polar decomposition $A = U H$, and what speaks for it.

    - `unitary`: $U$, of the shape of $A$, with orthonormal columns (or rows, if
        $A$ is wide).
    - `hermitian`: $H = \mathrm{sym}(U^\top A)$, positive semi-definite.
    - `residual`: the largest entry of $|U^\top U - I|$ (of $|U U^\top - I|$ if
        $A$ is wide); infinite where an entry of $A$ is not finite.
    """

    unitary: Float[Array, "*batch m n"]
    hermitian: Float[Array, "*batch n n"]
    residual: Float[Array, "*batch"]


def polar(matrix: Float[ArrayLike, "*batch m n"]) -> Polar:
    r"""Computes the polar decomposition $A = U H$ by composed minimax polynomials.

    **Arguments:**

    - `matrix`: real, of any shape. Half-precision input is computed in `float32`.

    **Returns:**

    [`jaxla.matfun.Polar`][]. Singular values below `1e-6` of the largest (`1e-12` in
    `float64`) are not raised to 1, and the residual says so: of a rank-deficient matrix
    $U$ is the partial isometry, and in its kernel what rounding errors left, raised. A
    matrix with a non-finite entry has zeros and an infinite residual, and touches no
    other of its batch.

    **Cost:** for an $m \times n$ matrix, $m \ge n$, steps of $4 m n^2 + 2 n^3$ flops:
    in `float32` 4 for singular values within a factor of 10, 8 for 1e3, 13 for 1e6;
    and 2 to 10 Cholesky factorizations of $n \times n$ matrices to find out. The
    hardest matrix of a batch decides.

    **Accuracy:** that of the singular value decomposition, see
    `benchmarks/results/polar.md`.

    **Differentiation:** both modes and every order; finite at orthogonal matrices,
    where that of an SVD is not. At a rank-deficient matrix it is the derivative for
    changes that keep the rank, and zero where that says nothing.

    !!! example

        >>> import jax.numpy as jnp
        >>> u, h, residual = jaxla.matfun.polar(jnp.array([[0.0, 2.0], [1.0, 0.0]]))
        >>> print(u.round(3))
        [[0. 1.]
         [1. 0.]]

    ??? cite "Reference"

        Higham, *Functions of Matrices*, SIAM 2008, Chapter 8; Amsel, Persson, Musco
        and Gower, *The Polar Express*, 2025.
    """
    matrix = as_real_matrix("matrix", matrix)
    a = matrix.astype(compute_dtype(matrix.dtype))
    wide = a.shape[-2] < a.shape[-1]
    usable, unit = finiteness_and_unit(a)
    scaled = jnp.where(usable, a, 0) / unit
    u = _unitary_factor(scaled.mT if wide else scaled)
    gram = matmul(u.mT, u)
    eye = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    residual = jnp.abs(jax.lax.stop_gradient(gram) - eye).max((-2, -1), initial=0)
    residual = jnp.where(usable[..., 0, 0], residual, jnp.inf)
    u = u.mT if wide else u
    h = matmul(u.mT, scaled) * unit
    dtype = matrix.dtype
    return Polar(u.astype(dtype), ((h + h.mT) / 2).astype(dtype), residual)


@jax.custom_jvp
def _unitary_factor(a: Array) -> Array:
    """$U$ of a matrix with at least as many rows as columns, and entries up to 1."""
    single = a.dtype == jnp.float32
    # Floors at which the last stage just reaches the tolerance, for any start.
    floor, tolerance = (4e-13, 2e-7) if single else (1.3e-25, 1e-14)
    rows, intervals, _ = inverse_root_stages(2, floor, tolerance)
    last, table = len(rows) - 1, jnp.array(rows, a.dtype)
    ratios = [low / high for low, high in intervals]
    highs = jnp.array([high for _, high in intervals], a.dtype)
    # Of smaller ratios, a factorization says nothing but its rounding errors.
    noise = 10 * a.shape[-1] ** 0.5 * float(jnp.finfo(a.dtype).eps)
    seen = sum(ratio < noise for ratio in ratios)

    def powers(x):
        gram = matmul(x.mT, x)
        return gram, matmul(gram, gram)

    def apply(k, x, gram, square):
        poly = table[k, 1] * gram + table[k, 2] * square
        return table[k, 0] * x + matmul(x, poly)

    def step(state):
        k, x, gram, square = state
        x = apply(k, x, gram, square)
        gram, square = powers(x)
        # The last stage left some eigenvalue too small for stage `seen`, and this one
        # raised it by one stage only: no later one can serve.
        k = k + 1
        is_seen = lambda: _exceeds(gram / highs[k], ratios[seen])
        k = jax.lax.cond(k < seen, lambda: jnp.where(is_seen(), seen, k), lambda: k)
        return k, x, gram, square

    gram, square = powers(a)
    largest = jnp.sqrt(jnp.sqrt(jnp.sum(square * square, (-2, -1), keepdims=True)))
    largest = jnp.where(largest > 0, largest, 1)
    k = _first_stage(gram / largest, ratios, seen)
    scale = highs[k] / largest
    state = k, a * jnp.sqrt(scale), gram * scale, square * scale**2
    # No derivative goes through the loop: it may depend on values.
    state = jax.lax.while_loop(lambda state: state[0] < last, step, state)
    return apply(last, *state[1:])


def _first_stage(gram: Array, ratios: list[float], seen: int) -> Array:
    """The last stage that serves all of the batch, or 0 if that is before `seen`.

    Gram matrices have eigenvalues up to 1.
    """
    table = jnp.array(ratios, gram.dtype)
    is_too_late = lambda k: (k >= seen) & ~_exceeds(gram, table[k])
    # No smallest eigenvalue is above a diagonal entry.
    diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1).min(initial=1)
    last = jnp.sum(table <= diagonal) - 1
    k = jax.lax.while_loop(is_too_late, lambda k: k - 1, last)
    return jnp.where(k < seen, 0, k)


def _exceeds(gram: Array, ratio: ArrayLike) -> Array:
    """Whether all eigenvalues do: if so, there is a Cholesky factor of the rest."""
    rest = gram - ratio * jnp.eye(gram.shape[-1], dtype=gram.dtype)
    return jnp.isfinite(jnp.linalg.cholesky(rest, symmetrize_input=False)).all()


@_unitary_factor.defjvp
def _unitary_factor_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    u = _unitary_factor(a)
    uta = matmul(u.mT, a)
    h = (uta + uta.mT) / 2
    w, v = eigh(jax.lax.stop_gradient(h))
    least = h.shape[-1] * jnp.finfo(a.dtype).eps * w.max(-1, keepdims=True, initial=0)
    inverse = _reciprocal(w, least)
    kernel = _reciprocal(w[..., :, None] + w[..., None, :], least[..., None])

    def lyapunov(_, r):
        return matmul(v, matmul(kernel * matmul(v.mT, matmul(r, v)), v.mT))

    def divide(_, r):
        return matmul(matmul(r, v) * inverse[..., None, :], v.mT)

    utda = matmul(u.mT, da)
    omega = jax.lax.custom_linear_solve(
        lambda y: matmul(h, y) + matmul(y, h), utda - utda.mT, lyapunov, symmetric=True
    )
    outside = jax.lax.custom_linear_solve(
        lambda y: matmul(y, h), da - matmul(u, utda), divide, symmetric=True
    )
    return u, matmul(u, omega) + outside


def _reciprocal(x: Array, least: Array) -> Array:
    return jnp.where(x > least, 1 / jnp.where(x > least, x, 1), 0)

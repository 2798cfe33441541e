r"""One-sided Jacobi: rotates the columns of a matrix until they are orthogonal.

What results is $A V = U \Sigma$ (Hestenes, *J. SIAM* 1958). Columns are orthogonal
relative to their own norms, however different these are, and so small singular values
of a matrix of scaled columns keep their digits (Demmel, Veselić, *SIAM J. Matrix Anal.
Appl.* 1992). Arrays have the batch last; columns are in the first axis.
"""

import jax
import jax.numpy as jnp
from jax import Array

from ._jacobi import MAX_SWEEPS, rotation, rounds_of_a_sweep, turn_rows


def orthogonalize(x: Array, *others: Array) -> tuple[Array, ...]:
    """Rotates the columns `x[i]`, of entries of at most about 1, and alike `others[i]`.

    A matrix that has converged is left as it is.
    """
    n, m = x.shape[:2]
    if n < 2 or x.size == 0:
        return (x, *others)
    h = n // 2
    rounding = jnp.finfo(x.dtype).eps * m**0.5

    def turn(state, _):
        arrays, floor, worst = state
        e, f = arrays[0][:h], arrays[0][h : 2 * h]
        a, b, o = (e * e).sum(1), (f * f).sum(1), (e * f).sum(1)
        norms = jnp.sqrt(a) * jnp.sqrt(b)
        cosine = jnp.abs(o) / jnp.where(norms == 0, 1, norms)
        o = jnp.where(cosine > floor[None], o, 0)
        c, s = jax.lax.optimization_barrier(rotation(a, b, o))
        arrays = tuple(turn_rows(y, c, s) for y in arrays)
        return (arrays, floor, jnp.maximum(worst, cosine.max(0))), None

    def sweep(state):
        arrays, active, count = state
        floor = jnp.where(active, rounding / 2, jnp.inf)
        start = arrays, floor, 0 * floor0
        (arrays, _, worst), _ = jax.lax.scan(turn, start, length=rounds_of_a_sweep(n))
        return arrays, active & (worst > 8 * rounding), count + 1

    floor0 = 0 * x[0, 0]
    go_on = lambda state: state[1].any() & (state[2] < MAX_SWEEPS)
    state = (x, *others), floor0 == 0, 0
    return jax.lax.while_loop(go_on, sweep, state)[0]


def column_norms(x: Array) -> Array:
    """The norms of the columns `x[i]`; zero where their squares would underflow."""
    info = jnp.finfo(x.dtype)
    squares = (x * x).sum(1)
    zero = squares <= info.tiny / info.eps
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def directions(x: Array, norms: Array) -> Array:
    """Orthonormal vectors along the orthogonal columns `x[i]`.

    Those of columns with a norm of zero are any that are orthonormal to the others.
    """
    zero = norms == 0
    u = jnp.where(zero[:, None], 0, x / jnp.where(zero, 1, norms)[:, None])
    return jax.lax.cond(zero.any(), _complete, lambda u, _: u, u, zero)


def _complete(u: Array, missing: Array) -> Array:
    """Puts orthonormal vectors in the place of zeros, by Gram-Schmidt on unit vectors."""
    n, m = u.shape[:2]

    def add(j, u):
        # The unit vector that is farthest from the span of what is there.
        left = 1 - (u * u).sum(0)
        y = (jnp.arange(m)[:, None] == jnp.argmax(left, 0)[None]).astype(u.dtype)
        for _ in range(2):
            y = y - (u * (u * y[None]).sum(1, keepdims=True)).sum(0)
        square = (y * y).sum(0, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.where(square == 0, 1, square))
        here = missing & (jnp.arange(n) == j)[:, None]
        return jnp.where(here[:, None], y[None], u)

    return jax.lax.fori_loop(0, n, add, u)

r"""Jacobi's method for batches of small symmetric matrices.

Arrays have the batch last, `(n, n, batch)`: each operation then runs over the whole
batch in one vectorized loop. In a round all rows are paired, (i, i + h), rotated, and
moved by one permutation, the same in all rounds, after which other rows are paired; a
sweep lets every two rows meet once (Brent, Luk, *SIAM J. Sci. Stat. Comput.* 1985).

With repeated eigenvalues, plain sweeps converge linearly only: rotations among the
columns of one eigenvalue, of any angle for the slightest entry, undo what others
annihilated. So entries far below others of their round wait (cf. van Kempen, *Numer.
Math.* 1966).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


# Far more than are needed: 4 to 7 in float32 and 5 to 9 in float64 for n <= 10.
MAX_SWEEPS = 24
# An entry below this part of the largest of its round waits for a later sweep.
WAIT = 1e-4


def eigh_jacobi(a: Array) -> tuple[Array, Array]:
    """Eigenvalues `(n, batch)`, ascending, and vectors `[row, column, batch]`.

    Entries must be finite, and of at most about 1. A matrix that has converged is left
    as it is, so that no other of its batch has an influence on it.
    """
    n = len(a)
    others = (1 - jnp.eye(n, dtype=a.dtype))[:, :, None]
    rounding = jnp.finfo(a.dtype).eps * jnp.sqrt((a * a).sum((0, 1)))

    def sweep(state):
        x, v, active, count = state
        floor = jnp.where(active, rounding / 2, jnp.inf)
        x, v = _turn((x, v), floor, WAIT, rounds_of_a_sweep(n))
        return x, v, is_active(x), count + 1

    def is_active(x):
        return jnp.abs(x * others).max((0, 1)) > 2 * rounding

    first = usual_sweeps(n, a.dtype)
    identity = 0 * a + jnp.eye(n, dtype=a.dtype)[:, :, None]
    x, v = _turn((a, identity), rounding / 2, None, first * rounds_of_a_sweep(n))
    go_on = lambda state: state[2].any() & (state[3] < MAX_SWEEPS)
    x, v, _, _ = jax.lax.while_loop(go_on, sweep, (x, v, is_active(x), first))
    w = x[np.arange(n), np.arange(n)]
    order = ranking(w)
    return permute(w, order), permute(v, order).swapaxes(0, 1)


def usual_sweeps(n: int, dtype) -> int:
    """After how many sweeps most matrices have converged."""
    return 4 + (n > 4) + (n > 12) + (jnp.finfo(dtype).bits > 32)


def rotation(a: Array, b: Array, o: Array) -> tuple[Array, Array]:
    """The cosine and sine of the angle that makes `[[a, o], [o, b]]` diagonal.

    Of rows e and f it makes c e - s f and s e + c f. It is of 45 degrees at most, and the
    new diagonal entries are a - (s / c) o and b + (s / c) o.
    """
    zero = o == 0
    theta = (b - a) / jnp.where(zero, 1, 2 * o)
    # Beyond, 1 + theta^2 would overflow, where the tangent is 1 / (2 theta).
    large = jnp.finfo(a.dtype).max ** 0.5 / 2
    root = jnp.sqrt(1 + jnp.minimum(jnp.abs(theta), large) ** 2)
    t = 1 / (jnp.abs(theta) + jnp.maximum(root, jnp.abs(theta)))
    t = jnp.where(zero, 0, jnp.where(theta < 0, -t, t))
    c = jax.lax.rsqrt(1 + t * t)
    return c, t * c


def turn_rows(x: Array, c: Array, s: Array) -> Array:
    """Rotates the rows of each pair, and moves them to their places in the next round."""
    h = x.shape[0] // 2
    c, s = c[:, None], s[:, None]
    e, f, single = x[:h], x[h : 2 * h], x[2 * h :]
    return jnp.concatenate([c * e - s * f, s * e + c * f, single])[_moves(len(x))]


def ranking(w: Array) -> Array:
    """What `argsort` over the first axis gives; faster for short columns on CPU."""
    n = len(w)
    i = jnp.arange(n)[:, None]

    def count(j, rank):
        other = jax.lax.dynamic_slice_in_dim(w, j, 1)
        return jnp.where((other < w) | ((other == w) & (j < i)), rank + 1, rank)

    rank = jax.lax.fori_loop(0, n, count, (0 * w).astype(int))
    at = lambda j: jax.lax.dynamic_slice_in_dim(rank, j, 1)
    find = lambda j, order: jnp.where(at(j) == i, j, order)
    return jax.lax.fori_loop(0, n, find, 0 * rank)


def permute(x: Array, order: Array) -> Array:
    """`x[order]`, for each member of the batch its own."""
    order = order.reshape(order.shape[:1] + (1,) * (x.ndim - 2) + order.shape[1:])
    return jnp.take_along_axis(x, order, 0, mode="promise_in_bounds")


def _turn(xv: tuple[Array, Array], floor: Array, wait: float | None, rounds: int):
    """Rounds on symmetric matrices and on the eigenvectors, which are rows of `v`."""
    n = len(xv[0])
    h, every = n // 2, np.arange(n)

    def turn(xv, _):
        x, v = xv
        d, o = x[every, every], x[every[:h], every[:h] + h]
        size = jnp.abs(o)
        least = floor if wait is None else jnp.maximum(floor, wait * size.max(0))
        o = jnp.where(size > least[None], o, 0)
        # Barriers, or XLA computes the angles once for each entry that they turn.
        c, s = jax.lax.optimization_barrier(rotation(d[:h], d[h : 2 * h], o))
        x = jax.lax.optimization_barrier(turn_rows(x, c, s))
        return (turn_rows(x.swapaxes(0, 1), c, s), turn_rows(v, c, s)), None

    # Of two rounds in one, XLA copies less.
    return jax.lax.scan(turn, xv, length=rounds, unroll=1 + (rounds > n))[0]


def rounds_of_a_sweep(n: int) -> int:
    """How many rounds make a sweep, after which all rows are where they were."""
    return n - 1 + n % 2


def _moves(n: int) -> np.ndarray:
    """Which row comes to each place for the next round: `new = old[moves]`.

    The circle method. Of an even number the first stays and the others go around; of an
    odd number all go around, and the last place is the one without a partner.
    """
    h = n // 2
    if n % 2:
        circle = [*range(1, h + 1), *range(n - 1, h, -1), 0]
        place = np.argsort(circle)
        return place[(np.array(circle) + 1) % n]
    top, bottom = list(range(h)), list(range(h, n))
    if h < 2:
        return np.arange(n)
    return np.array([top[0], bottom[0], *top[1:-1], *bottom[1:], top[-1]])

r"""Closed forms for the eigenproblems of symmetric 2x2 and 3x3 matrices.

Arrays have the batch last, `(n, n, batch)`, and entries of at most 1. The 3x3 form takes
the eigenvalue that lies apart from the other two by the cosine formula, its eigenvector
as a cross product, and what is left by Jacobi rotations (Eberly, *A robust eigensolver
for 3x3 symmetric matrices*, Geometric Tools 2014), so that close eigenvalues need no care.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxla._dtypes import next_power_of_two, safe_sqrt

from ._jacobi import rotation


def eigh_closed(a: Array) -> tuple[Array, Array]:
    """Eigenvalues `(n, batch)`, ascending, and vectors `[row, column, batch]`, n <= 3."""
    n = len(a)
    if n < 2:
        return a.reshape(a.shape[1:]), 0 * a + 1
    w, columns = _eigh_2x2(a) if n == 2 else _eigh_3x3(a)
    for i, j in ((0, 1), (1, 2), (0, 1))[: 1 if n == 2 else 3]:
        _put_in_order(w, columns, i, j)
    return jnp.concatenate(w), jnp.stack(columns, 1)


def _eigh_2x2(m: Array) -> tuple[list[Array], list[Array]]:
    """No difference of close numbers: the eigenvalue next to zero is from the determinant."""
    a, b, c = m[0, :1], m[0, 1:], m[1, 1:]
    half, radius = (a + c) / 2, _hypot((a - c) / 2, b)
    far = jnp.where(half < 0, half - radius, half + radius)
    # det / far, with quotients first, which cannot underflow.
    safe = jnp.where(far == 0, 1, far)
    near = (a / safe) * c - (b / safe) * b
    low, high = jnp.minimum(far, near), jnp.maximum(far, near)
    cos, sin = rotation(a, c, b)
    # Of equal diagonal entries, the rotation takes `a - b` for the first eigenvalue.
    falls = (a > c) | ((a == c) & (b < 0))
    w = [jnp.where(falls, high, low), jnp.where(falls, low, high)]
    return w, [jnp.concatenate([cos, -sin]), jnp.concatenate([sin, cos])]


def _eigh_3x3(a: Array) -> tuple[list[Array], list[Array]]:
    eye = jnp.eye(3, dtype=a.dtype)[:, :, None]
    mean = (a[0, :1] + a[1, 1:2] + a[2, 2:]) / 3
    d = a - mean[None] * eye
    unit = next_power_of_two(jnp.abs(d).max((0, 1)))[None]
    d = d / unit[None]
    size = safe_sqrt((d * d).sum((0, 1)) / 6)[None]
    cube = jnp.where(size == 0, 1, 2 * size**3)
    half_det = jnp.clip(_dot(d[0], _cross(d[1], d[2])) / cube, -1, 1)
    apart = 2 * size * jnp.cos(jnp.arccos(jnp.abs(half_det)) / 3)
    apart = jnp.where(half_det < 0, -apart, apart)
    w, q = _rotate(d, _frame(_null_vector(d - apart[None] * eye)))
    return [x * unit + mean for x in w], q


def _rotate(d: Array, q: list[Array]) -> tuple[list[Array], list[Array]]:
    """One sweep of rotations, in the basis `q`, of which the first is an eigenvector."""
    g = [(d * x[None]).sum(1) for x in q]
    w = [_dot(x, y) for x, y in zip(g, q, strict=True)]
    off = {(i, j): _dot(g[i], q[j]) for i, j in _PAIRS}
    # The first two are through angles of the order of eps.
    for i, j in _PAIRS:
        k = 3 - i - j
        c, s = rotation(w[i], w[j], off[i, j])
        shift = s / c * off[i, j]
        w[i], w[j] = w[i] - shift, w[j] + shift
        ik, jk = (min(i, k), max(i, k)), (min(j, k), max(j, k))
        off[ik], off[jk] = c * off[ik] - s * off[jk], s * off[ik] + c * off[jk]
        q[i], q[j] = c * q[i] - s * q[j], s * q[i] + c * q[j]
    return w, q


_PAIRS = ((0, 1), (0, 2), (1, 2))


def _null_vector(m: Array) -> Array:
    """The unit vector in the kernel of a matrix of rank two, as a cross product of rows."""
    x, y, z = _cross(m[0], m[1]), _cross(m[1], m[2]), _cross(m[2], m[0])
    xx, yy, zz = _dot(x, x), _dot(y, y), _dot(z, z)
    best = jnp.where(yy >= zz, y, z)
    best = jnp.where(xx >= jnp.maximum(yy, zz), x, best)
    square = _dot(best, best)
    first = jnp.eye(3, dtype=m.dtype)[0][:, None]
    best = jnp.where(square == 0, first, best)
    return best * jax.lax.rsqrt(jnp.where(square == 0, 1, square))


def _frame(w: Array) -> list[Array]:
    """Three orthonormal vectors, of which the first is `w`."""
    x, y, z = w[:1], w[1:2], w[2:]
    zero = 0 * x
    u = jnp.concatenate([-z, zero, x])
    u = jnp.where(jnp.abs(x) > jnp.abs(y), u, jnp.concatenate([zero, z, -y]))
    u = u * jax.lax.rsqrt(_dot(u, u))
    return [w, u, _cross(w, u)]


def _cross(x: Array, y: Array) -> Array:
    return jnp.stack([
        x[1] * y[2] - x[2] * y[1],
        x[2] * y[0] - x[0] * y[2],
        x[0] * y[1] - x[1] * y[0],
    ])  # fmt: skip


def _dot(x: Array, y: Array) -> Array:
    return (x * y).sum(0, keepdims=True)


def _hypot(x: Array, y: Array) -> Array:
    """`sqrt(x^2 + y^2)` without underflow."""
    large = jnp.maximum(jnp.abs(x), jnp.abs(y))
    ratio = jnp.minimum(jnp.abs(x), jnp.abs(y)) / jnp.where(large == 0, 1, large)
    return large * jnp.sqrt(1 + ratio * ratio)


def _put_in_order(w: list[Array], columns: list[Array], i: int, j: int) -> None:
    """Exchanges two eigenpairs where they are not in ascending order."""
    swap = w[i] > w[j]
    for x in (w, columns):
        x[i], x[j] = jnp.where(swap, x[j], x[i]), jnp.where(swap, x[i], x[j])

r"""Closed forms for the eigenproblems of symmetric 2x2 and 3x3 matrices.

Arrays have the batch last, `(n, n, batch)`, and entries of at most 1. The 3x3 form takes
the eigenvalue that lies apart from the other two as a root of the cubic, its eigenvector
as a cross product, and what is left by Jacobi rotations (Eberly, *A robust eigensolver
for 3x3 symmetric matrices*, 2014), so that close eigenvalues need no care. All is written
in vectors over the batch, and without reductions, of which XLA fuses fewer.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxla._dtypes import safe_sqrt

from ._jacobi import rotation


def eigh_closed(a: Array) -> tuple[Array, Array]:
    """Eigenvalues `(n, batch)`, ascending, and vectors `[row, column, batch]`, n <= 3."""
    n = len(a)
    if n < 2:
        return a.reshape(a.shape[1:]), 0 * a + 1
    w, columns = _eigh_2x2(a) if n == 2 else _eigh_3x3(a)
    for i, j in ((0, 1), (1, 2), (0, 1))[: 1 if n == 2 else 3]:
        _put_in_order(w, columns, i, j)
    rows = [jnp.stack(row) for row in zip(*columns, strict=True)]
    return jnp.stack(w), jnp.stack(rows)


_Vector = tuple[Array, ...]


def _eigh_2x2(m: Array) -> tuple[list[Array], list[_Vector]]:
    """The eigenvalue nearer to zero is from the determinant: no cancellation."""
    a, b, c = m[0, 0], m[0, 1], m[1, 1]
    half, difference = (a + c) / 2, (a - c) / 2
    radius = jnp.sqrt(difference * difference + b * b)
    far = jnp.where(half < 0, half - radius, half + radius)
    near = (a * c - b * b) / jnp.where(far == 0, 1, far)
    low, high = jnp.minimum(far, near), jnp.maximum(far, near)
    cos, sin = rotation(a, c, b)
    # Of equal diagonal entries, the rotation takes `a - b` for the first eigenvalue.
    falls = (a > c) | ((a == c) & (b < 0))
    w = [jnp.where(falls, high, low), jnp.where(falls, low, high)]
    return w, [(cos, -sin), (sin, cos)]


def _eigh_3x3(a: Array) -> tuple[list[Array], list[_Vector]]:
    mean = (a[0, 0] + a[1, 1] + a[2, 2]) / 3
    x, y, z = (a[i, i] - mean for i in range(3))
    xy, xz, yz = a[0, 1], a[0, 2], a[1, 2]
    size = safe_sqrt((x * x + y * y + z * z) / 6 + (xy * xy + xz * xz + yz * yz) / 3)
    inverse = 1 / jnp.where(size == 0, 1, size)
    x, y, z, xy, xz, yz = (entry * inverse for entry in (x, y, z, xy, xz, yz))
    # The eigenvalues are 2 cos(phi + 2 pi k / 3), and det = 2 cos(3 phi).
    det = _dot((x, xy, xz), _cross((xy, y, yz), (xz, yz, z)))
    apart = jnp.where(det < 0, -1, 1).astype(det.dtype) * _largest_root(jnp.abs(det) / 2)
    d = (x, xy, xz), (xy, y, yz), (xz, yz, z)
    shifted = (x - apart, xy, xz), (xy, y - apart, yz), (xz, yz, z - apart)
    w, q = _rotate(d, _frame(_null_vector(*shifted)))
    return [value * size + mean for value in w], q


def _largest_root(h: Array) -> Array:
    """`2 cos(arccos(h) / 3)` for h from 0 to 1, with an error of 1e-10."""
    h = jnp.minimum(h, 1)
    # Interpolated at the Chebyshev points, with an error of 1e-5; then a Newton step.
    x = (((-0.0080708 * h + 0.03502438) * h - 0.09184387) * h + 0.33282344) * h
    x = x + 1.73206086
    return x - (x * (x * x - 3) - 2 * h) / (3 * (x * x - 1))


def _rotate(d, q: list[_Vector]) -> tuple[list[Array], list[_Vector]]:
    """One sweep of rotations, in the basis `q`, of which the first is an eigenvector."""
    g = [tuple(_dot(row, x) for row in d) for x in q]
    w = [_dot(x, y) for x, y in zip(g, q, strict=True)]
    off = {(i, j): _dot(g[i], q[j]) for i, j in _PAIRS}
    # The first one leaves the second and third to angles of the order of rounding errors.
    for i, j in _PAIRS:
        k = 3 - i - j
        c, s = rotation(w[i], w[j], off[i, j])
        shift = s / c * off[i, j]
        w[i], w[j], off[i, j] = w[i] - shift, w[j] + shift, 0 * shift
        ik, jk = (min(i, k), max(i, k)), (min(j, k), max(j, k))
        off[ik], off[jk] = c * off[ik] - s * off[jk], s * off[ik] + c * off[jk]
        e, f = q[i], q[j]
        q[i] = tuple(c * x - s * y for x, y in zip(e, f, strict=True))
        q[j] = tuple(s * x + c * y for x, y in zip(e, f, strict=True))
    return w, q


_PAIRS = ((1, 2), (0, 1), (0, 2))


def _null_vector(x: _Vector, y: _Vector, z: _Vector) -> _Vector:
    """The unit vector that is orthogonal to three others, which span a plane."""
    best = _cross(x, y)
    square = _dot(best, best)
    for other in (_cross(y, z), _cross(z, x)):
        longer = (norm := _dot(other, other)) > square
        square = jnp.where(longer, norm, square)
        best = tuple(
            jnp.where(longer, new, old) for new, old in zip(other, best, strict=True)
        )
    none = square == 0
    inverse = jax.lax.rsqrt(jnp.where(none, 1, square))
    first, *rest = (entry * inverse for entry in best)
    return (jnp.where(none, 1, first), *rest)


def _frame(w: _Vector) -> list[_Vector]:
    """Three orthonormal vectors, of which the first is `w`."""
    x, y, z = w
    wide = jnp.abs(x) > jnp.abs(y)
    inverse = jax.lax.rsqrt(jnp.where(wide, x * x, y * y) + z * z)
    u = jnp.where(wide, -z, 0), jnp.where(wide, 0, z), jnp.where(wide, x, -y)
    u = tuple(entry * inverse for entry in u)
    return [w, u, _cross(w, u)]


def _cross(x: _Vector, y: _Vector) -> _Vector:
    return (
        x[1] * y[2] - x[2] * y[1],
        x[2] * y[0] - x[0] * y[2],
        x[0] * y[1] - x[1] * y[0],
    )


def _dot(x: _Vector, y: _Vector) -> Array:
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]


def _put_in_order(w: list[Array], columns: list[_Vector], i: int, j: int) -> None:
    """Exchanges two eigenpairs where they are not in ascending order."""
    swap = w[i] > w[j]
    w[i], w[j] = jnp.minimum(w[i], w[j]), jnp.maximum(w[i], w[j])
    pairs = list(zip(columns[i], columns[j], strict=True))
    columns[i] = tuple(jnp.where(swap, f, e) for e, f in pairs)
    columns[j] = tuple(jnp.where(swap, e, f) for e, f in pairs)

r"""Maps of eigenvalues or singular values as maps of matrices, with derivatives.

A map $g$ of vectors that commutes with permutations makes one of symmetric matrices,
$V \mathrm{diag}(w) V^\top \mapsto V \mathrm{diag}(g(w)) V^\top$; one that commutes
with signs too makes one of rectangular matrices. Here
$g(w)_i = h(w_i; \theta(w))$: a few scalars $\theta$ depend on all entries, then
one function maps each. Off the diagonal the derivative is
$h[w_i, w_j] (V^\top E V)_{ij}$ with the divided differences of $h$, on it the
derivative of $g$: Lewis and Sendov, SIAM J. Matrix Anal. Appl. 23 (2001); Ding, Sun,
Sun and Toh, Math. Program. 168 (2018).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxla._dtypes import compute_dtype, matmul, next_power_of_two
from jaxla._errors import as_real_matrix, as_square_matrix, refuse_derivative
from jaxla.factor import eigh, svd


class VectorMap(NamedTuple):
    """A map of vectors, and of scalars that go with them.

    - `solve`: from scalars and a vector `w` to scalars and the parameters `theta`; with
        a derivative.
    - `entry`: `h(w, *theta)` for each entry; with a derivative.
    - `divided`: `(h(a) - h(b)) / (a - b)` as a function of `a`, `b`, `*theta`.
    """

    solve: Callable[..., tuple[tuple[Array, ...], tuple[Array, ...]]]
    entry: Callable[..., Array]
    divided: Callable[..., Array]

    def __call__(self, scalars: tuple[Array, ...], w: Array):
        """The scalars and the vector that come out, and the parameters."""
        out, theta = self.solve(scalars, w)
        return out, self.entry(w, *(p[..., None] for p in theta)), theta


def map_spectrum(
    vector_map: VectorMap,
    name: str,
    x: Any,
    scalars: Mapping[str, Any],
    *,
    symmetric: bool,
    degree: int | None = 1,
) -> tuple[tuple[Array, ...], Array]:
    """`vector_map` of eigenvalues or singular values, with checks, scaled to order one.

    `name` is the function that messages speak of; `scalars` have names. They grow like
    the power `degree` of the matrix; with `None` nothing is scaled.
    """
    x = as_square_matrix("x", x) if symmetric else as_real_matrix("x", x)
    dtype = compute_dtype(x.dtype)
    values = [_as_scalars(key, value, x).astype(dtype) for key, value in scalars.items()]
    batch = jnp.broadcast_shapes(x.shape[:-2], *(s.shape for s in values))
    values = [jnp.broadcast_to(s, batch) for s in values]
    a = jnp.broadcast_to(x.astype(dtype), batch + x.shape[-2:])

    size = jnp.abs(jax.lax.stop_gradient(a)).max((-2, -1), initial=0)
    for s in jax.lax.stop_gradient(values):
        size = jnp.maximum(size, jnp.abs(s) ** (1 / (degree or 1)))
    usable = jnp.isfinite(size)
    unit = next_power_of_two(jnp.where(usable & (size > 0), size, 1))
    if degree is None:
        unit = jnp.ones_like(unit)
    a = jnp.where(usable[..., None, None], a, 0) / unit[..., None, None]
    values = [jnp.where(usable, s, 0) for s in values]
    for _ in range(degree or 1):  # the power itself could overflow
        values = [s / unit for s in values]

    lift = _lift_symmetric if symmetric else _lift_rectangular
    if symmetric:
        a = (a + a.mT) / 2
    out, y = lift(vector_map, name, tuple(values), a)
    unit = jnp.where(usable, unit, jnp.nan)
    out = tuple((unit * s).astype(x.dtype) for s in out)
    return out, (unit[..., None, None] * y).astype(x.dtype)


def _as_scalars(name: str, value: Any, x: Array) -> Array:
    """One number for each matrix of `x`, or what can be broadcast with them."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer) and not jnp.issubdtype(
        array.dtype, jnp.floating
    ):
        raise TypeError(f"`{name}` must have a real dtype; got {array.dtype}.")
    try:
        jnp.broadcast_shapes(array.shape, x.shape[:-2])
    except ValueError:
        raise ValueError(
            f"`{name}` must have a shape that can be broadcast with the batch axes of "
            f"`x`, {x.shape[:-2]}; got {array.shape}."
        ) from None
    return array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _lift_symmetric(vector_map: VectorMap, name: str, scalars: tuple, a: Array):
    w, v = eigh(a)
    out, y, _ = vector_map(scalars, w)
    return out, _symmetric_part(matmul(v * y[..., None, :], v.mT))


@_lift_symmetric.defjvp
def _lift_symmetric_jvp(vector_map, name, primals, tangents):
    scalars, (w, v) = _once(eigh, name)(*primals)
    dscalars, da = tangents
    inner = matmul(v.mT, matmul(da, v))
    out, y, theta, dout, dy = _jvp(vector_map, scalars, w, dscalars, inner)
    kernel = _kernel(vector_map, w, w, theta)
    inner = _set_diagonal(kernel * inner, dy)
    y = _symmetric_part(matmul(v * y[..., None, :], v.mT))
    return (out, y), (dout, _symmetric_part(matmul(v, matmul(inner, v.mT))))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _lift_rectangular(vector_map: VectorMap, name: str, scalars: tuple, a: Array):
    u, s, v = _tall_svd(a)
    out, y, _ = vector_map(scalars, s)
    return out, _like(a, matmul(u * y[..., None, :], v.mT))


@_lift_rectangular.defjvp
def _lift_rectangular_jvp(vector_map, name, primals, tangents):
    scalars, (u, s, v) = _once(_tall_svd, name)(*primals)
    dscalars, da = tangents
    right = matmul(_like_tall(da), v)
    inner = matmul(u.mT, right)
    beyond = right - matmul(u, inner)
    out, y, theta, dout, dy = _jvp(vector_map, scalars, s, dscalars, inner)
    # h is odd: (h_i + h_j) / (s_i + s_j) and h_i / s_i are divided differences as well.
    even = _kernel(vector_map, s, s, theta) * (inner + inner.mT) / 2
    odd = _kernel(vector_map, s, -s, theta) * (inner - inner.mT) / 2
    scale = _kernel(vector_map, jnp.zeros_like(s[..., :1]), s, theta)
    left = matmul(u, _set_diagonal(even + odd, dy)) + scale * beyond
    y = matmul(u * y[..., None, :], v.mT)
    return (out, _like(da, y)), (dout, _like(da, matmul(left, v.mT)))


# What has the higher derivatives that are refused here.
_WAYS_OUT = {
    "project_psd": " Where no eigenvalue is zero, `(x + x @ jaxla.matfun.signm(x).value) "
    "/ 2` has all of them.",
    "prox_neg_log_det": " With `jaxla.matfun.sqrtm`, `(x + sqrtm(x @ x + 4 * step * "
    "jnp.eye(n)).root) / 2` has all of them.",
}


def _once(decompose: Callable, name: str) -> Callable:
    """`decompose` beside the scalars; a derivative with respect to either is refused."""
    message = f"`{name}` can be differentiated once only." + _WAYS_OUT.get(name, "")
    return refuse_derivative(lambda scalars, a: (scalars, decompose(a)), message)


def _jvp(vector_map: VectorMap, scalars, w, dscalars, inner):
    """`vector_map` and its derivative in the direction of the diagonal of `inner`."""
    dw = jnp.diagonal(inner, axis1=-2, axis2=-1)
    (out, y, theta), (dout, dy, _) = jax.jvp(vector_map, (scalars, w), (dscalars, dw))
    return out, y, theta, dout, dy


def _kernel(vector_map: VectorMap, a: Array, b: Array, theta) -> Array:
    """The divided differences of all entries of `a` with all of `b`."""
    theta = (p[..., None, None] for p in theta)
    return vector_map.divided(a[..., :, None], b[..., None, :], *theta)


def _set_diagonal(a: Array, diagonal: Array) -> Array:
    return jnp.where(jnp.eye(a.shape[-1], dtype=bool), diagonal[..., None, :], a)


def _symmetric_part(a: Array) -> Array:
    return (a + a.mT) / 2


def _tall_svd(a: Array) -> tuple[Array, Array, Array]:
    """`u`, `s`, `v` of `a`, or of its transpose where `a` is wide."""
    u, s, vt = svd(_like_tall(a))
    return u, s, vt.mT


def _like_tall(a: Array) -> Array:
    return a if a.shape[-2] >= a.shape[-1] else a.mT


def _like(a: Array, tall: Array) -> Array:
    return tall if a.shape[-2] >= a.shape[-1] else tall.mT

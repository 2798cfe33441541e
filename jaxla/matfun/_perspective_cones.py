r"""Projections of vectors onto the perspective cones of two barriers.

The cone is the closure of $\{(t, v, x): v > 0, x > 0, t \ge v \sum_i \varphi(x_i / v)\}$
with $\varphi(\xi) = -\log \xi$ or $1/\xi$. With the multiplier $\lambda = t - t_0$ of the
constraint, $\xi = x / v$ and $\mu = \lambda / v$, the optimality conditions are

$$\xi_i + \mu \varphi'(\xi_i) = x_{0,i} / v, \quad
v + \lambda \sum_i (\varphi(\xi_i) - \xi_i \varphi'(\xi_i)) = v_0, \quad
t_0 + \lambda = v \sum_i \varphi(\xi_i).$$

Both barriers have $-\xi \varphi' = a + (b - 1) \varphi$ with constants $a$ and $b$, so
that the last two give $v = (v_0 - b \mu t_0) / (1 + a n \mu + b \mu^2)$: one equation in
$\mu$ is left. Its root is unique, because the projection is. Without a root $v$ is zero.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ._bracketed_newton import bracketed_newton
from ._spectral_lift import VectorMap
from ._vector_cones import nonnegative, nonnegative_divided


class Barrier(NamedTuple):
    r"""A convex function $\varphi$ of positive numbers.

    - `a`, `b`: the constants in $-\xi \varphi' = a + (b - 1) \varphi$.
    - `value`, `slope`: $\varphi$ and $\varphi'$.
    - `bend`: $\mu$ times the divided differences of $\varphi'$, of `mu`, $\xi$, $\xi'$.
    - `prox`: the root of $\xi + \mu \varphi'(\xi) = y$, of `y` and `mu`.
    - `at_slope`: $\varphi$ at the point where $\varphi' = -y$, of `y`.
    """

    a: int
    b: int
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    bend: Callable[[Array, Array, Array], Array]
    prox: Callable[[Array, Array], Array]
    at_slope: Callable[[Array], Array]


def perspective_cone(barrier: Barrier) -> VectorMap:
    """`t`, `v`, `w` to the nearest point of the cone."""
    return VectorMap(
        functools.partial(_solve, barrier),
        functools.partial(_entry, barrier),
        functools.partial(_divided, barrier),
    )


def barrier_prox(barrier: Barrier) -> VectorMap:
    """`step`, `w` to the proximal operator of `step` times the barrier."""

    def solve(scalars, w):
        step = jnp.maximum(scalars[0], 0)
        return (), (step, jnp.ones_like(step))

    return perspective_cone(barrier)._replace(solve=solve)


def _log_prox(y: Array, mu: Array) -> Array:
    # 2 sqrt(mu) first: half the hypotenuse of y and that, plus y / 2, without overflow
    # and, where y is negative, without cancellation.
    root = jnp.hypot(y, 2 * jnp.sqrt(mu))
    negative = y < 0
    return jnp.where(negative, mu / ((root + jnp.abs(y)) / 2), (y + root) / 2)


def _inverse_prox(y: Array, mu: Array) -> Array:
    """The positive root of `x^3 - y x^2 = mu`: convex from there on."""
    cube, size = jnp.cbrt(mu), jnp.abs(y)
    safe = jnp.where(size == 0, 1, size)
    # An upper bound, too large by a factor of 1.5 at most: Newton's steps go down to it.
    above = y + jnp.minimum(cube, jnp.where(size == 0, cube, mu / safe / safe))
    below = jnp.minimum(cube, jnp.where(size == 0, cube, jnp.sqrt(mu / safe)))
    x = jnp.where(y > 0, above, below)
    for _ in range(6):
        x = x - x * ((x - y - mu / x / x) / (3 * x - 2 * y))
    return x


LOG = Barrier(
    a=1,
    b=1,
    value=lambda x: -jnp.log(x),
    slope=lambda x: -1 / x,
    bend=lambda mu, x, y: mu / x / y,
    prox=_log_prox,
    at_slope=jnp.log,
)

INVERSE = Barrier(
    a=0,
    b=2,
    value=lambda x: 1 / x,
    slope=lambda x: -1 / x / x,
    bend=lambda mu, x, y: mu / x / y * (1 / x + 1 / y),
    prox=_inverse_prox,
    at_slope=jnp.sqrt,
)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(barrier: Barrier, scalars, w):
    t, v = scalars
    inside, on_face = _case(barrier, t, v, w)
    live = ~(inside | on_face)
    mu, root_v = _root(
        barrier,
        jnp.where(live, t, 0),
        jnp.where(live, v, 1),
        jnp.where(live[..., None], w, 1),
    )
    v = jnp.where(inside, v, jnp.where(on_face, 0, root_v))
    multiplier = jnp.where(inside, 0, jnp.where(on_face, jnp.maximum(-t, 0), mu * root_v))
    return (t + multiplier, v), (multiplier, v)


@_solve.defjvp
def _solve_jvp(barrier, primals, tangents):
    """The derivative of the optimality conditions, after the entries are eliminated."""
    (scalars, w), ((dt, dv), dw) = primals, tangents
    out, (multiplier, v) = _solve(barrier, scalars, w)
    live = (multiplier > 0) & (v > 0)
    mu, xi = _point(barrier, w, multiplier[..., None], v[..., None])
    slope, (h, e) = barrier.slope(xi), _slopes(barrier, mu, xi)
    total = lambda a: jnp.sum(a, -1)

    # (1 + q) dmultiplier - k dv = -a - dt;  k dmultiplier + (1 + p) dv = dv_0 + b.
    q, p = total(h * slope * slope), total(e * xi * xi)
    k = barrier.a * w.shape[-1] + barrier.b * total(barrier.value(xi))
    k = k + total(e * xi * slope)
    first, second = total(h * slope * dw) - dt, dv + total(e * xi * dw)
    determinant = (1 + q) * (1 + p) + k * k
    dmultiplier = ((1 + p) * first + k * second) / determinant
    droot = ((1 + q) * second - k * first) / determinant

    inside = (v > 0) & ~(multiplier > 0)
    dmultiplier = jnp.where(
        live, dmultiplier, jnp.where(~inside & (scalars[0] < 0), -dt, 0)
    )
    dv = jnp.where(live, droot, jnp.where(inside, dv, 0))
    return (out, (multiplier, v)), ((dt + dmultiplier, dv), (dmultiplier, dv))


def _case(barrier: Barrier, t: Array, v: Array, w: Array) -> tuple[Array, Array]:
    """Whether the point is in the cone, and whether the nearest one has `v = 0`."""
    safe_v = jnp.where(v > 0, v, 1)
    positive = w > 0
    xi = jnp.where(positive, w, 1) / safe_v[..., None]
    above = t / safe_v >= jnp.sum(barrier.value(xi), -1)
    inside = (v > 0) & positive.all(-1) & above
    # The equation for mu as mu grows without bound: no root if it stays below.
    safe_t = jnp.where(t < 0, t, -1)
    limit = barrier.at_slope(jnp.maximum(w / safe_t[..., None], 0)).sum(-1)
    below = -(barrier.a * w.shape[-1] + v / safe_t) / barrier.b <= limit
    nothing = jnp.finfo(t.dtype).eps ** 2 * jnp.abs(v)
    return inside, ((v <= 0) & (t >= -nothing)) | ((t < 0) & below)


def _root(barrier: Barrier, t: Array, v: Array, w: Array) -> tuple[Array, Array]:
    """The root `mu`, and the `v` that belongs to it."""
    a, b, info = barrier.a * w.shape[-1], barrier.b, jnp.finfo(t.dtype)
    # mu = start + sigma share: v is positive for all sigma > 0, without cancellation.
    start = jnp.where(v > 0, 0, v / jnp.where(v > 0, 1, b * t))

    def unknowns(log_sigma):
        sigma = jnp.exp(log_sigma)
        share = jnp.where(v > 0, v / (v + b * sigma * jnp.maximum(t, 0)), 1)
        mu = start + sigma * share
        numerator = jnp.maximum(v, 0) * share + b * sigma * jnp.maximum(-t, 0)
        new_v = numerator / (1 + a * mu + b * mu * mu)
        # Its square can be inverted.
        return mu, numerator, jnp.maximum(new_v, float(info.tiny) ** 0.5)

    def residual(log_sigma):
        mu, numerator, new_v = unknowns(log_sigma)
        xi = barrier.prox(w / new_v[..., None], mu[..., None])
        t_over_v = (t * (1 + a * mu) + mu * v) / numerator
        return t_over_v - jnp.sum(barrier.value(xi), -1)

    high = jnp.full_like(t, -2 * math.log(info.eps))
    log_sigma = bracketed_newton(residual, -high, high, steps=30)
    mu, _, new_v = unknowns(log_sigma)
    return mu, new_v


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _entry(barrier: Barrier, w: Array, multiplier: Array, v: Array) -> Array:
    live = (multiplier > 0) & (v > 0)
    _, xi = _point(barrier, w, multiplier, v)
    return jnp.where(live, v * xi, nonnegative(w))


@_entry.defjvp
def _entry_jvp(barrier, primals, tangents):
    (w, multiplier, v), (dw, dmultiplier, dv) = primals, tangents
    live = (multiplier > 0) & (v > 0)
    mu, xi = _point(barrier, w, multiplier, v)
    h, e = _slopes(barrier, mu, xi)
    dx = h * dw + e * xi * dv - h * barrier.slope(xi) * dmultiplier
    out = jnp.where(live, v * xi, nonnegative(w))
    return out, jnp.where(live, dx, jnp.where(w > 0, dw, 0))


def _divided(barrier: Barrier, x: Array, y: Array, multiplier: Array, v: Array) -> Array:
    mu, xi = _point(barrier, x, multiplier, v)
    _, other = _point(barrier, y, multiplier, v)
    live = (multiplier > 0) & (v > 0)
    return jnp.where(
        live, 1 / (1 + barrier.bend(mu, xi, other)), nonnegative_divided(x, y)
    )


def _point(barrier: Barrier, w: Array, multiplier: Array, v: Array):
    """`mu` and `xi`, and ones where they have no meaning."""
    live = (multiplier > 0) & (v > 0)
    safe_v = jnp.where(live, v, 1)
    mu = jnp.where(live, multiplier / safe_v, 1)
    return mu, barrier.prox(jnp.where(live, w / safe_v, 0), mu)


def _slopes(barrier: Barrier, mu: Array, xi: Array) -> tuple[Array, Array]:
    """The derivative of `prox` with respect to `y`, and what is missing to one."""
    bend = barrier.bend(mu, xi, xi)
    return 1 / (1 + bend), 1 / (1 + 1 / bend)

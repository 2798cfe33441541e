r"""Projections of vectors onto polyhedra, and the proximal operators beside them.

Each is a clipping with bounds that solve one or two equations. The bounds are found
without a derivative; which entries are clipped is then known, and a closed form for these
entries gives their last digits and the derivative. At a kink, where an entry lies on a
bound, the entry counts as clipped.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from ._bracketed_newton import bracketed_newton
from ._spectral_lift import VectorMap


def positive_part() -> VectorMap:
    return VectorMap(
        lambda scalars, w: ((), ()), nonnegative, lambda a, b: nonnegative_divided(a, b)
    )


def clip_at_scalar() -> VectorMap:
    """`radius`, `w` to the nearest vector with entries of at most `radius`."""
    solve = lambda scalars, w: ((), (jnp.maximum(scalars[0], 0),))
    return VectorMap(solve, _clip, _clip_divided)


def shrink_by_scalar() -> VectorMap:
    """`step`, `w` to the proximal operator of `step` times the sum of absolute values."""
    return clip_at_scalar()._replace(entry=_shrink, divided=_shrink_divided)


def l1_ball() -> VectorMap:
    """`radius`, `w` to the nearest vector whose absolute values add up to `radius`."""
    solve = lambda scalars, w: ((), (_threshold(jnp.abs(w), scalars[0], 0),))
    return VectorMap(solve, _shrink, _shrink_divided)


def l1_epigraph() -> VectorMap:
    """`t`, `w` to the nearest pair with a sum of absolute values of at most `t`."""

    def solve(scalars, w):
        theta = _threshold(jnp.abs(w), scalars[0], 1)
        return (scalars[0] + theta,), (theta,)

    return VectorMap(solve, _shrink, _shrink_divided)


def max_epigraph() -> VectorMap:
    """`t`, `w` to the nearest pair with absolute values of at most `t`."""

    def solve(scalars, w):
        level = _threshold(jnp.abs(w), -scalars[0], 1)
        return (level,), (level,)

    return VectorMap(solve, _clip, _clip_divided)


def max_prox() -> VectorMap:
    """`step`, `w` to the proximal operator of `step` times the largest absolute value."""
    return l1_ball()._replace(entry=_clip, divided=_clip_divided)


def sum_of_largest_epigraph(k: int) -> VectorMap:
    """`t`, `w` to the nearest pair with `k` largest entries of at most `t` in sum."""
    solve = functools.partial(_solve_sum_of_largest, k)
    return VectorMap(solve, _lower, _lower_divided)


def sum_of_largest_prox(k: int) -> VectorMap:
    """`step`, `w` to the proximal operator of `step` times the sum of the `k` largest."""
    solve = functools.partial(_solve_capped_simplex, k)
    return VectorMap(solve, _lower, _lower_divided)


def nonnegative(x: Array) -> Array:
    return jnp.where(x > 0, x, 0)


def nonnegative_divided(a: Array, b: Array) -> Array:
    gap = a - b
    change = nonnegative(a) - nonnegative(b)
    slope = (a > 0).astype(a.dtype)
    return jnp.where(gap == 0, slope, change / jnp.where(gap == 0, 1, gap))


def _between(x: Array, low: Array, high: Array) -> Array:
    """`x` clipped; on a bound it counts as clipped, as in `_between_divided`."""
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


def _between_divided(a: Array, b: Array, low: Array, high: Array) -> Array:
    gap = a - b
    change = _between(a, low, high) - _between(b, low, high)
    slope = ((a > low) & (a < high)).astype(a.dtype)
    return jnp.where(gap == 0, slope, change / jnp.where(gap == 0, 1, gap))


def _clip(x: Array, level: Array) -> Array:
    return _between(x, -level, level)


def _clip_divided(a: Array, b: Array, level: Array) -> Array:
    return _between_divided(a, b, -level, level)


def _shrink(x: Array, theta: Array) -> Array:
    # Not `x - clip(x)`: what is clipped to zero is zero.
    return jnp.where(jnp.abs(x) <= theta, 0, x - jnp.where(x > 0, theta, -theta))


def _shrink_divided(a: Array, b: Array, theta: Array) -> Array:
    return 1 - _clip_divided(a, b, theta)


def _lower(x: Array, floor: Array, theta: Array) -> Array:
    """What is above `floor` goes down to it, but no further than by `theta`."""
    return jnp.where(x >= floor + theta, x - theta, jnp.where(x <= floor, x, floor))


def _lower_divided(a: Array, b: Array, floor: Array, theta: Array) -> Array:
    return 1 - _between_divided(a, b, floor, floor + theta)


def _threshold(a: Array, t: Array, weight: int) -> Array:
    """The root of `sum(max(a - theta, 0)) = t + weight theta`, or zero if it is below.

    The left side minus the right is convex, so the root is the largest of those of the
    linear functions that it is made of: the means `(a_1 + ... + a_j - t) / (j + weight)`
    of the j largest entries.
    """
    start = 1 - weight
    index = jnp.arange(start, a.shape[-1] + 1, dtype=a.dtype)
    candidates = (_sums_of_largest(a)[..., start:] - t[..., None]) / (index + weight)
    theta = jax.lax.stop_gradient(candidates.max(-1, initial=0))
    active = (a > theta[..., None]).astype(a.dtype)
    count = active.sum(-1) + weight
    mean = (jnp.sum(active * a, -1) - t) / jnp.maximum(count, 1)
    return jnp.where(theta > 0, jnp.where(count > 0, mean, theta), 0)


def _sums_of_largest(w: Array) -> Array:
    """The sums of the j largest entries, for j from 0 on."""
    sums = jnp.cumsum(-jnp.sort(-w, -1), -1)
    return jnp.concatenate([jnp.zeros_like(sums[..., :1]), sums], -1)


def _solve_sum_of_largest(k: int, scalars, w):
    r"""The bounds of `u = clip(w - floor, 0, theta)` in `(t + theta, w - u)`.

    The projection of `(-t, w)` onto the pairs with $0 \le u_i \le \theta$ and
    $\sum_i u_i = k \theta$, by duality: for each `floor`, the multiplier of the sum,
    the best `theta` is a largest mean as in `_threshold`; the sum of the `u_i` then
    decides about `floor`.
    """
    (t,) = scalars
    dtype, n = w.dtype, w.shape[-1]
    fixed_t, fixed_w = jax.lax.stop_gradient((t, w))
    sums = _sums_of_largest(fixed_w)
    index = jnp.arange(n + 1, dtype=dtype)

    def theta_of(floor):
        candidates = sums + (k - index) * floor[..., None] - fixed_t[..., None]
        return jnp.max(candidates / (1 + index), -1, initial=0)

    def excess(floor):
        theta = theta_of(floor)
        taken = jnp.clip(fixed_w - floor[..., None], 0, theta[..., None])
        return k * theta - taken.sum(-1)

    floor = _floor(excess, fixed_w, jnp.sqrt(fixed_t**2 + jnp.sum(fixed_w**2, -1)))
    floor, apart = _floor_in_gap(k, fixed_w, (sums[..., k] - fixed_t) / (k + 1), floor)
    theta = jnp.where(apart, (sums[..., k] - fixed_t) / (k + 1), theta_of(floor))
    p, q, top, middle = _pieces(w, floor, theta)
    # The two equations of the pieces: the middle sums to q floor + (k - p) theta, and the
    # k largest of the result to t + theta.
    share = (k - p) / jnp.maximum(q, 1)
    polished = (top + share * middle - t) / (p + 1 + (k - p) * share)
    known = (q > 0) | (p == k)
    theta = jnp.where(known, polished, theta)
    inside = sums[..., k] <= fixed_t
    theta = jnp.where(inside, 0, jnp.maximum(theta, 0))
    floor = jnp.where(q > 0, (middle - (k - p) * theta) / jnp.maximum(q, 1), floor)
    return (t + theta,), (floor, theta)


def _solve_capped_simplex(k: int, scalars, w):
    """The same for a given `theta`."""
    theta = jnp.maximum(scalars[0], 0)
    fixed_theta, fixed_w = jax.lax.stop_gradient((theta, w))

    def excess(floor):
        taken = jnp.clip(fixed_w - floor[..., None], 0, fixed_theta[..., None])
        return k * fixed_theta - taken.sum(-1)

    floor = _floor(excess, fixed_w, fixed_theta)
    floor, _ = _floor_in_gap(k, fixed_w, fixed_theta, floor)
    p, q, _, middle = _pieces(w, floor, fixed_theta)
    polished = (middle - (k - p) * theta) / jnp.maximum(q, 1)
    return (), (jnp.where(q > 0, polished, floor), theta)


def _floor(excess, w: Array, largest_theta: Array) -> Array:
    steps = 40 if w.dtype == jnp.float32 else 60
    low, high = w.min(-1) - largest_theta - 1, w.max(-1)
    return bracketed_newton(excess, low, high, steps=steps)


def _floor_in_gap(k: int, w: Array, theta: Array, floor: Array):
    """The middle of the floors with which just `k` entries go down, if there are such."""
    ordered = -jnp.sort(-w, -1)
    least = ordered[..., k - 1] - theta
    below = ordered[..., k] if k < w.shape[-1] else least - 1
    apart = least > below
    return jnp.where(apart, (least + below) / 2, floor), apart


def _pieces(w: Array, floor: Array, theta: Array):
    """How many entries go down by `theta` and how many to `floor`, and their sums."""
    above = jax.lax.stop_gradient(w - floor[..., None])
    top = (above > jax.lax.stop_gradient(theta)[..., None]).astype(w.dtype)
    middle = (above >= 0).astype(w.dtype) - top
    sums = jnp.sum(top * w, -1), jnp.sum(middle * w, -1)
    return top.sum(-1), middle.sum(-1), *sums

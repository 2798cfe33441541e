"""Staggered work: each step serves the factors whose turn it is, and no step is slow."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ScalarLike

from ._blocks import Blocks


Array = jax.Array


def roots_per_step(count: int, blocks: Blocks) -> int:
    """The largest number of roots of one size that a step computes.

    **Arguments:**

    - `count`: the number of factors of that size.
    - `blocks`: the choices.

    **Returns:**

    `ceil(count / refresh_every)`, or a little more with several shards.

    !!! example

        >>> jaxla.kron.roots_per_step(34, jaxla.kron.Blocks(refresh_every=10))
        4
    """
    return blocks.shards * _window_length(count // blocks.shards, blocks)


def refresh_window(
    renew: Callable,
    factors: Array,
    kept: Sequence[Any],
    count: ScalarLike,
    blocks: Blocks,
    known: Sequence[Any] = (),
) -> tuple[list[Any], Array]:
    """Renews what is kept of the factors whose turn it is.

    `renew(factors, *kept, *known)`, on a window of the stacks, gives which to accept, and
    what to keep of these. `kept` and `known` may be trees of stacks. Returns what is now
    kept, and how many were refused: a factor that is zero has no statistics yet, and does
    not count.
    """
    old_leaves, kept_tree = jax.tree.flatten(list(kept))
    known_leaves, known_tree = jax.tree.flatten(list(known))
    # One window in the part of each device, so that none has to fetch a factor.
    stacks = jax.tree.map(
        lambda x: x.reshape(blocks.shards, -1, *x.shape[1:]),
        (factors, known_leaves, old_leaves),
    )
    number = factors.shape[0] // blocks.shards
    step = jnp.asarray(count, jnp.uint32)  # unsigned: JAX looks out for negative indices

    def serve(begin, length, stacks):
        window = jax.tree.map(lambda x: _window(x, begin, length), stacks)
        factors, given, old = window
        accept, new = renew(
            factors, *kept_tree.unflatten(old), *known_tree.unflatten(given)
        )
        windows = [
            jnp.where(accept[(..., *[None] * (x.ndim - 2))], x, y)
            for x, y in zip(jax.tree.leaves(new), old, strict=True)
        ]
        updated = [
            _put_window(x, y, begin) for x, y in zip(stacks[-1], windows, strict=True)
        ]
        refused = ~accept & has_statistics(factors)
        return *updated, jnp.sum(refused, dtype=jnp.int32)

    def keep(stacks):
        return *stacks[-1], jnp.zeros([], jnp.int32)

    length, begin, due = _timetable(number, step, blocks)
    turn = functools.partial(serve, begin, length)
    if due is not True:  # fewer windows than steps: some steps have nothing to do
        turn = functools.partial(jax.lax.cond, due, turn, keep)
    if blocks.eager_steps and blocks.refresh_every > 1:
        all_of_them = functools.partial(serve, jnp.zeros_like(begin), number)
        eager = step < blocks.eager_steps
        turn = functools.partial(jax.lax.cond, eager, all_of_them, turn)
    *renewed, refused = turn(stacks)
    return kept_tree.unflatten([x.reshape(-1, *x.shape[2:]) for x in renewed]), refused


def after(refused: Array, stack: Array) -> Array:
    """`stack`, once what gave the number `refused` is done.

    For one factorization after the other: on JAX 0.10 and few cores, two batched ones
    side by side can wait forever. Not `optimization_barrier`, which does not order them
    on CPU; no count is negative, but XLA cannot know.
    """
    return jnp.where(refused < 0, 0, stack)


def has_statistics(stack: Array) -> Array:
    """Which factors are not zero; one that is not finite is not."""
    return jnp.abs(stack).max((-2, -1)) != 0


def _window_length(count: int, blocks: Blocks) -> int:
    return -(-count // blocks.refresh_every)


def _timetable(
    count: int, step: Array, blocks: Blocks
) -> tuple[int, Array, Array | bool]:
    """The length of a window, where this step's begins, and if it has one at all."""
    length = _window_length(count, blocks)
    windows, period = -(-count // length), blocks.refresh_every
    phase = step % period
    # Evenly spread over the period. The last window begins where it still fits,
    # and overlaps the one before.
    begin = jnp.minimum(phase * windows // period * length, count - length)
    return length, begin, windows == period or phase * windows % period < windows


def _window(x: Array, begin: Array, length: int) -> Array:
    zero = jnp.zeros([], begin.dtype)
    start = (zero, begin, *[zero] * (x.ndim - 2))
    return jax.lax.dynamic_slice(x, start, (x.shape[0], length, *x.shape[2:]))


def _put_window(x: Array, window: Array, begin: Array) -> Array:
    zero = jnp.zeros([], begin.dtype)
    return jax.lax.dynamic_update_slice(x, window, (zero, begin, *[zero] * (x.ndim - 2)))

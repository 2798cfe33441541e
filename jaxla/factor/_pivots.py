"""Which indices each step of a factorization takes: random, cyclic or greedy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxla._errors import check_choice, check_int


# What comes with each step, and how that and a Gram matrix give the pivots.
Rule = tuple[Any, Callable[[Any, Callable[[], Array]], Array]]


def pivot_rule(pivots: Any, size: int, block: int, steps: int, key: Array | None) -> Rule:
    check_int("steps", steps, low=0)
    check_int("block", block, low=2, high=max(size, 2))
    if (key is not None) != (isinstance(pivots, str) and pivots == "random"):
        wanted = "needed for" if key is None else "for nothing but"
        raise ValueError(f"`key` is {wanted} random pivots; got {key}.")
    if size < 2:
        return jnp.zeros((0, block), jnp.int32), lambda row, _: row
    if not isinstance(pivots, str):
        table = jnp.asarray(pivots)
        if table.shape != (steps, block) or not jnp.issubdtype(table.dtype, jnp.integer):
            raise ValueError(
                f"`pivots` must have shape {(steps, block)} and integers; "
                f"got {table.dtype} of shape {table.shape}."
            )
        return table, lambda row, _: row
    check_choice("pivots", pivots, ("random", "cyclic", "greedy"))
    if key is not None:
        return jax.random.split(key, steps), lambda key, _: _draw(key, size, block)
    if pivots == "greedy":
        return jnp.zeros(steps, jnp.int32), lambda _, gram: _greedy(gram(), block)
    sweep = _sweep(size, block)
    numbers = jnp.arange(steps, dtype=jnp.int32) % len(sweep)
    return numbers, lambda i, _: jnp.asarray(sweep)[i]


def _draw(key: Array, size: int, block: int) -> Array:
    """A uniformly random set of indices: those of the largest random numbers."""
    return jnp.sort(jax.lax.top_k(jax.random.bits(key, (size,)), block)[1])


def _greedy(gram: Array, block: int) -> Array:
    """The pair with the largest cosine, and the indices with the largest to either."""
    size = gram.shape[-1]
    table = cosines(gram)
    i, j = jnp.divmod(jnp.argmax(table), size)
    scores = jnp.maximum(table[i], table[j]).at[jnp.stack([i, j])].set(jnp.inf)
    return jnp.sort(jax.lax.top_k(scores, block)[1])


def cosines(gram: Array) -> Array:
    """The sizes of the entries relative to the diagonal, and zeros on it."""
    norms = jnp.sqrt(jnp.abs(jnp.diagonal(gram)))
    least = jnp.finfo(gram.dtype).tiny
    ratios = jnp.abs(gram) / jnp.maximum(norms[:, None] * norms[None, :], least)
    return ratios * (1 - jnp.eye(gram.shape[-1], dtype=gram.dtype))


def _sweep(size: int, block: int) -> np.ndarray:
    """All pairs of parts of `block // 2` indices, filled up where they are fewer."""
    half = block // 2
    parts = [range(i, min(i + half, size)) for i in range(0, size, half)]
    rows = []
    for i, first in enumerate(parts):
        for second in parts[i + 1 :]:
            chosen = {*first, *second}
            spare = (j for j in range(size) if j not in chosen)
            while len(chosen) < block:
                chosen.add(next(spare))
            rows.append(sorted(chosen))
    return np.array(rows, np.int32)

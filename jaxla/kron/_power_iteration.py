"""Largest singular values of many matrices, by power iterations that start warm.

A step is two products with a vector. The gradient of a layer changes little from one
update to the next, so that the vector of the last one is a good start; where it is not,
for instance after a batch of one example, another start takes its place.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxla._dtypes import (
    compute_dtype,
    finiteness_and_unit,
    matmul,
    next_power_of_two,
    safe_sqrt,
)
from jaxla._errors import as_real_matrix, check_int

from ._similar import as_tall, stack_similar


def power_iteration(
    matrices: Sequence[Float[Array, "..."]],
    vectors: Sequence[Float[Array, "..."]],
    *,
    steps: int = 2,
    shapes: int | None = 4,
) -> tuple[list[Float[Array, "..."]], list[Float[Array, "..."]]]:
    r"""Estimates the spectral norm of each matrix from below.

    It starts at the given vector or at a fixed mixture of rows, whichever the matrix
    makes longer.

    **Arguments:**

    - `matrices`: `(*batch, m, n)` arrays.
    - `vectors`: for each a `(*batch, min(m, n))` array of what was returned for it
        before, or of zeros.
    - `steps`: how many steps of two products; 1 suffices where the vectors are of
        matrices that are nearly the same. (Static.)
    - `shapes`: how many batched calls to make at most, as of
        [`jaxla.kron.map_similar`][]. (Static.)

    **Returns:**

    Two lists: for each array the estimates $\rho$, of shape `batch`, and the vectors,
    singular ones of the shorter side, of length 1; both in `float32` at least. Always
    $\|G\|_F / \sqrt{\min(m, n)} \le \rho \le \|G\|_2$ but for rounding, and
    $\rho = \|G\|_2$ for a matrix of rank one. A zero matrix keeps its vector; one with
    a non-finite entry does, too, and has $\rho$ NaN.

    **Cost:** `10 m n` flops, and `4 m n` a step, in one call for matrices of similar
    shapes.

    **Accuracy:** the relative error of $\rho$ falls by $(\sigma_2 / \sigma_1)^4$ a step.

    **Differentiation:** both modes, with the vectors for constants: right where they
    have converged.

    !!! example

        >>> import jax.numpy as jnp
        >>> matrix = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
        >>> norms, vectors = jaxla.kron.power_iteration([matrix], [jnp.zeros(2)], steps=9)
        >>> print(norms[0].round(3))
        4.0
    """
    check_int("steps", steps, low=0)
    _check_vectors(matrices, vectors)
    if not matrices:
        return [], []
    arrays = [as_real_matrix("matrices", g) for g in matrices]
    dtype = jnp.result_type(*(compute_dtype(g.dtype) for g in arrays))
    tall = [as_tall(g).astype(dtype) for g in arrays]
    rows = [v.reshape(-1, v.shape[-1]).astype(dtype) for v in vectors]
    norms: list = [None] * len(tall)
    found: list = [None] * len(tall)
    for members, stack in stack_similar(tall, shapes):
        n = stack.shape[-1]
        starts = [jnp.pad(rows[i], ((0, 0), (0, n - rows[i].shape[1]))) for i in members]
        # Of its own shape: a matrix that is padded has no higher rank.
        ranks = [len(rows[i]) * [rows[i].shape[1]] for i in members]
        ranks = jnp.asarray(list(itertools.chain(*ranks)), stack.dtype)
        rho, v = _iterate(stack, jnp.concatenate(starts), ranks, steps)
        begin = 0
        for i in members:
            own = slice(begin, begin + len(rows[i]))
            begin = own.stop
            own_dtype = compute_dtype(arrays[i].dtype)
            norms[i] = rho[own].reshape(arrays[i].shape[:-2]).astype(own_dtype)
            part = v[own, : rows[i].shape[1]]
            found[i] = part.reshape(vectors[i].shape).astype(own_dtype)
    return norms, found


def _iterate(g: Array, start: Array, ranks: Array, steps: int) -> tuple[Array, Array]:
    """Of tall matrices of at most these ranks: the estimates, and the vectors."""
    finite, unit = finiteness_and_unit(g)
    a = jnp.where(finite, g, 0) / unit
    constant = jax.lax.stop_gradient(a)
    # Some fixed numbers without a pattern: no row is left out.
    mixture = jnp.cos(jnp.arange(1, a.shape[1] + 1, dtype=a.dtype) ** 2)
    fresh = _unit_vector(matmul(mixture, constant))
    pair = jnp.stack([jax.lax.stop_gradient(start), fresh], -1)
    lengths = jnp.sum(matmul(constant, pair) ** 2, 1)
    v = jnp.where(lengths[:, :1] > lengths[:, 1:], pair[..., 0], pair[..., 1])
    for _ in range(steps):
        v = _unit_vector(_apply(constant.mT, _apply(constant, v)))
    rho = safe_sqrt(jnp.sum(_apply(a, v) ** 2, -1))
    least = safe_sqrt(jnp.sum(a**2, (-2, -1)) / ranks)
    rho = jnp.maximum(rho, least) * unit[:, 0, 0]
    rho = jnp.where(finite[:, 0, 0], rho, jnp.nan)
    return rho, jnp.where((v != 0).any(-1, keepdims=True), v, start)


def _apply(a: Array, v: Array) -> Array:
    return matmul(a, v[..., None])[..., 0]


def _unit_vector(v: Array) -> Array:
    """Of length 1, whatever its scale; zero stays zero."""
    largest = jnp.abs(v).max(-1, keepdims=True)
    v = v / next_power_of_two(jnp.where(largest > 0, largest, 1))
    size = jnp.sqrt(jnp.sum(v**2, -1, keepdims=True))
    return jnp.where(size > 0, v / jnp.where(size > 0, size, 1), 0)


def _check_vectors(matrices: Sequence, vectors: Sequence) -> None:
    expected = [(*g.shape[:-2], min(g.shape[-2:])) for g in matrices]
    given = [v.shape for v in vectors]
    if given != expected:
        raise ValueError(f"`vectors` must have the shapes {expected}; got {given}.")

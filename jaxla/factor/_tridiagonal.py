r"""Eigenvalues of symmetric tridiagonal matrices, by counting and bisection.

$T - x I = L D L^\top$ has as many negative pivots as $T$ has eigenvalues below $x$
(Sturm, Sylvester). A first pass counts on a grid with a point for each eigenvalue that
is wanted, and saves $\log_2$ of their number of the passes that follow: these halve
all brackets at once. The number of passes is fixed by the dtype.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxla._dtypes import compute_dtype, finiteness_and_unit, largest_entry, matmul
from jaxla._errors import as_pair, check_int, check_real_float, refuse_derivative

from ._eigh import eigh


# Pivots in one step of a loop: more compile longer and run no faster.
UNROLL = 8


def sturm_count(
    d: Float[ArrayLike, "*#batch n"],
    e: Float[ArrayLike, "*#batch m"],
    x: Float[ArrayLike, "*#batch"],
) -> Int[Array, "..."]:
    r"""Counts the eigenvalues of symmetric tridiagonal matrices below given numbers.

    **Arguments:**

    - `d`: the diagonal. Half precision is computed in `float32`.
    - `e`: the `n - 1` entries beside it. Zeros are welcome: they split the matrix.
    - `x`: the numbers, an array that broadcasts with the batch axes of `d` and `e`. For
        one matrix it may have any shape.

    **Returns:**

    The number of eigenvalues below `x`, an integer; -1 where `x` is NaN, and for a
    matrix with an entry that is not finite.

    **Cost:** `n` divisions for each entry of `x`, one after the other.

    **Accuracy:** the count of a matrix whose entries differ from the given ones by a few
    units in their last place (and by $10^{-38}$ of the largest in `float32`): exact for
    `x` that is farther from each eigenvalue than $3 u \|T\|$.

    **Differentiation:** the count is an integer and has no derivative.

    !!! example

        >>> import jax.numpy as jnp
        >>> d, e = jnp.array([2.0, 2.0, 2.0]), jnp.array([-1.0, -1.0])
        >>> jaxla.factor.sturm_count(d, e, jnp.array([0.0, 1.0, 3.0, 4.0]))
        Array([0, 1, 2, 3], dtype=int32)

    ??? cite "Reference"

        Demmel, Dhillon & Ren, *On the Correctness of Some Bisection-Like Parallel
        Eigenvalue Algorithms in Floating Point Arithmetic*, ETNA 3, 1995.
    """
    d, e, x = jnp.asarray(d), jnp.asarray(e), jnp.asarray(x)
    check_real_float("x", x)
    check_tridiagonal(d, e)
    dtype = compute_dtype(jnp.result_type(d, e, x))
    d, e, x = (jax.lax.stop_gradient(a).astype(dtype) for a in (d, e, x))
    rank = max(d.ndim - 1, e.ndim - 1, x.ndim)
    d, e, unit, usable = scaled(with_rank(d, rank + 1), with_rank(e, rank + 1))
    x = with_rank(x, rank) / unit
    usable, x = jnp.broadcast_arrays(usable & ~jnp.isnan(x), x)
    return jnp.where(usable, _count(d, e * e, jnp.where(usable, x, 0)), -1)


def eigvals_tridiagonal(
    d: Float[ArrayLike, "*#batch n"],
    e: Float[ArrayLike, "*#batch m"],
    *,
    indices: tuple[int, int] | None = None,
) -> Float[Array, "... k"]:
    r"""Computes eigenvalues of symmetric tridiagonal matrices, all or some.

    **Arguments:**

    - `d`: the diagonal. Half precision is computed in `float32`.
    - `e`: the `n - 1` entries beside it.
    - `indices`: `(start, stop)` for the eigenvalues from number `start`, where 0 is the
        smallest, up to but without `stop`. All by default.

    **Returns:**

    The eigenvalues, ascending. A matrix with an entry that is not finite has NaN
    everywhere, and touches no other of its batch.

    **Cost:** $27 - \log_2 k$ counts ([`jaxla.factor.sturm_count`][]) in `float32` and
    $56 - \log_2 k$ in `float64`, of $n k$ divisions each.

    **Accuracy:** absolute errors of at most $2 u \|T\|$, with the unit roundoff $u$.

    **Differentiation:** once, in both modes:
    $\mathrm{d}\lambda = v^\top \mathrm{d}T\, v$. The eigenvectors are computed only for
    this: by one `eigh`, or by inverse iteration for at most a quarter of 64 and more
    eigenvalues. At repeated eigenvalues any symmetric function of them has the right
    derivative. A second derivative raises `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> d, e = jnp.array([2.0, 2.0, 2.0]), jnp.array([-1.0, -1.0])
        >>> jaxla.factor.eigvals_tridiagonal(d, e, indices=(0, 2))
        Array([0.5857864, 2.       ], dtype=float32)
    """
    d, e = jnp.asarray(d), jnp.asarray(e)
    check_tridiagonal(d, e)
    size = d.shape[-1]
    start, stop = (0, size) if indices is None else as_pair("indices", indices)
    check_int("indices[0]", start, low=0, high=size)
    check_int("indices[1]", stop, low=start, high=size)
    out_dtype = jnp.result_type(d, e)
    dtype = compute_dtype(out_dtype)
    batch = jnp.broadcast_shapes(d.shape[:-1], e.shape[:-1])
    d, e = (jnp.broadcast_to(a, (*batch, a.shape[-1])).astype(dtype) for a in (d, e))
    return _eigvals((start, stop), d, e).astype(out_dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _eigvals(indices: tuple[int, int], d: Array, e: Array) -> Array:
    d, e, unit, usable = scaled(d, e)
    w = bisect(d, e, indices) * unit[..., None]
    return jnp.where(usable[..., None], w, jnp.nan)


@_eigvals.defjvp
def _eigvals_jvp(indices, primals, tangents):
    (d, e), (dd, de) = primals, tangents
    w = _eigvals(indices, d, e)
    once = refuse_derivative(
        functools.partial(_eigenvectors, indices),
        "`eigvals_tridiagonal` can be differentiated once only. Where all eigenvalues "
        "differ, `jnp.linalg.eigvalsh` of the dense matrix has higher derivatives.",
    )
    v = once(d, e, w)
    # v^T dT v = sum_i v_i^2 dd_i + 2 sum_i v_i v_{i+1} de_i
    off = 2 * v[..., :-1, :] * v[..., 1:, :]
    return w, matmul(dd[..., None, :], v * v)[..., 0, :] + (de[..., None] * off).sum(-2)


def check_tridiagonal(d: Array, e: Array, names: tuple[str, str] = ("d", "e")) -> None:
    for name, array in zip(names, (d, e), strict=True):
        check_real_float(name, array)
    if d.ndim < 1:
        raise ValueError(f"`{names[0]}` must have shape (..., n); got {d.shape}.")
    wanted = max(d.shape[-1] - 1, 0)
    if e.ndim < 1 or e.shape[-1] != wanted:
        raise ValueError(f"`{names[1]}` must have shape (..., {wanted}); got {e.shape}.")


def with_rank(a: Array, rank: int) -> Array:
    return a.reshape((1,) * (rank - a.ndim) + a.shape)


def scaled(d: Array, e: Array) -> tuple[Array, Array, Array, Array]:
    """The matrices with entries up to 1, their units, and which ones are finite."""
    largest = jnp.maximum(*(largest_entry(a, (-1,)) for a in (d, e)))
    usable, unit = (x[..., 0] for x in finiteness_and_unit(largest, (-1,)))
    d, e = (jnp.where(usable[..., None], a / unit[..., None], 0) for a in (d, e))
    return d, e, unit, usable


def _count(d: Array, e2: Array, x: Array) -> Array:
    """The negative pivots of $T - x I$, for entries up to 1; `e2` are the squares."""
    if d.shape[-1] == 0:
        return jnp.zeros(x.shape, jnp.int32)
    spare = -d.shape[-1] % UNROLL
    # What is added has infinite pivots.
    d = last_axis_first(d, (0, spare), jnp.inf)
    e2 = last_axis_first(e2, (1, d.shape[0] - 1 - e2.shape[-1]), 0.0)

    def step(carry, entries):
        pivot, count = carry
        d_i, e2_i = entries
        pivot = next_pivot(d_i - x, e2_i, pivot)
        return (pivot, count + (pivot < 0).astype(jnp.int32)), None

    start = (jnp.ones_like(x), jnp.zeros(x.shape, jnp.int32))
    return jax.lax.scan(step, start, (d, e2), unroll=UNROLL)[0][1]


def next_pivot(d: Array, e2: Array, pivot: Array) -> Array:
    tiny = jnp.finfo(d.dtype).tiny
    pivot = d - e2 / pivot
    # A zero pivot counts as positive: eigenvalues *below* x are asked for.
    return jnp.where(jnp.abs(pivot) < tiny, tiny, pivot)


def last_axis_first(a: Array, width: tuple[int, int], fill: float) -> Array:
    widths = [(0, 0)] * (a.ndim - 1) + [width]
    return jnp.moveaxis(jnp.pad(a, widths, constant_values=fill), -1, 0)


def bisect(d: Array, e: Array, indices: tuple[int, int] | None = None) -> Array:
    """Eigenvalues for entries up to 1, of arrays of one dtype and batch shape."""
    start, stop = (0, d.shape[-1]) if indices is None else indices
    batch, number = d.shape[:-1], stop - start
    if number == 0:
        return jnp.zeros((*batch, 0), d.dtype)
    none = [(0, 0)] * len(batch)
    e = jnp.abs(e)
    radius = jnp.pad(e, [*none, (1, 0)]) + jnp.pad(e, [*none, (0, 1)])
    bound = (jnp.abs(d) + radius).max(-1, keepdims=True)  # Gershgorin
    d, e2 = d[..., None, :], (e * e)[..., None, :]
    index = jax.lax.broadcasted_iota(jnp.int32, (*batch, number), len(batch))
    # How many eigenvalues lie below each of the wanted ones.
    wanted = start + index

    grid = bound * (2 * (index + 1).astype(d.dtype) / (number + 1) - 1)
    below = jax.lax.cummax(_count(d, e2, grid), axis=len(batch))
    # The grid points that are at most eigenvalue k are those with counts up to k.
    position = (below[..., None, :] <= wanted[..., None]).sum(-1)
    points = jnp.concatenate([-bound, grid, bound], -1)
    low, high = (jnp.take_along_axis(points, position + i, -1) for i in (0, 1))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = _count(d, e2, middle) <= wanted
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    # The bound is at most 3 |T|: brackets end below u |T|.
    bits = jnp.finfo(d.dtype).nmant + 3
    passes = math.ceil(bits - math.log2(number + 1))
    low, high = jax.lax.fori_loop(0, passes, halve, (low, high))
    return (low + high) / 2


def _eigenvectors(indices: tuple[int, int], d: Array, e: Array, w: Array) -> Array:
    """Orthonormal eigenvectors as columns; NaN where the matrix is not finite."""
    size, (start, stop) = d.shape[-1], indices
    if size >= 64 and 4 * (stop - start) <= size:
        return _inverse_iteration(d, e, w)
    entries = jnp.arange(size)
    before, after = entries[:-1], entries[1:]
    t = jnp.zeros((*d.shape, size), d.dtype).at[..., entries, entries].set(d)
    t = t.at[..., before, after].set(e).at[..., after, before].set(e)
    return eigh(t).eigenvectors[..., start:stop]


def _inverse_iteration(d: Array, e: Array, w: Array) -> Array:
    """Eigenvectors to eigenvalues, from a random start.

    All of them are made orthonormal after each step, so that clusters get as many
    directions as they have members.
    """
    d, e, unit, usable = scaled(d, e)
    w = jnp.where(usable[..., None], w / unit[..., None], 0)
    # Beside the eigenvalue, as a solver divides by pivots that may be zero.
    shift = w + 4 * jnp.finfo(d.dtype).eps
    main = d[..., None, :] - shift[..., None]
    none = [(0, 0)] * (e.ndim - 1)
    below, above = (
        jnp.broadcast_to(jnp.pad(e, [*none, width])[..., None, :], main.shape)
        for width in ((1, 0), (0, 1))
    )
    v = jax.random.normal(jax.random.key(0), main.shape[-2:], d.dtype)
    v = jnp.broadcast_to(v, main.shape)
    for _ in range(2):
        v = jax.lax.linalg.tridiagonal_solve(below, main, above, v[..., None])[..., 0]
        v = v / jnp.abs(v).max(-1, keepdims=True)
        v = jnp.linalg.qr(v.mT)[0].mT
    return jnp.where(usable[..., None, None], v.mT, jnp.nan)

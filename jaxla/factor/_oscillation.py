r"""Relative oscillation theory: eigenvalues of two tridiagonal matrices, compared.

Let $u$ solve $T_0 u = x_0 u$ from the first row on, and $v$ solve $T_1 v = x_1 v$ from
the last one back; $W_i = e_{1,i} u_i v_{i+1} - e_{0,i} u_{i+1} v_i$. Up to a factor $W_i$
is the determinant of a matrix that is $T_0 - x_0$ in its first rows and $T_1 - x_1$ in
the others: where $W$ changes sign, an eigenvalue passes zero as one row more is
exchanged. The solutions enter by their ratios, which are the pivots of $L D L^\top$ and
$U D U^\top$.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxla._dtypes import compute_dtype
from jaxla._errors import check_real_float

from ._tridiagonal import (
    check_tridiagonal,
    last_axis_first,
    next_pivot,
    scaled,
    with_rank,
)


# No difference of counts is so small.
UNUSABLE = jnp.iinfo(jnp.int32).min


class RelativeOscillation(NamedTuple):
    r"""The eigenvalues that one symmetric tridiagonal matrix has more than another.

    - `count`: how many more of $T_1$ lie below $x_1$ than of $T_0$ below $x_0$.
    - `nodes`: the weighted nodes of the Wronskian, -1, 0 or 1 at each row; their sum is
        `count`.
    """

    count: Int[Array, "*batch"]
    nodes: Int[Array, "*batch n"]


def relative_oscillation(
    d0: Float[ArrayLike, "*#batch n"],
    e0: Float[ArrayLike, "*#batch m"],
    x0: Float[ArrayLike, "*#batch"],
    d1: Float[ArrayLike, "*#batch n"],
    e1: Float[ArrayLike, "*#batch m"],
    x1: Float[ArrayLike, "*#batch"],
) -> RelativeOscillation:
    r"""Counts the eigenvalues that one tridiagonal matrix has more than another.

    From the solution $u$ of $T_0 u = x_0 u$ that starts at the first row, and $v$ of
    $T_1 v = x_1 v$ that starts at the last one, comes the Wronskian
    $W_i = e_{1,i} u_i v_{i+1} - e_{0,i} u_{i+1} v_i$ between rows $i$ and $i + 1$. For
    positive $e_0$ and $e_1$ it has a node at row $i$ where $W_{i-1}$ and $W_i$ differ in
    sign; the node weighs 1 if $W_i u_i v_i > 0$, and -1 otherwise. The sum of the weights
    is the difference of two numbers of eigenvalues, for any pair of matrices.

    So the difference is resolved in space. Let $H_i$ have the first $i$ rows of
    $T_0 - x_0$ and the others of $T_1 - x_1$, with $e_1$ where the two meet. Node $i$ is
    the number of negative eigenvalues of $H_i$ less that of $H_{i+1}$, and zero at each
    row in which $T_0 - x_0$ and $T_1 - x_1$ agree up to and including their diagonals.

    **Arguments:**

    - `d0`: the diagonal of $T_0$. Half precision is computed in `float32`.
    - `e0`: the `n - 1` entries beside it. Their signs do not matter; zeros are welcome.
    - `x0`: the numbers to count below, an array that broadcasts with the batch axes of
        all others; for one pair of matrices it may have any shape.
    - `d1`, `e1`, `x1`: the same of $T_1$.

    **Returns:**

    A [`jaxla.factor.RelativeOscillation`][]: integers `count` and `nodes`. Strictly below
    is meant: an eigenvalue of $T_0$ at $x_0$, or of $T_1$ at $x_1$, is not counted, up
    to the accuracy below. All integers are $-2^{31}$ where `x0` or `x1` is NaN, and for
    a pair with an entry that is not finite.

    **Cost:** `2 n` divisions one after the other, two at a time, and memory for `3 n`
    numbers, for each member of the batch. The memory makes this dearer than two calls of
    [`jaxla.factor.sturm_count`][], which give the count without the nodes.

    **Accuracy:** `count` is exact if each $x$ is farther than $3 u \|T\|$ from all
    eigenvalues of its matrix, however close to singular the $H_i$ are. A node next to an
    $H_i$ that is singular up to rounding errors may come a row early or late, and bring
    another with it that cancels it in the sum.

    **Differentiation:** the results are integers and have no derivatives.

    !!! example

        A bond made stronger brings an eigenvalue below -2, where the chain had none:

        >>> import jax.numpy as jnp
        >>> d, e0 = jnp.zeros(5), -jnp.ones(4)
        >>> e1 = e0.at[2].set(-3.0)
        >>> out = jaxla.factor.relative_oscillation(d, e0, -2.0, d, e1, -2.0)
        >>> out.count, out.nodes
        (Array(1, dtype=int32), Array([0, 0, 0, 1, 0], dtype=int32))

    ??? cite "Reference"

        Ammann, *Relative Oscillation Theory for Jacobi Matrices Extended*, Operators and
        Matrices 8, 2014; Ammann & Teschl, *Relative Oscillation Theory for Jacobi
        Matrices*, 2009, for perturbed diagonals.
    """
    given = [jnp.asarray(a) for a in (d0, e0, x0, d1, e1, x1)]
    for i, (d, e, x) in enumerate((given[:3], given[3:])):
        check_tridiagonal(d, e, (f"d{i}", f"e{i}"))
        check_real_float(f"x{i}", x)
    size, other = given[0].shape[-1], given[3].shape
    if other[-1] != size:
        raise ValueError(f"`d1` must have shape (..., {size}), as `d0`; got {other}.")
    dtype = compute_dtype(jnp.result_type(*given))
    ranks = [a.ndim - (i % 3 < 2) for i, a in enumerate(given)]
    d0, e0, x0, d1, e1, x1 = (
        with_rank(jax.lax.stop_gradient(a).astype(dtype), max(ranks) + a.ndim - rank)
        for a, rank in zip(given, ranks, strict=True)
    )
    d0, e0, unit0, usable0 = scaled(d0, e0)
    d1, e1, unit1, usable1 = scaled(d1, e1)
    usable = usable0 & usable1 & ~jnp.isnan(x0) & ~jnp.isnan(x1)
    usable, x0, x1 = jnp.broadcast_arrays(usable, x0 / unit0, x1 / unit1)
    x0, x1 = (jnp.where(usable, x, 0) for x in (x0, x1))
    q, p = _pivots(d0, e0 * e0, x0, d1, e1 * e1, x1)
    # Of the two, one is 1. Neither makes a number vanish, as a quotient could.
    largest = jnp.finfo(dtype).max
    factors = [jnp.clip(u, 1, largest)[None] for u in (unit0 / unit1, unit1 / unit0)]
    nodes = jnp.moveaxis(_nodes(q, p, e1 * e1, *factors), 0, -1)
    return RelativeOscillation(
        jnp.where(usable, nodes.sum(-1, dtype=jnp.int32), UNUSABLE),
        jnp.where(usable[..., None], nodes, UNUSABLE),
    )


def _pivots(d0, e0_squared, x0, d1, e1_squared, x1) -> tuple[Array, Array]:
    r"""$q_i = -e_{0,i} u_{i+1} / u_i$ and $p_i = -e_{1,i-1} v_{i-1} / v_i$, rows first.

    With these, $W_i / (u_i v_i) = q_i - e_{1,i}^2 / p_{i+1}$.
    """
    if d0.shape[-1] == 0:
        return (jnp.zeros((0, *x0.shape), x0.dtype),) * 2
    down, up = (
        (last_axis_first(d, (0, 0), 0.0), last_axis_first(e2, (1, 0), 0.0))
        for d, e2 in ((d0, e0_squared), (d1[..., ::-1], e1_squared[..., ::-1]))
    )

    def step(carry, rows):
        pivots = tuple(
            next_pivot(d - x, e2, pivot)
            for pivot, (d, e2), x in zip(carry, rows, (x0, x1), strict=True)
        )
        return pivots, pivots

    start = (jnp.ones_like(x0), jnp.ones_like(x1))
    _, (q, p) = jax.lax.scan(step, start, (down, up))
    return q, p[::-1]


def _nodes(q: Array, p: Array, e1_squared: Array, left: Array, right: Array) -> Array:
    """The weighted nodes, from pivots that need factors to be in the same unit."""
    before, after = q[:-1] < 0, p[1:] < 0
    e1_squared = last_axis_first(e1_squared, (0, 0), 0.0)
    negative = left * q[:-1] < right * (e1_squared / p[1:])
    # Whether W_i / (u_i v_i), and W_i / (u_{i+1} v_{i+1}), are negative. A zero is not.
    here = jnp.where(before == after, negative, before)
    there = here ^ before ^ after
    # The Wronskian begins as p_0, and ends as q_{n-1}.
    enters = jnp.concatenate([p[:1] < 0, there])
    leaves = jnp.concatenate([here, q[-1:] < 0])
    return enters.astype(jnp.int32) - leaves.astype(jnp.int32)

r"""One family: Jacobi's method, Gram-Schmidt and Cholesky, with random pivots.

Each step takes a set $J$ of $k$ indices and makes the block $B_{JJ}$ of a positive
definite $B$ diagonal by a congruence: with an orthogonal matrix this is Jacobi's method,
with a triangular one elimination. Applied to the columns of $A$, with $B = A^\top A$, it
is one-sided Jacobi, which leads to the SVD, or Gram-Schmidt, which leads to QR. If $J$ is
uniformly random, the potential $\Gamma(B)$ falls by the same factor on average for all:
*A Unified Perspective on Orthogonalization and Diagonalization*, arXiv 2505.02023.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxla._dtypes import compute_dtype, finiteness_and_unit, matmul
from jaxla._errors import (
    as_real_matrix,
    as_square_matrix,
    check_choice,
    refuse_derivative,
)

from ._eigh import eigh
from ._pivots import cosines, pivot_rule


class PivotedDiagonalization(NamedTuple):
    r"""$A = F^\top B F$, with a matrix $B$ that the steps make diagonal.

    - `matrix`: $B$.
    - `factor`: $F$; orthogonal, or a product of triangular matrices.
    - `off_diagonal`: the Frobenius norm of what $B$ has beside its diagonal, relative
        to that of $B$. Infinite where $A$ has an entry that is not finite.
    """

    matrix: Float[Array, "*batch n n"]
    factor: Float[Array, "*batch n n"]
    off_diagonal: Float[Array, "*batch"]


class PivotedOrthogonalization(NamedTuple):
    r"""$A = C F$, with columns $C$ that the steps make orthogonal.

    - `columns`: $C$.
    - `factor`: $F$; orthogonal, or a product of triangular matrices.
    - `coherence`: the largest cosine of an angle between two columns of $C$, apart from
        those that are zero to working precision. Infinite where $A$ has an entry that
        is not finite.
    """

    columns: Float[Array, "*batch m n"]
    factor: Float[Array, "*batch n n"]
    coherence: Float[Array, "*batch"]


Pivots = str | Int[ArrayLike, "steps k"]


def pivoted_diagonalization(
    matrix: Float[ArrayLike, "*batch n n"],
    *,
    steps: int,
    transform: str = "orthogonal",
    pivots: Pivots = "random",
    block: int = 2,
    key: PRNGKeyArray | None = None,
) -> PivotedDiagonalization:
    r"""Makes symmetric matrices diagonal, by a few rows and columns in each step.

    With orthogonal transforms this is Jacobi's method and ends at $A = V \Lambda V^\top$,
    with $V = F^\top$. With triangular ones it eliminates, and ends at $A = F^\top D F$;
    in cyclic order one sweep is enough, and $\sqrt{D} F$ is the Cholesky factor.

    **Arguments:**

    - `matrix`: real and symmetric; its symmetric part is taken. It has to be positive
        definite for triangular transforms, and for the theory. Half precision is
        computed in `float32`.
    - `steps`: how many.
    - `transform`: `"orthogonal"` or `"triangular"`. A triangular step whose block is
        not positive definite does nothing.
    - `pivots`: which indices a step takes. `"random"`: uniformly random, the same for
        all matrices of a batch (`jax.vmap` over keys gives each its own).
        `"cyclic"`: all pairs of parts of size `block // 2` in turn. `"greedy"`: the two
        with the largest $|b_{ij}| / \sqrt{b_{ii} b_{jj}}$, and those most coupled to
        them. Or an integer array of shape `(steps, block)` with different indices in
        each row.
    - `block`: how many indices, between 2 and `n`.
    - `key`: a random key, for random pivots only.

    **Returns:**

    [`jaxla.factor.PivotedDiagonalization`][], after any number of steps a factorization
    of $A$. The diagonal is not sorted. A matrix with a non-finite entry gives NaN and an
    infinite flag, and touches no other of its batch.

    **Cost:** $6 k n^2$ flops a step. Greedy pivots add a look at all entries.

    **Differentiation:** refused, with a `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> a = jnp.array([[2.0, 1.0], [1.0, 2.0]])
        >>> out = jaxla.factor.pivoted_diagonalization(a, steps=1, pivots="cyclic")
        >>> print(jnp.diagonal(out.matrix))
        [1. 3.]

    ??? cite "Reference"

        *A Unified Perspective on Orthogonalization and Diagonalization*, arXiv
        2505.02023.
    """
    matrix = as_square_matrix("matrix", matrix)
    check_choice("transform", transform, tuple(_TRANSFORMS))
    order, choose = pivot_rule(pivots, matrix.shape[-1], block, steps, key)
    diagonalize = _diagonalize(choose, _TRANSFORMS[transform])
    a = matrix.astype(compute_dtype(matrix.dtype))
    run = refuse_derivative(_each(diagonalize, a.ndim - 2), _NO_DERIVATIVE)
    return PivotedDiagonalization(*(x.astype(matrix.dtype) for x in run(a, order)))


def pivoted_orthogonalization(
    matrix: Float[ArrayLike, "*batch m n"],
    *,
    steps: int,
    transform: str = "orthogonal",
    pivots: Pivots = "random",
    block: int = 2,
    key: PRNGKeyArray | None = None,
) -> PivotedOrthogonalization:
    r"""Makes the columns of matrices orthogonal, a few of them in each step.

    With orthogonal transforms this is one-sided Jacobi and ends at the SVD
    $A = (U \Sigma) V^\top$, with $V = F^\top$. With triangular ones it is Gram-Schmidt
    and ends at $A = Q D F$; in cyclic order one sweep is the modified Gram-Schmidt
    method, and $D F$ is the triangular factor.

    **Arguments:**

    - `matrix`: real, usually with no more columns than rows. Half precision is computed
        in `float32`.
    - `steps`: how many.
    - `transform`: `"orthogonal"` or `"triangular"`.
    - `pivots`: which columns a step takes, as in
        [`jaxla.factor.pivoted_diagonalization`][] of $A^\top A$.
    - `block`: how many columns, between 2 and `n`.
    - `key`: a random key, for random pivots only.

    **Returns:**

    [`jaxla.factor.PivotedOrthogonalization`][], after any number of steps a
    factorization of $A$. A matrix with a non-finite entry gives NaN and an infinite flag,
    and touches no other of its batch.

    **Cost:** $4 k^2 m$ flops a step. Greedy pivots add a product $A^\top A$ to each.

    **Differentiation:** refused, with a `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> a = jnp.array([[3.0, 3.0], [4.0, -1.0]])
        >>> out = jaxla.factor.pivoted_orthogonalization(
        ...     a, steps=1, transform="triangular", pivots="cyclic"
        ... )
        >>> print(out.factor)
        [[1.  0.2]
         [0.  1. ]]

    ??? cite "Reference"

        *A Unified Perspective on Orthogonalization and Diagonalization*, arXiv
        2505.02023.
    """
    matrix = as_real_matrix("matrix", matrix)
    check_choice("transform", transform, tuple(_TRANSFORMS))
    order, choose = pivot_rule(pivots, matrix.shape[-1], block, steps, key)
    orthogonalize = _orthogonalize(choose, _TRANSFORMS[transform])
    a = matrix.astype(compute_dtype(matrix.dtype))
    run = refuse_derivative(_each(orthogonalize, a.ndim - 2), _NO_DERIVATIVE)
    return PivotedOrthogonalization(*(x.astype(matrix.dtype) for x in run(a, order)))


_NO_DERIVATIVE = (
    "Factorizations by pivots have no derivative: use those of `jnp.linalg.qr` or "
    "`jnp.linalg.cholesky`, or functions of `jaxla.matfun`."
)


def _rotate(b: Array) -> tuple[Array, Array, Array]:
    """`S`, its inverse and `S^T B S`, with the orthogonal `S` of eigenvectors."""
    if b.shape[-1] > 2:
        w, s = eigh(b, method="lapack")
        return s, s.T, jnp.diag(w)
    # The smaller of the two angles, without cancellation.
    off = b[0, 1]
    zeta = (b[1, 1] - b[0, 0]) / jnp.where(off == 0, 1, 2 * off)
    sign = jnp.where(zeta < 0, -1, 1).astype(b.dtype)
    tan = sign / (jnp.abs(zeta) + jnp.hypot(jnp.ones_like(zeta), zeta))
    tan = jnp.where(off == 0, 0, tan)
    cos = jax.lax.rsqrt(1 + tan * tan)
    sin = cos * tan
    s = jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])])
    return s, s.T, jnp.diag(jnp.stack([b[0, 0] - tan * off, b[1, 1] + tan * off]))


def _eliminate(b: Array) -> tuple[Array, Array, Array]:
    """`S`, its inverse and `S^T B S`, with a unit upper triangular `S`.

    Pivots that no positive semi-definite matrix has are left alone.
    """
    size = b.shape[-1]
    index, eye = jnp.arange(size), jnp.eye(size, dtype=b.dtype)
    slack = 1 + 4 * jnp.finfo(b.dtype).eps

    def step(i, carry):
        b, s, inverse = carry
        pivot, row = b[i, i], jnp.where(index > i, b[i], 0)
        ratios = row / jnp.where(pivot > 0, pivot, 1)
        # Cauchy and Schwarz: b_ij^2 <= b_ii b_jj.
        sound = (pivot > 0) & (ratios * row <= slack * jnp.diagonal(b)).all()
        ratios, row = jnp.where(sound, ratios, 0), jnp.where(sound, row, 0)
        cross = jnp.outer(eye[i], row)
        b = b - jnp.outer(ratios, row) - cross - cross.T
        return b, s - jnp.outer(s[:, i], ratios), inverse + jnp.outer(eye[i], ratios)

    b, s, inverse = jax.lax.fori_loop(0, size, step, (b, eye, eye))
    return s, inverse, b


_TRANSFORMS = {"orthogonal": _rotate, "triangular": _eliminate}


def _each(fn: Callable, num_axes: int) -> Callable:
    """`fn` for all matrices of a batch, with the same pivots."""
    for _ in range(num_axes):
        fn = jax.vmap(fn, in_axes=(0, None))
    return fn


def _diagonalize(choose: Callable, transform: Callable) -> Callable:
    def step(carry, x):
        b, f = carry
        j = choose(x, lambda: b)
        s, inverse, inner = transform(b[j[:, None], j])
        rows = matmul(s.T, b[j]).at[:, j].set(inner)
        b = b.at[j].set(rows).at[:, j].set(rows.T)
        return (b, f.at[j].set(matmul(inverse, f[j]))), None

    def run(a, order):
        usable, unit, b = _unit_scale((a + a.T) / 2)
        eye = jnp.eye(a.shape[-1], dtype=a.dtype)
        b, f = _scan(step, (b, eye), order)
        rest, whole = (jnp.sqrt(jnp.sum(x * x)) for x in (b * (1 - eye), b))
        off = jnp.where(usable, rest / jnp.where(whole == 0, 1, whole), jnp.inf)
        return jnp.where(usable, b * unit, jnp.nan), jnp.where(usable, f, jnp.nan), off

    return run


def _orthogonalize(choose: Callable, transform: Callable) -> Callable:
    def step(carry, x):
        c, f = carry
        j = choose(x, lambda: matmul(c.T, c))
        columns = c[:, j]
        s, inverse, _ = transform(matmul(columns.T, columns))
        return (
            c.at[:, j].set(matmul(columns, s)),
            f.at[j].set(matmul(inverse, f[j])),
        ), None

    def run(a, order):
        usable, unit, c = _unit_scale(a)
        start = (c, jnp.eye(a.shape[-1], dtype=a.dtype))
        c, f = _scan(step, start, order)
        norms = jnp.sqrt(jnp.sum(c * c, 0))
        least = max(a.shape) * jnp.finfo(a.dtype).eps * norms.max(initial=0)
        kept = norms > least
        gram = jnp.where(kept[:, None] & kept[None, :], matmul(c.T, c), 0)
        coherence = jnp.where(usable, cosines(gram).max(initial=0), jnp.inf)
        c, f = (jnp.where(usable, x, jnp.nan) for x in (c * unit, f))
        return c, f, coherence

    return run


def _scan(step: Callable, start: tuple[Array, Array], order: Array) -> tuple[Array, ...]:
    """All steps, of which there are none without a pair of indices."""
    return start if start[1].shape[-1] < 2 else jax.lax.scan(step, start, order)[0]


def _unit_scale(a: Array) -> tuple[Array, Array, Array]:
    """Whether all is finite, a power of two, and the matrix in units of that."""
    usable, unit = (x[0, 0] for x in finiteness_and_unit(a))
    return usable, unit, jnp.where(usable, a / unit, 0)

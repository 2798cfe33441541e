r"""Sylvester and continuous Lyapunov equations by the matrix sign function.

Newton's iteration for the sign of $\begin{pmatrix} A & C \\ 0 & -B \end{pmatrix}$, block
by block (Roberts 1980; Higham, *Functions of Matrices*, 2008, Section 5). The inverses
in it depend on $A$ and $B$ alone, and are kept, as one keeps the factors of an LU
decomposition: refinement, tangents and cotangents of $X$ apply them again, by products.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._batching import native_vmap
from jaxla._dtypes import matmul
from jaxla._errors import as_real_matrix, as_square_matrix, check_int

from ._lyapunov import (
    check_size,
    finish,
    frobenius,
    MatrixSolution,
    normalize,
    prepare,
    relative_residual,
    symmetric_like,
)


def solve_sylvester(
    a: Float[ArrayLike, "*#batch m m"],
    b: Float[ArrayLike, "*#batch n n"],
    c: Float[ArrayLike, "*#batch m n"],
    *,
    steps: int = 24,
) -> MatrixSolution:
    r"""Solves the Sylvester equation $A X + X B = C$ for $X$.

    The eigenvalues of $A$ and $B$ must all have positive real parts, or all negative
    ones. Where only the sums $\lambda_i(A) + \lambda_j(B)$ have, add $s I$ to one matrix
    and subtract it from the other: the equation stays the same.

    **Arguments:**

    - `a`: $A$, square. Half precision is computed in `float32`.
    - `b`: $B$, square.
    - `c`: $C$. The batch shapes of all three broadcast.
    - `steps`: the iteration stops after so many steps at the latest. The default
        suffices for eigenvalues whose real parts are 1e-3 of their size; well-conditioned
        equations take 5 to 8 steps, and the rest are skipped.

    **Returns:**

    [`jaxla.matfun.MatrixSolution`][]. Where the eigenvalues do not lie in one half-plane,
    `residual` is infinite.

    **Cost:** in each step taken, the inverses of both matrices and four products of
    $2 m n \max(m, n)$ flops at most. Memory: `steps` matrices of both sizes. A derivative
    takes products only.

    **Accuracy:** with one step of refinement, a residual of the order of `eps`.

    **Differentiation:** both modes and every order, with respect to all three. Zero
    where `residual` is infinite.

    !!! example

        >>> import jax.numpy as jnp
        >>> a, b = jnp.array([[1.0, 2.0], [0.0, 3.0]]), jnp.eye(1)
        >>> x = jaxla.matfun.solve_sylvester(a, b, jnp.array([[4.0], [4.0]])).solution
        >>> print(x.round(3))
        [[1.]
         [1.]]

    ??? cite "Reference"

        Roberts, *Linear model reduction and solution of the algebraic Riccati equation by
        use of the sign function*, Int. J. Control 32, 1980.
    """
    a, b, c = as_square_matrix("a", a), as_square_matrix("b", b), as_real_matrix("c", c)
    check_size("c", c, (a.shape[-1], b.shape[-1]))
    check_int("steps", steps, low=1)
    (a, b, c), out_dtype, usable = prepare(a, b, c)
    units = [normalize(matrix)[1] for matrix in (a, b)]
    unit = jnp.maximum(*units)
    a, b = a / unit, b / unit
    c, c_unit = normalize(c)
    x, converged = sylvester(a, b, c, steps)
    rest = matmul(a, x) + matmul(x, b) - c
    residual = relative_residual(rest, [(a, x), (x, b), (c,)])
    return finish(x, c_unit / unit, residual, usable & converged, out_dtype)


def solve_continuous_lyapunov(
    a: Float[ArrayLike, "*#batch n n"],
    q: Float[ArrayLike, "*#batch n n"],
    *,
    steps: int = 24,
) -> MatrixSolution:
    r"""Solves the continuous Lyapunov equation $A X + X A^\top = Q$ for $X$.

    The eigenvalues of $A$ must all have negative real parts (a stable system), or all
    positive ones. The sign of $Q$ is SciPy's: Gramians have $Q = -B B^\top$.

    **Arguments:**

    - `a`: $A$, square. Half precision is computed in `float32`.
    - `q`: $Q$, square, of the same size. The batch shapes of `a` and `q` broadcast.
    - `steps`: as in [`jaxla.matfun.solve_sylvester`][].

    **Returns:**

    [`jaxla.matfun.MatrixSolution`][]; the solution is symmetric where $Q$ is. Where the
    eigenvalues do not lie in one half-plane, `residual` is infinite.

    **Cost:** in each step taken, one inverse and four $2 n^3$ products; half of what
    `solve_sylvester` takes. Memory: `steps` matrices.

    **Accuracy:** with one step of refinement, a residual of the order of `eps`.

    **Differentiation:** both modes and every order, with respect to both arguments. Zero
    where `residual` is infinite.

    !!! example

        >>> import jax.numpy as jnp
        >>> a = jnp.array([[-1.0, 1.0], [0.0, -2.0]])
        >>> print(jaxla.matfun.solve_continuous_lyapunov(a, -jnp.eye(2)).solution)
        [[0.58333 0.08333]
         [0.08333 0.25   ]]

    ??? cite "Reference"

        Roberts, *Linear model reduction and solution of the algebraic Riccati equation by
        use of the sign function*, Int. J. Control 32, 1980.
    """
    a, q = as_square_matrix("a", a), as_square_matrix("q", q)
    check_size("q", q, a.shape[-1:] * 2)
    check_int("steps", steps, low=1)
    (a, q), out_dtype, usable = prepare(a, q)
    (a, unit), (q, q_unit) = normalize(a), normalize(q)
    x, converged = continuous_lyapunov(a, q, steps)
    x = symmetric_like(x, q)
    rest = matmul(a, x) + matmul(x, a.mT) - q
    residual = relative_residual(rest, [(a, x), (a, x), (q,)])
    return finish(x, q_unit / unit, residual, usable & converged, out_dtype)


def sylvester(a: Array, b: Array, c: Array, steps: int) -> tuple[Array, Array]:
    """The solution alone, and whether it converged, of normalized arrays of one rank."""
    matvec = lambda x: matmul(a, x) + matmul(x, b)
    return _solve(matvec, jax.lax.stop_gradient((a, b)), c, steps)


def continuous_lyapunov(a: Array, q: Array, steps: int) -> tuple[Array, Array]:
    """The solution alone, and whether it converged, of normalized arrays of one rank."""
    matvec = lambda x: matmul(a, x) + matmul(x, a.mT)
    return _solve(matvec, (jax.lax.stop_gradient(a),), q, steps)


def _solve(matvec, pair, c: Array, steps: int) -> tuple[Array, Array]:
    factors = native_vmap(functools.partial(_newton, steps=steps))(pair)
    batch = jnp.broadcast_shapes(factors.sign.shape[:-2], c.shape[:-2])
    c = jnp.broadcast_to(c, batch + c.shape[-2:])
    # The transposed equation, A^T Z + Z B^T = G, has the transposed inverses.
    transposed = factors._replace(left=factors.left.mT, right=factors.right.mT)

    def refined(factors):
        apply = lambda c: native_vmap(_apply)(factors, c)

        def solve(matvec, c):
            x = apply(c)
            x = x + apply(c - matvec(x))
            return jnp.where(factors.converged[..., None, None], x, 0)

        return solve

    x = jax.lax.custom_linear_solve(matvec, c, refined(factors), refined(transposed))
    return x, factors.converged


class _Factors(NamedTuple):
    """The steps, along axis -3, and what became of them.

    - `keep`, `left`, `right`: a step takes `C` to `keep C + left C right`; after the
        last one `keep` is zero.
    - `sign`: of the half-plane.
    - `converged`: whether both matrices became the identity.
    """

    keep: Array
    left: Array
    right: Array
    sign: Array
    converged: Array


def _newton(pair: tuple[Array, ...], *, steps: int) -> _Factors:
    """The steps on `(A, B)`, or on `(A,)` where `B` is the transpose of `A`."""
    trace = lambda x: jnp.trace(x, axis1=-2, axis2=-1)[..., None, None]
    sign = jnp.where(sum(map(trace, pair)) < 0, -1, 1).astype(pair[0].dtype)
    pair = tuple(sign * x for x in pair)
    skipped = (jnp.zeros_like(sign), *map(jnp.zeros_like, pair))

    def step(carry, _):
        return jax.lax.cond(carry[1].any(), _step, lambda carry: (carry, skipped), carry)

    start = (pair, jnp.ones_like(sign, bool))
    (pair, _), kept = jax.lax.scan(step, start, length=steps)
    keep, left, *others = (jnp.moveaxis(x, 0, -3) for x in kept)
    right = others[0] if others else left.mT
    return _Factors(keep, left, right, sign, _distance(pair)[..., 0, 0] < 1)


def _step(carry):
    """One step of those that are active, and what it does to `C`."""
    pair, active = carry
    inverses = _inverses(pair)
    # mu = (|M^-1| / |M|)^(1/2) with M = diag(A, -B). Close to the end it is 1: there
    # convergence is quadratic.
    mu = jnp.sqrt(_norm(inverses) / _norm(pair))
    mu = jnp.where(_distance(pair) < 0.1, 1, mu)
    new = tuple((mu * x + y / mu) / 2 for x, y in zip(pair, inverses, strict=True))
    change = _norm([x - y for x, y in zip(new, pair, strict=True)])
    # What has become infinite or NaN, because a matrix was singular, does not move.
    active = active & jnp.isfinite(change)
    root = jnp.sqrt(2 * mu)
    kept = (jnp.where(active, y / root, 0) for y in inverses)
    pair = tuple(jnp.where(active, x, y) for x, y in zip(new, pair, strict=True))
    tolerance = jnp.finfo(mu.dtype).eps ** 0.5 / 4
    done = (pair, active & (change > tolerance))
    return done, (jnp.where(active, mu / 2, 0), *kept)


def _inverses(pair: tuple[Array, ...]) -> tuple[Array, ...]:
    # One call, or one after the other: JAX 0.10 can wait forever on two at a time.
    if len(pair) == 1 or pair[0].shape == pair[1].shape:
        return tuple(jnp.linalg.inv(jnp.stack(pair)))
    first = jnp.linalg.inv(pair[0])
    finite = jnp.isfinite(first).all((-2, -1), keepdims=True)
    return first, jnp.linalg.inv(jnp.where(finite, pair[1], jnp.nan))


def _norm(matrices: Sequence[Array]) -> Array:
    norms = [frobenius(x)[..., None, None] for x in matrices]
    return functools.reduce(jnp.hypot, norms)


def _distance(pair: tuple[Array, ...]) -> Array:
    eye = lambda x: jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    return _norm([x - eye(x) for x in pair])


def _apply(factors: _Factors, c: Array) -> Array:
    """What the steps make of `C`, half of which is `X`."""

    def step(c, factor):
        keep, left, right = factor
        new = lambda c: keep * c + matmul(left, matmul(c, right))
        moved = lambda c: jnp.where(keep > 0, new(c), c)
        return jax.lax.cond((keep > 0).any(), moved, lambda c: c, c), None

    kept = (factors.keep, factors.left, factors.right)
    steps = tuple(jnp.moveaxis(x, -3, 0) for x in kept)
    c, _ = jax.lax.scan(step, factors.sign * c, steps)
    return c / 2

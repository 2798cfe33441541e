r"""Continuous and discrete algebraic Riccati equations by doubling.

The structure-preserving doubling algorithm (SDA) of Chu, Fan, Lin and Wang (2004) for
the discrete equation; the continuous one becomes a discrete one by a Cayley transform
(Chu, Fan and Lin 2005). One step of Newton's method follows. The derivative solves the
equation of that step, a Lyapunov or Stein equation in the closed loop.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import matmul, next_power_of_two
from jaxla._errors import as_square_matrix, check_int, check_real_float

from ._lyapunov import (
    check_size,
    finish,
    frobenius,
    MatrixSolution,
    normalize,
    prepare,
    relative_residual,
)
from ._stein import discrete_lyapunov
from ._sylvester import continuous_lyapunov


# Of the equations of Newton's step and of the derivative, which are well-conditioned
# where the Riccati equation is.
INNER_STEPS = 24


def solve_continuous_are(
    a: Float[ArrayLike, "*#batch n n"],
    b: Float[ArrayLike, "*#batch n m"],
    q: Float[ArrayLike, "*#batch n n"],
    r: Float[ArrayLike, "*#batch m m"],
    *,
    steps: int = 32,
) -> MatrixSolution:
    r"""Solves $A^\top X + X A - X B R^{-1} B^\top X + Q = 0$ for the stabilizing $X$.

    That is the cost matrix of the linear-quadratic regulator of $x' = A x + B u$: with
    $K = R^{-1} B^\top X$, all eigenvalues of $A - B K$ have negative real parts.

    **Arguments:**

    - `a`: $A$, square. Half precision is computed in `float32`.
    - `b`: $B$; $(A, B)$ must be stabilizable.
    - `q`: $Q$, positive semi-definite; its symmetric part is taken. $(A, Q)$ must be
        detectable.
    - `r`: $R$, positive definite; its symmetric part is taken. The batch shapes of all
        four broadcast.
    - `steps`: at most so many doublings are done; those after convergence are skipped.

    **Returns:**

    [`jaxla.matfun.MatrixSolution`][]; the solution is symmetric. Where there is no
    stabilizing solution, where $(A, Q)$ is not detectable, and where what was found does
    not stabilize because of rounding, it is zero and `residual` infinite.

    **Cost:** two LU decompositions of size $2 n$; in each step taken, usually 5 to 12,
    one of size $n$ and six products. Then a Lyapunov equation, and one for a derivative.

    **Differentiation:** both modes and every order, with respect to all four. Zero where
    `residual` is infinite.

    !!! example

        >>> import jax.numpy as jnp
        >>> a, b = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.array([[0.0], [1.0]])
        >>> x = jaxla.matfun.solve_continuous_are(a, b, jnp.eye(2), jnp.eye(1))
        >>> print(x.solution)
        [[1.732 1.   ]
         [1.    1.732]]

    ??? cite "Reference"

        Chu, Fan and Lin, *A structure-preserving doubling algorithm for continuous-time
        algebraic Riccati equations*, Linear Algebra Appl. 396, 2005.
    """
    check_int("steps", steps, low=1)
    (a, g, q), unit, usable, out_dtype = _prepare(a, b, q, r)
    # X = unit Y, with A, G and Q over the largest of their entries: times 1 / time.
    time = functools.reduce(jnp.maximum, (normalize(matrix)[1] for matrix in (a, g, q)))
    a, g, q = a / time, g / time, q / time
    x, residual = _continuous(steps, a, g, q)
    return finish(x, unit, jax.lax.stop_gradient(residual), usable, out_dtype)


def solve_discrete_are(
    a: Float[ArrayLike, "*#batch n n"],
    b: Float[ArrayLike, "*#batch n m"],
    q: Float[ArrayLike, "*#batch n n"],
    r: Float[ArrayLike, "*#batch m m"],
    *,
    steps: int = 32,
) -> MatrixSolution:
    r"""Solves $X = A^\top X A - A^\top X B (R + B^\top X B)^{-1} B^\top X A + Q$.

    Of its solutions $X$ the stabilizing one, which is the cost matrix of the
    linear-quadratic regulator of $x_{k+1} = A x_k + B u_k$: with
    $K = (R + B^\top X B)^{-1} B^\top X A$, all eigenvalues of $A - B K$ lie inside the
    unit circle.

    **Arguments:**

    - `a`: $A$, square, may be singular. Half precision is computed in `float32`.
    - `b`: $B$; $(A, B)$ must be stabilizable.
    - `q`: $Q$, positive semi-definite; its symmetric part is taken. $(A, Q)$ must be
        detectable.
    - `r`: $R$, positive definite; its symmetric part is taken. The batch shapes of all
        four broadcast.
    - `steps`: at most so many doublings are done; those after convergence are skipped.

    **Returns:**

    [`jaxla.matfun.MatrixSolution`][]; the solution is symmetric. Where there is no
    stabilizing solution, where $(A, Q)$ is not detectable, and where what was found does
    not stabilize because of rounding, it is zero and `residual` infinite.

    **Cost:** in each step taken, usually 5 to 12, one LU decomposition and six products.
    Then a Stein equation, and one for a derivative.

    **Differentiation:** both modes and every order, with respect to all four. Zero where
    `residual` is infinite.

    !!! example

        >>> import jax.numpy as jnp
        >>> one = jnp.eye(1)
        >>> print(jaxla.matfun.solve_discrete_are(one, one, one, one).solution)
        [[1.618]]

    ??? cite "Reference"

        Chu, Fan, Lin and Wang, *Structure-preserving algorithms for periodic
        discrete-time algebraic Riccati equations*, Int. J. Control 77, 2004.
    """
    check_int("steps", steps, low=1)
    (a, g, q), unit, usable, out_dtype = _prepare(a, b, q, r)
    x, residual = _discrete(steps, a, g, q)
    return finish(x, unit, jax.lax.stop_gradient(residual), usable, out_dtype)


def _prepare(a, b, q, r):
    """`A`, `G = B R^-1 B^T` and `Q`, for `X` over a power of two; and that power.

    It makes `G` and `Q` equally large.
    """
    a, (b, q, r) = as_square_matrix("a", a), map(jnp.asarray, (b, q, r))
    n, m = a.shape[-1], b.shape[-1] if b.ndim > 1 else "m"
    for name, x, shape in (("b", b, (n, m)), ("q", q, (n, n)), ("r", r, (m, m))):
        check_size(name, x, shape)
        check_real_float(name, x)
    (a, b, q, r), out_dtype, usable = prepare(a, b, q, r)
    (b, b_unit), (r, r_unit) = normalize(b), normalize((r + r.mT) / 2)
    q, q_unit = normalize((q + q.mT) / 2)
    regular = jnp.isfinite(jnp.linalg.inv(jax.lax.stop_gradient(r)))
    regular = regular.all((-2, -1), keepdims=True)
    r = jnp.where(regular, r, _eye(r))
    g = matmul(b, jnp.linalg.solve(r, _expand(_batch(b, r), b.mT)))
    g, g_unit = normalize((g + g.mT) / 2)
    # G becomes b_unit^2 / r_unit g_unit unit large, and Q becomes q_unit / unit.
    root = jnp.sqrt(q_unit) * jnp.sqrt(r_unit) / jnp.sqrt(g_unit)
    unit = next_power_of_two(root / b_unit)
    g = g * (g_unit * b_unit * (b_unit / r_unit * unit))
    q = q * (q_unit / unit)
    arrays = [_expand(_batch(a, g, q), x) for x in (a, g, q)]
    return arrays, unit, usable & regular[..., 0, 0], out_dtype


def _batch(*arrays: Array) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(x.shape[:-2] for x in arrays))


def _expand(batch: tuple[int, ...], x: Array) -> Array:
    return jnp.broadcast_to(x, batch + x.shape[-2:])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _continuous(steps: int, a: Array, g: Array, q: Array) -> tuple[Array, Array]:
    """The solution of `A^T X + X A - X G X + Q = 0`, and its residual."""
    n = a.shape[-1]
    eye = _eye(a)
    hamiltonian = _blocks(a, -g, -q, -a.mT)
    # gamma is about the geometric mean of the eigenvalues of the closed loop, and is none
    # of them: an unstable eigenvalue of A that it equals would make `left` singular.
    log_size = jnp.linalg.slogdet(hamiltonian)[1][..., None, None] / max(2 * n, 1)
    least = jnp.finfo(a.dtype).eps ** 0.5 * jnp.abs(hamiltonian).max((-2, -1), initial=0)
    gamma = 1.3 * jnp.maximum(jnp.exp(log_size), least[..., None, None])
    # [[E, G], [-H, E^T]] = left^-1 right
    left = _blocks(a - gamma * eye, -g, -q, gamma * eye - a.mT)
    right = _blocks(a + gamma * eye, -g, -q, -gamma * eye - a.mT)
    start = jnp.linalg.solve(left, right)
    x, last = _doubled(start[..., :n, :n], start[..., :n, n:], -start[..., n:, :n], steps)

    def newton(closed, rest):
        return continuous_lyapunov(closed.mT, -rest, INNER_STEPS)

    return _improved(lambda x: _continuous_loop(a, g, q, x), newton, x, last)


@_continuous.defjvp
def _(steps, primals, tangents):
    a, g, q = primals
    da, dg, dq = tangents
    x, residual = _continuous(steps, a, g, q)
    half = matmul(x, da)
    rhs = half + half.mT + dq - matmul(matmul(x, dg), x)
    closed = a - matmul(g, x)
    dx, _ = continuous_lyapunov(closed.mT, -rhs, INNER_STEPS)
    return (x, residual), (dx, jnp.zeros_like(residual))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _discrete(steps: int, a: Array, g: Array, q: Array) -> tuple[Array, Array]:
    """The solution of `X = A^T X (I + G X)^-1 A + Q`, and its residual."""
    x, last = _doubled(a, g, q, steps)

    def newton(closed, rest):
        return discrete_lyapunov(closed.mT, rest, INNER_STEPS)

    return _improved(lambda x: _discrete_loop(a, g, q, x), newton, x, last)


@_discrete.defjvp
def _(steps, primals, tangents):
    a, g, q = primals
    da, dg, dq = tangents
    x, residual = _discrete(steps, a, g, q)
    closed = _discrete_loop(a, g, q, x)[0]
    x_closed = matmul(x, closed)
    half = matmul(x_closed.mT, da)
    rhs = half + half.mT + dq - matmul(x_closed.mT, matmul(dg, x_closed))
    dx, _ = discrete_lyapunov(closed.mT, rhs, INNER_STEPS)
    return (x, residual), (dx, jnp.zeros_like(residual))


def _doubled(e: Array, g: Array, h: Array, steps: int) -> tuple[Array, Array]:
    """The limit of `H`, and the norm of the last `E`, which goes to zero with it."""
    n = e.shape[-1]
    eye = _eye(e)
    mean = lambda x: (x + x.mT) / 2
    enough = jnp.finfo(e.dtype).eps / 4

    def step(carry):
        k, *old, active = carry
        e, g, h = old
        solved = jnp.linalg.solve(eye + matmul(g, h), jnp.concatenate([e, g], -1))
        next_e, next_g = solved[..., :n], solved[..., n:]
        new = (
            matmul(e, next_e),
            mean(g + matmul(e, matmul(next_g, e.mT))),
            mean(h + matmul(e.mT, matmul(h, next_e))),
        )
        finite = functools.reduce(jnp.logical_and, (jnp.isfinite(x) for x in new))
        active = active & finite.all((-2, -1), keepdims=True)
        moved = [jnp.where(active, x, y) for x, y in zip(new, old, strict=True)]
        size = frobenius(moved[0])[..., None, None]
        return k + 1, *moved, active & (size * size > enough)

    def unfinished(carry):
        return (carry[0] < steps) & carry[-1].any()

    start = [jnp.nan_to_num(x) for x in (e, mean(g), mean(h))]
    finite = jnp.isfinite(e).all((-2, -1), keepdims=True)
    carry = (jnp.zeros((), "int32"), *start, finite)
    _, e, _, h, _ = jax.lax.while_loop(unfinished, step, carry)
    last = jnp.where(finite[..., 0, 0], frobenius(e), jnp.inf)
    return jnp.where((last < 1)[..., None, None], h, 0), last


def _improved(loop_of, newton, x: Array, last: Array) -> tuple[Array, Array]:
    """`X` after a step of Newton's method where that helps, and its residual.

    Zero and infinite where the closed loop is not stable: another solution of the
    equation does not count, however small its residual.
    """
    closed, rest, terms = loop_of(x)
    change, stable = newton(closed, rest)
    new = x + (change + change.mT) / 2
    _, new_rest, new_terms = loop_of(new)
    old_size = relative_residual(rest, terms)
    new_size = relative_residual(new_rest, new_terms)
    better = new_size < old_size
    found = (last < 1) & stable
    residual = jnp.where(found, jnp.where(better, new_size, old_size), jnp.inf)
    x = jnp.where(better[..., None, None], new, x)
    return jnp.where(found[..., None, None], x, 0), residual


def _continuous_loop(a: Array, g: Array, q: Array, x: Array):
    """The closed loop, what the equation leaves, and its terms."""
    half = matmul(x, a - matmul(g, x) / 2)
    rest = half + half.mT + q
    return a - matmul(g, x), rest, [(a, x), (a, x), (x, g, x), (q,)]


def _discrete_loop(a: Array, g: Array, q: Array, x: Array):
    """The closed loop, what the equation leaves, and its terms."""
    eye = _eye(a)
    # Joseph's form, with P for what is X (I + G X)^-1 A: an error of P, which can be
    # large where G X is, counts only by its square.
    p = matmul(x, jnp.linalg.solve(eye + matmul(g, x), a))
    closed = a - matmul(g, p)
    rest = matmul(closed.mT, matmul(x, closed)) + matmul(p.mT, matmul(g, p)) + q - x
    return closed, (rest + rest.mT) / 2, [(a, x, closed), (x,), (q,)]


def _eye(like: Array) -> Array:
    return jnp.broadcast_to(jnp.eye(like.shape[-1], dtype=like.dtype), like.shape)


def _blocks(a: Array, b: Array, c: Array, d: Array) -> Array:
    rows = jnp.concatenate([a, b], -1), jnp.concatenate([c, d], -1)
    return jnp.concatenate(rows, -2)

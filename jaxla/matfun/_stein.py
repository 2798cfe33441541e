r"""The discrete Lyapunov (Stein) equation $X = A X A^\top + Q$ by squared Smith doubling.

$X = \sum_k A^k Q (A^\top)^k$, and each step doubles the number of terms
(Smith, *Matrix equation XA + BX = C*, SIAM J. Appl. Math. 16, 1968).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import matmul
from jaxla._errors import as_square_matrix, check_int

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


def solve_discrete_lyapunov(
    a: Float[ArrayLike, "*#batch n n"],
    q: Float[ArrayLike, "*#batch n n"],
    *,
    steps: int = 24,
) -> MatrixSolution:
    r"""Solves the discrete Lyapunov (Stein) equation $X = A X A^\top + Q$ for $X$.

    The eigenvalues of $A$ must lie inside the unit circle.

    **Arguments:**

    - `a`: $A$, square. Half precision is computed in `float32`.
    - `q`: $Q$, square, of the same size. The batch shapes of `a` and `q` broadcast.
    - `steps`: at most so many doublings are done. A spectral radius of $1 - \delta$ takes
        about $\log_2(1 / \delta) + 5$, which is 15 for 0.999, in `float64`. The rest are
        skipped.

    **Returns:**

    [`jaxla.matfun.MatrixSolution`][]; the solution is symmetric where $Q$ is. Where the
    powers of $A$ do not decay, `residual` is infinite.

    **Cost:** in each step taken, four $2 n^3$ products at most; for a derivative three.

    **Differentiation:** both modes and every order, with respect to both arguments. Zero
    where `residual` is infinite.

    !!! example

        >>> import jax.numpy as jnp
        >>> a = jnp.array([[0.5, 0.0], [0.0, 0.0]])
        >>> print(jaxla.matfun.solve_discrete_lyapunov(a, 3 * jnp.eye(2)).solution)
        [[4. 0.]
         [0. 3.]]

    ??? cite "Reference"

        Smith, *Matrix equation XA + BX = C*, SIAM J. Appl. Math. 16, 1968.
    """
    a, q = as_square_matrix("a", a), as_square_matrix("q", q)
    check_size("q", q, a.shape[-1:] * 2)
    check_int("steps", steps, low=1)
    (a, q), out_dtype, usable = prepare(a, q)
    q, unit = normalize(q)
    x, converged = discrete_lyapunov(a, q, steps)
    x = symmetric_like(x, q)
    rest = matmul(matmul(a, x), a.mT) + q - x
    residual = relative_residual(rest, [(a, x, a), (x,), (q,)])
    return finish(x, unit, residual, usable & converged, out_dtype)


def discrete_lyapunov(a: Array, q: Array, steps: int) -> tuple[Array, Array]:
    """The solution alone, and whether it converged, of normalized arrays of one rank."""
    batch = jnp.broadcast_shapes(a.shape[:-2], q.shape[:-2])
    q = jnp.broadcast_to(q, batch + q.shape[-2:])
    fixed = jax.lax.stop_gradient(a)
    solvable = _decays(fixed, steps)
    x = jax.lax.custom_linear_solve(
        lambda x: x - matmul(matmul(a, x), a.mT),
        q,
        lambda _, q: _smith(fixed, q, solvable, steps),
        # Z = A^T Z A + G
        lambda _, g: _smith(fixed.mT, g, solvable, steps),
    )
    return x, solvable


def _decays(a: Array, steps: int) -> Array:
    """Whether the power `2^steps` of `A`, or an earlier one, has a norm below 1."""

    def step(carry):
        k, a, size = carry
        # What is small enough, infinite or NaN stays as it is.
        undecided = (size >= 1) & jnp.isfinite(size)
        square = jnp.where(undecided[..., None, None], matmul(a, a), a)
        return k + 1, square, frobenius(square)

    def unfinished(carry):
        k, _, size = carry
        return (k < steps) & ((size >= 1) & jnp.isfinite(size)).any()

    start = (jnp.zeros((), "int32"), a, frobenius(a))
    return jax.lax.while_loop(unfinished, step, start)[2] < 1


def _smith(a: Array, q: Array, solvable: Array, steps: int) -> Array:
    """The sum of `2^steps` terms, or of as many as count; zero if not `solvable`."""
    enough = jnp.finfo(a.dtype).eps / 4
    solvable = solvable[..., None, None]

    def step(carry):
        k, a, x, active = carry
        x = jnp.where(active, x + matmul(matmul(a, x), a.mT), x)
        a = jnp.where(active, matmul(a, a), a)
        size = frobenius(a)[..., None, None]
        return k + 1, a, x, active & (size * size > enough)

    def unfinished(carry):
        return (carry[0] < steps) & carry[3].any()

    start = (jnp.zeros((), "int32"), a, q, solvable)
    return jnp.where(solvable, jax.lax.while_loop(unfinished, step, start)[2], 0)

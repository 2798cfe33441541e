r"""The sign of a square matrix, by Newton's iteration.

$X_{k+1} = \frac12 (\mu_k X_k + (\mu_k X_k)^{-1})$ takes eigenvalues in the right half
plane to 1 and those in the left to -1 (Roberts, 1971).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, finiteness_and_unit, matmul
from jaxla._errors import as_square_matrix, check_int

from ._certified import flat_where_not_finite, frobenius, MatrixFunction, norm_ratio


def signm(matrix: Float[ArrayLike, "*batch n n"], *, steps: int = 16) -> MatrixFunction:
    r"""Computes the matrix sign function, $A (A^2)^{-1/2}$.

    **Arguments:**

    - `matrix`: square, not necessarily symmetric, without eigenvalues on the
        imaginary axis. Half precision is computed in `float32`.
    - `steps`: of Newton's iteration. 16 are enough for eigenvalues within some 30
        degrees of the imaginary axis and a condition number of 1e8; the residual tells.
        (Static.)

    **Returns:**

    [`jaxla.matfun.MatrixFunction`][]: the sign $S$ in the dtype of `matrix`, and the
    residual $\|S^2 - I\|_F / \sqrt{n}$.

    **Cost:** `steps` inverses.

    **Differentiation:** both modes and every order, through the iteration, which
    converges to the derivative as fast as to the sign.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.signm(jnp.array([[2.0, 3.0], [0.0, -1.0]])).value)
        [[ 1.  2.]
         [ 0. -1.]]

    ??? cite "Reference"

        Higham, *Functions of Matrices*, SIAM 2008, Chapter 5.
    """
    matrix = as_square_matrix("matrix", matrix)
    check_int("steps", steps, low=1)
    a = matrix.astype(compute_dtype(matrix.dtype))
    usable, unit = finiteness_and_unit(a)
    eye = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
    a = jnp.where(usable, a / unit, eye)

    def step(x, _):
        inverse = jnp.linalg.inv(x)
        mu = jax.lax.stop_gradient(_scale(x, inverse))
        return (mu * x + inverse / mu) / 2, None

    iterate = lambda a: (jax.lax.scan(step, a, length=steps)[0],)
    (s,) = flat_where_not_finite(iterate)(a)
    fixed = jax.lax.stop_gradient(s)
    residual = norm_ratio(matmul(fixed, fixed) - eye, eye)
    good = usable[..., 0, 0] & jnp.isfinite(residual)
    s = jnp.where(good[..., None, None], s, 0)
    return MatrixFunction(s.astype(matrix.dtype), jnp.where(good, residual, jnp.inf))


def _scale(x: Array, inverse: Array) -> Array:
    """Makes both terms of the step equally large, until the iteration converges."""
    mu = jnp.sqrt(frobenius(inverse) / frobenius(x))
    # Scaling would slow the last steps down, where x is its own inverse.
    far = frobenius(x - inverse) > 0.1 * frobenius(x)
    return jnp.where(far & jnp.isfinite(mu) & (mu > 0), mu, 1)[..., None, None]

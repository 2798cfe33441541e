r"""Eigenvalues of symmetric matrices without their eigenvectors.

On CPU, reduction to tridiagonal form and bisection take less time than LAPACK's driver,
which finds eigenvectors too and throws them away. On TPU there is no such reduction, and
on GPU each step of the loop over pivots would be a kernel: there it is JAX's `eigvalsh`.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import compute_dtype, finiteness_and_unit, matmul
from jaxla._errors import as_square_matrix, refuse_derivative

from ._eigh import eigh
from ._tridiagonal import bisect


# The side of a matrix from which the reduction pays, for one matrix and for many of them;
# see benchmarks/eigenvalues.py.
LEAST_SIZE = 32
LEAST_SIZE_OF_MANY = 11
MANY = 64


def eigvalsh(matrix: Float[ArrayLike, "*batch n n"]) -> Float[Array, "*batch n"]:
    r"""Computes the eigenvalues of symmetric matrices.

    **Arguments:**

    - `matrix`: real and symmetric; its symmetric part is taken. Half precision is
        computed in `float32`.

    **Returns:**

    The eigenvalues, ascending, in the dtype of `matrix`. A matrix with a non-finite entry
    has NaN everywhere, and touches no other of its batch.

    **Cost:** a reduction to tridiagonal form, $4 n^3 / 3$ flops, and about
    $(27 - \log_2 n) n^2$ divisions in `float32`, on CPU from 32 x 32 on, and
    from 11 x 11 for 64 matrices and more. Elsewhere `jnp.linalg.eigvalsh`; for smaller
    matrices [`jaxla.factor.eigh`][].

    `jax.export` for CPU and TPU in one module fails, as JAX then wants every branch for
    both; export for each.

    **Accuracy:** absolute errors of a few times $u \|A\|$, with the unit roundoff $u$.

    **Differentiation:** once, in both modes:
    $\mathrm{d}\lambda_i = v_i^\top \mathrm{d}A\, v_i$. The eigenvectors are computed only
    for this. At repeated eigenvalues any symmetric function of them has the right
    derivative. A second derivative raises `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> jaxla.factor.eigvalsh(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
        Array([1., 3.], dtype=float32)

    ??? cite "Reference"

        Golub & Van Loan, *Matrix Computations*, 4th ed., Sections 8.3.1 and 8.4.1.
    """
    matrix = as_square_matrix("matrix", matrix)
    a = matrix.astype(compute_dtype(matrix.dtype))
    return _eigvalsh(a).astype(matrix.dtype)


@jax.custom_jvp
def _eigvalsh(a: Array) -> Array:
    size, many = a.shape[-1], math.prod(a.shape[:-2]) >= MANY
    if size < (LEAST_SIZE_OF_MANY if many else LEAST_SIZE) or a.size == 0:
        return eigh(a).eigenvalues
    usable, unit = finiteness_and_unit(a)
    scaled = jnp.where(usable, a / unit, 0)
    w = jax.lax.platform_dependent(
        (scaled + scaled.mT) / 2, cpu=_by_bisection, default=_by_library
    )
    return jnp.where(usable[..., 0], w * unit[..., 0], jnp.nan)


@_eigvalsh.defjvp
def _eigvalsh_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    once = refuse_derivative(
        lambda a: tuple(eigh(a)),
        "`eigvalsh` can be differentiated once only. Where all eigenvalues differ, "
        "`jnp.linalg.eigvalsh` has higher derivatives.",
    )
    w, v = once(a)
    return w, (v * matmul(da, v)).sum(-2)


def _by_bisection(a: Array) -> Array:
    _, d, e, _ = jax.lax.linalg.tridiagonal(a)
    # The entries of T are at most |A| <= n: squares are far from overflow.
    return bisect(d, e)


def _by_library(a: Array) -> Array:
    return jnp.linalg.eigvalsh(a, symmetrize_input=False)

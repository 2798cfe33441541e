"""Operators that are given by all of their entries, and those that factorize them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import matmul
from jaxla._errors import as_real_matrix
from jaxla.factor import eigh

from ._batches import aligned
from ._operator import Cost, Operator, Solver


class FullMatrix(Operator):
    """An operator whose solve, determinant and eigenvectors are those of its matrix."""

    def _solvers(self) -> tuple[Solver, Solver]:
        return lu_solvers(*lu(self._as_matrix()))

    def _slogdet(self) -> tuple[Array, Array]:
        return slogdet(self._as_matrix())

    def _eigh(self) -> tuple[Array, Operator]:
        w, v = eigh(self._as_matrix())
        return w, Dense(v)


class Dense(FullMatrix):
    r"""A matrix as an operator.

    **Arguments:**

    - `matrix`: any real matrix, or a batch.

    **Cost:** $2 m n$ flops a product; an LU decomposition, $\tfrac23 n^3$, a solve.

    !!! example

        >>> import jax.numpy as jnp
        >>> a = jaxla.operators.Dense(jnp.array([[2.0, 0.0], [1.0, 4.0]]))
        >>> a.mv(jnp.ones(2)), a.solve(jnp.array([2.0, 5.0]))
        (Array([2., 5.], dtype=float32), Array([1., 1.], dtype=float32))
    """

    matrix: Float[Array, "*batch m n"]

    def __init__(self, matrix: Float[ArrayLike, "*batch m n"]):
        self.matrix = as_real_matrix("matrix", matrix)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape

    @property
    def T(self) -> "Dense":
        return Dense(self.matrix.mT)

    def cost(self) -> Cost:
        m, n = self.shape[-2:]
        return Cost(2 * m * n, 2 * n**3 // 3 + 2 * n * n if m == n else None)

    def _mm(self, x: Array) -> Array:
        return matmul(self.matrix, x)

    def _as_matrix(self) -> Array:
        return self.matrix

    def _diagonal(self) -> Array:
        return jnp.diagonal(self.matrix, axis1=-2, axis2=-1)

    def _plus_identity(self, shift: Array) -> "Dense":
        matrix, shift = aligned((self.matrix, 2), (shift, 0))
        eye = jnp.eye(self.shape[-1], dtype=matrix.dtype)
        return Dense(matrix + shift[..., None, None] * _like(eye, matrix))

    def _symmetric_part(self) -> "Dense":
        return Dense((self.matrix + self.matrix.mT) / 2)

    def _times(self, other: Operator) -> "Dense | None":
        return Dense(self.mm(other.matrix)) if isinstance(other, Dense) else None


def as_operator(value: "Operator | ArrayLike") -> Operator:
    """The operator itself, or that of an array."""
    return value if isinstance(value, Operator) else Dense(value)


def lu(matrix: Array) -> tuple[Array, Array]:
    """The LU decomposition, and which row of the matrix each of its rows is."""
    factors, _, permutation = jax.lax.linalg.lu(matrix)
    return factors, permutation


def lu_solvers(factors: Array, permutation: Array) -> tuple[Solver, Solver]:
    """Solves with a matrix and with its transpose from its LU decomposition."""

    def triangular(b: Array, *, lower: bool, transpose: bool) -> Array:
        a = jnp.broadcast_to(factors, b.shape[:-2] + factors.shape[-2:])
        return jax.lax.linalg.triangular_solve(
            a, b, left_side=True, lower=lower, transpose_a=transpose, unit_diagonal=lower
        )

    def rows(b: Array, order: Array) -> Array:
        order = jnp.broadcast_to(order, b.shape[:-1])
        return jnp.take_along_axis(b, order[..., None], -2)

    def solve(b: Array) -> Array:
        half = triangular(rows(b, permutation), lower=True, transpose=False)
        return triangular(half, lower=False, transpose=False)

    def transposed(b: Array) -> Array:
        half = triangular(b, lower=False, transpose=True)
        half = triangular(half, lower=True, transpose=True)
        return rows(half, jnp.argsort(permutation))

    return solve, transposed


def slogdet(matrix: Array) -> tuple[Array, Array]:
    sign, logabsdet = jnp.linalg.slogdet(matrix)
    return sign, logabsdet


def _like(eye: Array, matrix: Array) -> Array:
    return eye.reshape((1,) * (matrix.ndim - 2) + eye.shape)

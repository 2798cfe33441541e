"""Kronecker sums, the operators of separable differential equations on grids."""

import functools
import math
import operator as op
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ._axes import (
    along_axis,
    as_factors,
    batch_of,
    check_all_square,
    check_symmetric,
    kron,
    outer,
)
from ._diagonal import matrix_of_diagonal
from ._each import eigh_of_each
from ._kronecker import Kronecker
from ._operator import Cost, Operator, Solver
from ._spectrum import eigensolver, matrices_of, spectral_slogdet, symmetric_factor


class KroneckerSum(Operator):
    r"""The sum $A_1 \oplus \dots \oplus A_d$ of square matrices.

    $A \oplus B = A \otimes I + I \otimes B$; in row-major order, the order of
    `x.ravel()`, $(A \oplus B) \,\mathrm{vec}(X) = \mathrm{vec}(A X + X B^\top)$.

    **Arguments:**

    - `factors`: the $A_i$: matrices, batches, or operators, all square.
    - `symmetric`: whether the $A_i$ are symmetric; their symmetric parts are taken then.
        `solve`, `slogdet` and `eigh` need it. A static choice.

    **Cost:** $2 N \sum_i n_i$ flops a product, with $N = \prod_i n_i$; the
    eigendecompositions of the factors, about $9 \sum_i n_i^3$, and twice that a solve.

    **Differentiation:** `slogdet` and `logdet` once, in both modes, right at repeated
    eigenvalues; a second derivative raises `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> laplacian = jnp.array([[2.0, -1.0], [-1.0, 2.0]])
        >>> a = jaxla.operators.KroneckerSum(laplacian, laplacian, symmetric=True)
        >>> a.mv(jnp.ones(4)), a.solve(jnp.full(4, 4.0))
        (Array([2., 2., 2., 2.], dtype=float32), Array([2., 2., 2., 2.], dtype=float32))
    """

    factors: tuple[Operator, ...]
    symmetric: bool = eqx.field(static=True)

    def __init__(self, *factors: Operator | ArrayLike, symmetric: bool = False):
        operators = as_factors(factors)
        check_all_square("KroneckerSum", operators)
        if symmetric:
            operators = tuple(symmetric_factor(factor) for factor in operators)
        self.factors, self.symmetric = operators, symmetric

    @property
    def shape(self) -> tuple[int, ...]:
        size = math.prod(self._sizes)
        return (*batch_of(self.factors), size, size)

    @property
    def T(self) -> "KroneckerSum":
        if self.symmetric:
            return self
        return KroneckerSum(*(factor.T for factor in self.factors))

    def cost(self) -> Cost:
        size = self.shape[-1]
        mv = sum(f.cost().mv * (size // max(f.shape[-1], 1)) for f in self.factors)
        basis = sum(9 * n**3 + 4 * n * size for n in self._sizes)
        return Cost(mv, basis + size if self.symmetric else None)

    @property
    def _sizes(self) -> list[int]:
        return [factor.shape[-1] for factor in self.factors]

    def _mm(self, x: Array) -> Array:
        terms = [
            along_axis(factor._mm, x, axis, self._sizes)
            for axis, factor in enumerate(self.factors)
        ]
        return sum(terms[1:], terms[0])

    def _as_matrix(self) -> Array:
        both = lambda a, b: kron(a, _eye(b)) + kron(_eye(a), b)
        return functools.reduce(both, matrices_of(self.factors))

    def _solvers(self) -> tuple[Solver, Solver]:
        self._check_symmetric("solve")
        solve = eigensolver(_sums, self.factors, self._no_shift())
        return solve, solve

    def _slogdet(self) -> tuple[Array, Array]:
        self._check_symmetric("slogdet")
        return spectral_slogdet(_sums, matrices_of(self.factors), self._no_shift())

    def _diagonal(self) -> Array:
        return outer(op.add, [factor._diagonal() for factor in self.factors])

    def _eigh(self) -> tuple[Array, Operator]:
        self._check_symmetric("eigh")
        values, vectors = zip(*eigh_of_each(self.factors), strict=True)
        return outer(op.add, values), Kronecker(*vectors)

    def _plus_identity(self, shift: Array) -> "KroneckerSum":
        first, *rest = self.factors
        shifted = first.plus_identity(shift)
        return KroneckerSum(shifted, *rest, symmetric=self.symmetric)

    def _symmetric_part(self) -> "KroneckerSum | None":
        return self if self.symmetric else None

    def _no_shift(self) -> Array:
        return jnp.zeros(self.shape[:-2], self.dtype)

    def _check_symmetric(self, method: str) -> None:
        check_symmetric(self, method, self.symmetric)


def _sums(values: Sequence[Array], shift: Array) -> Array:
    return outer(op.add, values) + shift[..., None]


def _eye(matrix: Array) -> Array:
    return matrix_of_diagonal(jnp.ones(matrix.shape[:-1], matrix.dtype))

r"""Kronecker products, plain and damped.

In row-major order, the order of `x.ravel()` and of `np.kron`,
$(A \otimes B) \,\mathrm{vec}(X) = \mathrm{vec}(A X B^\top)$. In the column-major order
of most textbooks the same operator takes $\mathrm{vec}(X)$ to $\mathrm{vec}(B X A^\top)$.
"""

import functools
import math
import operator as op
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from ._axes import (
    along_all,
    along_axis,
    as_factors,
    batch_of,
    check_all_square,
    check_symmetric,
    kron,
    outer,
)
from ._batches import aligned, lift
from ._dense import Dense
from ._each import eigh_of_each, slogdet_of_each, solvers_of_each
from ._operator import Cost, Operator, Solver
from ._spectrum import eigensolver, matrices_of, spectral_slogdet, symmetric_factor


class Kronecker(Operator):
    r"""The product $A_1 \otimes \dots \otimes A_d$, without forming it.

    It acts on vectors in row-major order:
    $(A \otimes B) \,\mathrm{vec}(X) = \mathrm{vec}(A X B^\top)$ with
    $\mathrm{vec}(X)$ = `x.ravel()`, as `np.kron(a, b) @ x.ravel()` does. With
    column-major vectors the factors change places.

    Products need no square factors, everything else does. `a @ b` of two with fitting
    factors is the Kronecker product of the factors' products.

    **Arguments:**

    - `factors`: the $A_i$: matrices, batches of them, or operators of any kind.
    - `symmetric`: whether the $A_i$ are symmetric; their symmetric parts are taken then.
        `eigh` and `plus_identity`, which gives a [`jaxla.operators.DampedKronecker`][],
        need it. A static choice.

    **Cost:** one product with each factor, in the order that needs the fewest flops;
    $2 N \sum_i n_i$ for square factors, with $N = \prod_i n_i$. One factorization of each
    factor for a solve or a determinant.

    !!! example

        >>> import jax.numpy as jnp
        >>> a, b = jnp.array([[1.0, 2.0], [0.0, 1.0]]), 2 * jnp.eye(2)
        >>> k = jaxla.operators.Kronecker(a, b)
        >>> k.mv(jnp.arange(4.0)), k.logdet()
        (Array([ 8., 14.,  4.,  6.], dtype=float32), Array(2.7725887, dtype=float32))

    ??? cite "Reference"

        Van Loan, *The ubiquitous Kronecker product*, J. Comput. Appl. Math. 123 (2000).
    """

    factors: tuple[Operator, ...]
    symmetric: bool = eqx.field(static=True)

    def __init__(self, *factors: Operator | ArrayLike, symmetric: bool = False):
        self.factors = as_factors(factors)
        self.symmetric = symmetric
        if symmetric:
            check_all_square("Kronecker", self.factors)
            self.factors = tuple(symmetric_factor(factor) for factor in self.factors)

    @property
    def shape(self) -> tuple[int, ...]:
        m, n = (
            math.prod(factor.shape[axis] for factor in self.factors) for axis in (-2, -1)
        )
        return (*batch_of(self.factors), m, n)

    @property
    def T(self) -> "Kronecker":
        if self.symmetric:
            return self
        return Kronecker(*(factor.T for factor in self.factors))

    def cost(self) -> Cost:
        sizes, mv, solve = self._columns, 0, 0
        for axis in self._order:
            factor = self.factors[axis]
            others = math.prod(sizes[:axis]) * math.prod(sizes[axis + 1 :])
            mv += others * factor.cost().mv
            sizes[axis] = factor.shape[-2]
        for factor in self.factors:
            m, n = factor.shape[-2:]
            own = factor.cost().solve if m == n else None
            if own is None or solve is None:
                solve = None
            else:
                # What the factorization costs once, and two triangles for each column.
                solve += own + 2 * n * n * (self.shape[-1] // max(n, 1) - 1)
        return Cost(mv, solve)

    @property
    def _columns(self) -> list[int]:
        return [factor.shape[-1] for factor in self.factors]

    @property
    def _order(self) -> list[int]:
        """The axes in the order that needs the fewest flops: first those that shrink."""

        def growth(axis: int) -> float:
            m, n = self.factors[axis].shape[-2:]
            return 1 / max(n, 1) - 1 / max(m, 1)

        return sorted(range(len(self.factors)), key=growth)

    def _mm(self, x: Array) -> Array:
        sizes = self._columns
        for axis in self._order:
            x = along_axis(self.factors[axis]._mm, x, axis, sizes)
            sizes[axis] = self.factors[axis].shape[-2]
        return x

    def _as_matrix(self) -> Array:
        return functools.reduce(kron, matrices_of(self.factors))

    def _solvers(self) -> tuple[Solver, Solver]:
        check_all_square("solve", self.factors)
        both = solvers_of_each(self.factors)
        forward, backward = (
            functools.partial(along_all, list(solvers), sizes=self._columns)
            for solvers in zip(*both, strict=True)
        )
        return forward, backward

    def _slogdet(self) -> tuple[Array, Array]:
        check_all_square("slogdet", self.factors)
        signs, logs = [], []
        for factor, (sign, log) in zip(
            self.factors, slogdet_of_each(self.factors), strict=True
        ):
            # det(A (x) B) = det(A)^q det(B)^p for p x p and q x q factors.
            times = self.shape[-1] // max(factor.shape[-1], 1)
            signs.append(sign if times % 2 else sign * sign)
            logs.append(times * log if times else jnp.zeros_like(log))
        return functools.reduce(op.mul, signs), functools.reduce(op.add, logs)

    def _trace(self) -> Array:
        check_all_square("trace", self.factors)
        return functools.reduce(op.mul, [factor._trace() for factor in self.factors])

    def _diagonal(self) -> Array:
        check_all_square("diagonal", self.factors)
        return outer(op.mul, [factor._diagonal() for factor in self.factors])

    def _eigh(self) -> tuple[Array, Operator]:
        self._check_symmetric("eigh")
        values, vectors = zip(*eigh_of_each(self.factors), strict=True)
        return outer(op.mul, values), Kronecker(*vectors)

    def _plus_identity(self, shift: Array) -> "DampedKronecker":
        self._check_symmetric("plus_identity")
        return DampedKronecker(*self.factors, shift=shift)

    def _check_symmetric(self, method: str) -> None:
        check_symmetric(self, method, self.symmetric)

    def _symmetric_part(self) -> "Kronecker | None":
        return self if self.symmetric else None

    def _times(self, other: Operator) -> "Kronecker | None":
        if not isinstance(other, Kronecker) or len(self.factors) != len(other.factors):
            return None
        pairs = list(zip(self.factors, other.factors, strict=True))
        if any(a.shape[-1] != b.shape[-2] for a, b in pairs):
            return None
        return Kronecker(*(_product(a, b) for a, b in pairs))


class DampedKronecker(Operator):
    r"""The operator $A_1 \otimes \dots \otimes A_d + s I$ with symmetric factors.

    It is what K-FAC solves with and what a Gaussian process on a grid with noise has as
    covariance. A solve and the determinant need the eigenvectors of the factors only; no
    matrix with $N = \prod_i n_i$ rows is formed, in derivatives neither.

    **Arguments:**

    - `factors`: the $A_i$: square matrices, batches of them, or operators; their
        symmetric parts are taken.
    - `shift`: $s$, one for all operators or one for each. Where an eigenvalue of the
        product plus `shift` is zero, the operator is singular.

    **Cost:** $2 N \sum_i n_i$ flops a product; the eigendecompositions of the factors,
    about $9 \sum_i n_i^3$, and twice that a solve.

    **Differentiation:** `slogdet` and `logdet` once, in both modes, with respect to the
    factors and the shift, right at repeated eigenvalues; a second derivative raises
    `NotImplementedError`. Solves to every order.

    !!! example

        >>> import jax.numpy as jnp
        >>> a = jaxla.operators.DampedKronecker(jnp.eye(2), 3 * jnp.eye(2), shift=1.0)
        >>> a.solve(jnp.full(4, 4.0)), a.logdet()
        (Array([1., 1., 1., 1.], dtype=float32), Array(5.5451775, dtype=float32))
    """

    factors: tuple[Operator, ...]
    shift: Float[Array, "*batch"]

    def __init__(
        self,
        *factors: Operator | ArrayLike,
        shift: Float[ArrayLike, "*batch"] | ScalarLike,
    ):
        operators = as_factors(factors)
        check_all_square("DampedKronecker", operators)
        added = jnp.asarray(shift).astype(operators[0].dtype)
        rank = max(len(operators[0].shape) - 2, added.ndim)
        self.factors = tuple(lift(symmetric_factor(f), rank) for f in operators)
        self.shift = aligned((added, 0), (jnp.zeros((1,) * rank, added.dtype), 0))[0]

    @property
    def shape(self) -> tuple[int, ...]:
        size = math.prod(self._sizes)
        batch = jnp.broadcast_shapes(batch_of(self.factors), self.shift.shape)
        return (*batch, size, size)

    @property
    def T(self) -> "DampedKronecker":
        return self

    def cost(self) -> Cost:
        size = self.shape[-1]
        basis = sum(9 * n**3 + 4 * n * size for n in self._sizes)
        return Cost(self._undamped.cost().mv + 2 * size, basis + size)

    @property
    def _sizes(self) -> list[int]:
        return [factor.shape[-1] for factor in self.factors]

    @property
    def _undamped(self) -> Kronecker:
        return Kronecker(*self.factors, symmetric=True)

    def _mm(self, x: Array) -> Array:
        return self._undamped._mm(x) + self.shift[..., None, None] * x

    def _as_matrix(self) -> Array:
        return Dense(self._undamped._as_matrix())._plus_identity(self.shift).matrix

    def _solvers(self) -> tuple[Solver, Solver]:
        solve = eigensolver(_products, self.factors, self.shift)
        return solve, solve

    def _slogdet(self) -> tuple[Array, Array]:
        return spectral_slogdet(_products, matrices_of(self.factors), self.shift)

    def _trace(self) -> Array:
        return self._undamped._trace() + self.shift * self.shape[-1]

    def _diagonal(self) -> Array:
        return self._undamped._diagonal() + self.shift[..., None]

    def _eigh(self) -> tuple[Array, Operator]:
        values, vectors = self._undamped._eigh()
        return values + self.shift[..., None], vectors

    def _plus_identity(self, shift: Array) -> "DampedKronecker":
        mine, shift = aligned((self.shift, 0), (shift, 0))
        return DampedKronecker(*self.factors, shift=mine + shift)

    def _symmetric_part(self) -> "DampedKronecker":
        return self


def _products(values: Sequence[Array], shift: Array) -> Array:
    return outer(op.mul, values) + shift[..., None]


def _product(a: Operator, b: Operator) -> Operator:
    """The product in its structure where there is one, or else as a matrix."""
    product = a._times(b)
    return Dense(a.mm(b.as_matrix())) if product is None else product

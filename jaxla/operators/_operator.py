"""What all operators have in common: checks, dtypes, batches, and how a solve is derived.

A kind of operator says, in methods that begin with an underscore, how it multiplies and
factorizes; these get arrays in the dtype to compute in and with as many batch axes as
the operator has. What it does not say is refused, with a word on what to do instead.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from jaxla._dtypes import compute_dtype

from ._batches import cast, columns, floats, lift


Solver = Callable[[Array], Array]


class SignedLogDet(NamedTuple):
    r"""A determinant, $\det A = \mathrm{sign} \cdot e^{\mathrm{logabsdet}}$.

    - `sign`: 1 or -1; 0 where the operator is singular.
    - `logabsdet`: the logarithm of $|\det A|$; minus infinity where it is singular.
    """

    sign: Float[Array, "*batch"]
    logabsdet: Float[Array, "*batch"]


class OperatorEigh(NamedTuple):
    r"""An eigendecomposition $A = V \mathrm{diag}(w) V^\top$ with an operator $V$.

    - `eigenvalues`: $w$, in the order of the columns of $V$, which need not ascend.
    - `eigenvectors`: $V$, an orthogonal operator: `V.mv`, `V.T.mv`.
    """

    eigenvalues: Float[Array, "*batch n"]
    eigenvectors: "Operator"


class Cost(NamedTuple):
    """Floating-point operations, those of one operator of a batch.

    - `mv`: of a product with one vector.
    - `solve`: of a solve with one right-hand side, with the factorization; `None` where
        the operator cannot solve.
    """

    mv: int
    solve: int | None


class Operator(eqx.Module):
    r"""A linear operator, or a batch of them: what all kinds can do.

    Its arrays are the leaves of a pytree, so that `jax.jit`, `jax.vmap` and `jax.grad`
    take and return operators. Leading axes of its arrays are axes of a batch of
    operators, and broadcast with those of the vectors by NumPy's rules.

    | you want | call |
    |---|---|
    | $A x$ for vectors, for matrices of columns | `mv(x)`, `mm(x)` |
    | $A^{-1} b$ for vectors, for matrices of columns | `solve(b)`, `solve_mm(b)` |
    | $\log \lvert \det A \rvert$, and with the sign | `logdet()`, `slogdet()` |
    | the trace, the diagonal | `trace()`, `diagonal()` |
    | eigenvalues and eigenvectors, if symmetric | `eigh()` |
    | $A^\top$, $A + s I$, $A B$ | `A.T`, `A.plus_identity(s)`, `A @ B` |
    | the matrix itself | `as_matrix()` |
    | shape with batch, dtype, flops | `shape`, `dtype`, `cost()` |

    What a kind has no cheap way for raises `NotImplementedError` and says what to do
    instead. Half precision is computed in `float32`. A singular operator gives entries
    that are not finite where it is solved with, and -inf as log-determinant.

    Solves can be differentiated in both modes and to every order: the derivative follows
    from $A x = b$ and needs `mv` only, so it is right at repeated eigenvalues. `eigh` of
    a matrix refuses to be differentiated.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix, with the batch in front."""

    @property
    def dtype(self) -> jnp.dtype:
        return jnp.result_type(*jax.tree.leaves(self))

    @property
    @abc.abstractmethod
    def T(self) -> "Operator":
        """The transpose."""

    def mv(self, x: Float[ArrayLike, "*batch n"]) -> Float[Array, "... m"]:
        """The product with one vector for each operator."""
        x = floats("x", x)
        if x.ndim < 1 or x.shape[-1] != self.shape[-1]:
            raise ValueError(
                f"`x` must have shape (..., {self.shape[-1]}); got {x.shape}."
            )
        return self.mm(x[..., None])[..., 0]

    def mm(self, x: Float[ArrayLike, "*batch n k"]) -> Float[Array, "... m k"]:
        """The product with the columns of a matrix."""
        x = columns("x", x, self.shape[-1])
        return _apply(self, x, lambda operator, x: operator._mm(x))

    def solve(self, b: Float[ArrayLike, "*batch n"]) -> Float[Array, "... n"]:
        """The solution of a linear system for each operator."""
        self._check_square("solve")
        b = floats("b", b)
        if b.ndim < 1 or b.shape[-1] != self.shape[-1]:
            raise ValueError(
                f"`b` must have shape (..., {self.shape[-1]}); got {b.shape}."
            )
        return self.solve_mm(b[..., None])[..., 0]

    def solve_mm(self, b: Float[ArrayLike, "*batch n k"]) -> Float[Array, "... n k"]:
        """The solutions for the columns of a matrix."""
        self._check_square("solve_mm")
        b = columns("b", b, self.shape[-1])
        return _apply(self, b, _solve)

    def slogdet(self) -> SignedLogDet:
        """The sign of the determinant and the logarithm of its size."""
        self._check_square("slogdet")
        sign, logabsdet = self._wide()._slogdet()
        return SignedLogDet(sign.astype(self.dtype), logabsdet.astype(self.dtype))

    def logdet(self) -> Float[Array, "*batch"]:
        """The logarithm of the size of the determinant; `slogdet` has its sign."""
        return self.slogdet().logabsdet

    def trace(self) -> Float[Array, "*batch"]:
        """The sum of the diagonal."""
        self._check_square("trace")
        return self._wide()._trace().astype(self.dtype)

    def diagonal(self) -> Float[Array, "*batch n"]:
        """The entries of the diagonal."""
        self._check_square("diagonal")
        return self._wide()._diagonal().astype(self.dtype)

    def eigh(self) -> OperatorEigh:
        """Eigenvalues and eigenvectors; a symmetric part is taken of each matrix."""
        self._check_square("eigh")
        w, v = self._wide()._eigh()
        return OperatorEigh(w.astype(self.dtype), cast(v, self.dtype))

    def plus_identity(self, shift: Float[ArrayLike, "*batch"] | ScalarLike) -> "Operator":
        """`A + shift I`, with one shift for all operators or one for each."""
        self._check_square("plus_identity")
        return self._plus_identity(jnp.asarray(shift).astype(self.dtype))

    def as_matrix(self) -> Float[Array, "*batch m n"]:
        """The entries."""
        return self._wide()._as_matrix().astype(self.dtype)

    @abc.abstractmethod
    def cost(self) -> Cost:
        """An estimate of floating-point operations, as Python integers."""

    def __matmul__(self, other: "Operator") -> "Operator":
        if not isinstance(other, Operator):
            raise TypeError(
                "`@` multiplies operators; use `mv` for vectors and `mm` for matrices. "
                f"Got {type(other).__name__}."
            )
        if self.shape[-1] != other.shape[-2]:
            raise ValueError(
                f"`other` must have {self.shape[-1]} rows; got shape {other.shape}."
            )
        product = self._times(other)
        if product is None:
            raise NotImplementedError(
                f"The product of {type(self).__name__} and {type(other).__name__} has "
                "no structure that is known here. Apply one after the other by `mv`, or "
                "form the matrix: `Dense(a.mm(b.as_matrix()))`."
            )
        return product

    # What a kind of operator says of itself.

    @abc.abstractmethod
    def _mm(self, x: Array) -> Array:
        """The product with columns."""

    @abc.abstractmethod
    def _as_matrix(self) -> Array:
        """The entries."""

    def _solvers(self) -> tuple[Solver, Solver]:
        """Solves with the operator and with its transpose; never differentiated."""
        self._refuse("solve")

    def _slogdet(self) -> tuple[Array, Array]:
        self._refuse("slogdet")

    def _trace(self) -> Array:
        return self._diagonal().sum(-1)

    def _diagonal(self) -> Array:
        self._refuse("diagonal")

    def _eigh(self) -> tuple[Array, "Operator"]:
        self._refuse("eigh")

    def _plus_identity(self, shift: Array) -> "Operator":
        self._refuse("plus_identity")

    def _symmetric_part(self) -> "Operator | None":
        """`(A + A^T) / 2` in the same structure, or `None` where it has another."""
        return None

    def _times(self, other: "Operator") -> "Operator | None":
        return None

    def _refuse(self, method: str) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__} has no cheap `{method}`. Form the matrix if it is "
            f"small: `Dense(operator.as_matrix()).{method}`."
        )

    def _check_square(self, method: str) -> None:
        m, n = self.shape[-2:]
        if m != n:
            raise ValueError(
                f"`{method}` needs a square operator; this one is {m} x {n}."
            )

    def _wide(self) -> "Operator":
        return cast(self, compute_dtype(self.dtype))


def _apply(operator: Operator, x: Array, fn: Callable[[Any, Array], Array]) -> Array:
    """`fn` of the two in the dtype to compute in and with equal numbers of batch axes."""
    out_dtype = jnp.result_type(operator.dtype, x.dtype)
    dtype = compute_dtype(out_dtype)
    operator, x = cast(operator, dtype), x.astype(dtype)
    batch, own = x.shape[:-2], operator.shape[:-2]
    if not own and batch:
        # One operator for all: their columns stand side by side in one product.
        columns = math.prod(batch) * x.shape[-1]
        out = fn(operator, jnp.moveaxis(x, -2, 0).reshape(x.shape[-2], columns))
        out = out.reshape(operator.shape[-2], *batch, x.shape[-1])
        out = jnp.moveaxis(out, 0, -2)
        return out.astype(out_dtype)
    rank = max(len(batch), len(own))
    x = x.reshape((1,) * (rank - len(batch)) + x.shape)
    return fn(lift(operator, rank), x).astype(out_dtype)


def _solve(operator: Operator, b: Array) -> Array:
    """The solution, with the derivative that follows from the equation."""
    batch = jnp.broadcast_shapes(operator.shape[:-2], b.shape[:-2])
    b = jnp.broadcast_to(b, batch + b.shape[-2:])
    fixed: Operator = jax.lax.stop_gradient(operator)
    solve, transposed = fixed._solvers()
    return jax.lax.custom_linear_solve(
        operator._mm, b, lambda _, b: solve(b), lambda _, b: transposed(b)
    )

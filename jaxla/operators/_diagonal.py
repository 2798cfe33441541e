"""Diagonal operators."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._batches import aligned, real_array
from ._dense import Dense
from ._operator import Cost, Operator, Solver


class Diagonal(Operator):
    r"""The operator $\mathrm{diag}(d)$.

    Its eigenvalues are $d$, in that order; they and all else can be differentiated.

    **Arguments:**

    - `entries`: $d$, one vector for each operator.

    **Cost:** $n$ flops for everything.

    !!! example

        >>> import jax.numpy as jnp
        >>> d = jaxla.operators.Diagonal(jnp.array([1.0, 2.0, 4.0]))
        >>> d.solve(jnp.ones(3)), d.logdet()
        (Array([1.  , 0.5 , 0.25], dtype=float32), Array(2.0794415, dtype=float32))
    """

    entries: Float[Array, "*batch n"]

    def __init__(self, entries: Float[ArrayLike, "*batch n"]):
        self.entries = real_array("entries", entries, "n")

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.entries.shape, self.entries.shape[-1])

    @property
    def T(self) -> "Diagonal":
        return self

    def cost(self) -> Cost:
        return Cost(self.shape[-1], self.shape[-1])

    def _mm(self, x: Array) -> Array:
        return self.entries[..., None] * x

    def _as_matrix(self) -> Array:
        return matrix_of_diagonal(self.entries)

    def _solvers(self) -> tuple[Solver, Solver]:
        solve = lambda b: b / self.entries[..., None]
        return solve, solve

    def _slogdet(self) -> tuple[Array, Array]:
        return signed_log_product(self.entries)

    def _diagonal(self) -> Array:
        return self.entries

    def _eigh(self) -> tuple[Array, Operator]:
        return self.entries, Diagonal(jnp.ones_like(self.entries))

    def _plus_identity(self, shift: Array) -> "Diagonal":
        entries, shift = aligned((self.entries, 1), (shift, 0))
        return Diagonal(entries + shift[..., None])

    def _symmetric_part(self) -> "Diagonal":
        return self

    def _times(self, other: Operator) -> Operator | None:
        if isinstance(other, Diagonal):
            mine, others = aligned((self.entries, 1), (other.entries, 1))
            return Diagonal(mine * others)
        return Dense(self.mm(other.matrix)) if isinstance(other, Dense) else None


def matrix_of_diagonal(entries: Array) -> Array:
    """The diagonal matrix; what is not finite stays on the diagonal."""
    n = entries.shape[-1]
    on_diagonal = jnp.broadcast_to(jnp.eye(n, dtype=bool), (*entries.shape, n))
    spread = jnp.broadcast_to(entries[..., None], (*entries.shape, n))
    return jnp.where(on_diagonal, spread, 0)


def signed_log_product(x: Array) -> tuple[Array, Array]:
    """The sign of a product along the last axis, and the logarithm of its size."""
    return jnp.sign(x).prod(-1), jnp.log(jnp.abs(x)).sum(-1)

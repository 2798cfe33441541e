r"""Diagonal operators plus low rank, by the identities of Woodbury and Sylvester.

$(D + U V^\top)^{-1} = D^{-1} - D^{-1} U C^{-1} V^\top D^{-1}$ and
$\det(D + U V^\top) = \det(D) \det(C)$ with $C = I + V^\top D^{-1} U$.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jaxla._dtypes import matmul
from jaxla._errors import as_real_matrix

from ._batches import aligned, real_array
from ._dense import lu, lu_solvers, slogdet
from ._diagonal import matrix_of_diagonal, signed_log_product
from ._operator import Cost, Operator, Solver


class LowRankPlusDiagonal(Operator):
    r"""The operator $\mathrm{diag}(d) + U V^\top$, or $\mathrm{diag}(d) + U U^\top$.

    No entry of $d$ may be zero where it is solved with; where entries of $d$ are smaller
    than those of $U V^\top$ by a factor of $r$, about $\log_{10} r$ digits of the
    solution are lost before one step of refinement wins some back.

    **Arguments:**

    - `entries`: $d$.
    - `u`: $U$, with the $k$ columns of the low rank.
    - `v`: $V$; none for the symmetric $U U^\top$.

    **Cost:** $4 n k$ flops a product; $8 n k^2 + \tfrac23 k^3$ a solve or determinant.

    !!! example

        >>> import jax.numpy as jnp
        >>> a = jaxla.operators.LowRankPlusDiagonal(jnp.ones(3), jnp.ones((3, 1)))
        >>> a.mv(jnp.ones(3)), a.solve(jnp.full(3, 4.0))
        (Array([4., 4., 4.], dtype=float32), Array([1., 1., 1.], dtype=float32))
    """

    entries: Float[Array, "*#batch n"]
    u: Float[Array, "*#batch n k"]
    v: Float[Array, "*#batch n k"] | None

    def __init__(
        self,
        entries: Float[ArrayLike, "*#batch n"],
        u: Float[ArrayLike, "*#batch n k"],
        v: Float[ArrayLike, "*#batch n k"] | None = None,
    ):
        parts = [(real_array("entries", entries, "n"), 1), (as_real_matrix("u", u), 2)]
        parts += [] if v is None else [(as_real_matrix("v", v), 2)]
        n, k = parts[0][0].shape[-1], parts[1][0].shape[-1]
        for name, (array, _) in zip("uv", parts[1:], strict=False):
            if array.shape[-2:] != (n, k):
                raise ValueError(
                    f"`{name}` must have shape (..., {n}, {k}), with the rows of "
                    f"`entries` and the columns of `u`; got {array.shape}."
                )
        self.entries, self.u, *rest = aligned(*parts)
        self.v = rest[0] if rest else None

    @property
    def shape(self) -> tuple[int, ...]:
        leaves = (self.entries[..., None], self.u, self._v)
        batch = jnp.broadcast_shapes(*(leaf.shape[:-2] for leaf in leaves))
        return (*batch, self.u.shape[-2], self.u.shape[-2])

    @property
    def T(self) -> "LowRankPlusDiagonal":
        if self.v is None:
            return self
        return LowRankPlusDiagonal(self.entries, self.v, self.u)

    def cost(self) -> Cost:
        n, k = self.u.shape[-2:]
        return Cost(4 * n * k + 2 * n, 2 * n * k * k + 2 * k**3 // 3 + 14 * n * k)

    @property
    def _v(self) -> Array:
        return self.u if self.v is None else self.v

    def _mm(self, x: Array) -> Array:
        return self.entries[..., None] * x + matmul(self.u, matmul(self._v.mT, x))

    def _as_matrix(self) -> Array:
        return matrix_of_diagonal(self.entries) + matmul(self.u, self._v.mT)

    def _capacitance(self) -> Array:
        """`C = I + V^T D^-1 U`."""
        product = matmul(self._v.mT, self.u / self.entries[..., None])
        eye = matrix_of_diagonal(jnp.ones(product.shape[:-1], product.dtype))
        return product + eye

    def _solvers(self) -> tuple[Solver, Solver]:
        solve, transposed = lu_solvers(*lu(self._capacitance()))
        d, u, v = self.entries[..., None], self.u, self._v

        def woodbury(b: Array) -> Array:
            return (b - matmul(u, solve(matmul(v.mT, b / d)))) / d

        def woodbury_transposed(b: Array) -> Array:
            return (b - matmul(v, transposed(matmul(u.mT, b / d)))) / d

        return _refined(self, woodbury), _refined(self.T, woodbury_transposed)

    def _slogdet(self) -> tuple[Array, Array]:
        sign, logabsdet = signed_log_product(self.entries)
        sign_c, logabsdet_c = slogdet(self._capacitance())
        return sign * sign_c, logabsdet + logabsdet_c

    def _diagonal(self) -> Array:
        return self.entries + (self.u * self._v).sum(-1)

    def _plus_identity(self, shift: Array) -> "LowRankPlusDiagonal":
        entries, shift = aligned((self.entries, 1), (shift, 0))
        return LowRankPlusDiagonal(entries + shift[..., None], self.u, self.v)

    def _symmetric_part(self) -> "LowRankPlusDiagonal | None":
        return self if self.v is None else None


def _refined(operator: Operator, solve: Solver) -> Solver:
    """A solve and a second one of what the first left."""

    def both(b: Array) -> Array:
        x = solve(b)
        return x + solve(b - operator._mm(x))

    return both

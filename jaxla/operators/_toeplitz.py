r"""Toeplitz operators, multiplied by the fast Fourier transform.

$T_{ij} = t_{i - j}$ is a corner of a circulant matrix of any order of at least
$m + n - 1$, and Fourier's transform makes that diagonal.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._batches import aligned, real_array
from ._dense import FullMatrix
from ._operator import Cost


class Toeplitz(FullMatrix):
    r"""The operator $T_{ij} = c_{i - j}$ for $i \ge j$ and $r_{j - i}$ for $j > i$.

    Products never form the matrix, nor do derivatives of a solve. A solve itself, the
    determinant and the eigenvectors do: by LU, which is stable for every regular matrix,
    where the recursion of Levinson needs all leading blocks regular, too.

    **Arguments:**

    - `column`: $c$, the first column.
    - `row`: $r$, the first row, whose first entry is ignored; none for the symmetric
        operator with $r = c$.

    **Cost:** three real Fourier transforms a product, about $8 N \log_2 N$ flops with
    the power of two $N \ge m + n - 1$; $\tfrac23 n^3$ a solve.

    **Accuracy:** a product has an error of about $\epsilon \log_2 N$ relative to the norm
    of all coefficients times that of the vector, not to each entry of the result.

    !!! example

        >>> import jax.numpy as jnp
        >>> t = jaxla.operators.Toeplitz(jnp.array([2.0, 1.0, 0.0]))
        >>> print(t.as_matrix())
        [[2. 1. 0.]
         [1. 2. 1.]
         [0. 1. 2.]]
    """

    column: Float[Array, "*#batch m"]
    row: Float[Array, "*#batch n"] | None

    def __init__(
        self,
        column: Float[ArrayLike, "*#batch m"],
        row: Float[ArrayLike, "*#batch n"] | None = None,
    ):
        parts = [(real_array("column", column, "m"), 1)]
        parts += [] if row is None else [(real_array("row", row, "n"), 1)]
        if len({array.shape[-1] == 0 for array, _ in parts}) > 1:
            raise ValueError(
                "`column` and `row` must both have entries or both have none; got "
                f"{parts[0][0].shape} and {parts[1][0].shape}."
            )
        self.column, *rest = aligned(*parts)
        self.row = rest[0] if rest else None

    @property
    def shape(self) -> tuple[int, ...]:
        batch = jnp.broadcast_shapes(self.column.shape[:-1], self._row.shape[:-1])
        return (*batch, self.column.shape[-1], self._row.shape[-1])

    @property
    def T(self) -> "Toeplitz":
        if self.row is None:
            return self
        corner = self.column[..., :1]
        row = jnp.broadcast_to(self.row, (*self.shape[:-2], self.row.shape[-1]))
        corner = jnp.broadcast_to(corner, (*self.shape[:-2], *corner.shape[-1:]))
        return Toeplitz(jnp.concatenate([corner, row[..., 1:]], -1), self.column)

    def cost(self) -> Cost:
        m, n = self.shape[-2:]
        size = _circulant_order(m, n)
        mv = 3 * 5 * size * (size.bit_length() - 1) // 2 + 3 * size
        return Cost(mv, 2 * n**3 // 3 + 2 * n * n if m == n else None)

    @property
    def _row(self) -> Array:
        return self.column if self.row is None else self.row

    def _mm(self, x: Array) -> Array:
        m, n = self.shape[-2:]
        batch = jnp.broadcast_shapes(self.shape[:-2], x.shape[:-2])
        if m * n * x.size == 0:
            return jnp.zeros((*batch, m, x.shape[-1]), x.dtype)
        size = _circulant_order(m, n)
        # t_0, t_1, ... from the front, t_-1, t_-2, ... from the back.
        own = self.shape[:-2]
        after = jnp.broadcast_to(self.column, (*own, m))
        before = jnp.broadcast_to(self._row[..., :0:-1], (*own, n - 1))
        gap = jnp.zeros((*own, size - m - n + 1), x.dtype)
        circulant = jnp.concatenate([after, gap, before], -1)
        symbol = jnp.fft.rfft(circulant)[..., None]
        product = jnp.fft.irfft(symbol * jnp.fft.rfft(x, size, -2), size, -2)
        return product[..., :m, :]

    def _as_matrix(self) -> Array:
        m, n = self.shape[-2:]
        if m * n == 0:
            return jnp.zeros(self.shape, self.column.dtype)
        own = self.shape[:-2]
        before = jnp.broadcast_to(self._row[..., :0:-1], (*own, n - 1))
        after = jnp.broadcast_to(self.column, (*own, m))
        both = jnp.concatenate([before, after], -1)  # t_(1-n), ..., t_(m-1)
        index = jnp.arange(m)[:, None] - jnp.arange(n)[None, :] + n - 1
        return both[..., index]

    def _trace(self) -> Array:
        corner = self.column[..., :1].sum(-1)
        return jnp.broadcast_to(corner, self.shape[:-2]) * self.shape[-1]

    def _diagonal(self) -> Array:
        n = self.shape[-1]
        corner = self.column[..., : min(n, 1)]
        return jnp.broadcast_to(corner, (*self.shape[:-2], n))

    def _plus_identity(self, shift: Array) -> "Toeplitz":
        column, shift = aligned((self.column, 1), (shift, 0))
        batch = jnp.broadcast_shapes(column.shape[:-1], shift.shape)
        column = jnp.broadcast_to(column, (*batch, column.shape[-1]))
        return Toeplitz(column.at[..., :1].add(shift[..., None]), self.row)

    def _symmetric_part(self) -> "Toeplitz":
        if self.row is None:
            return self
        return Toeplitz((self.column + self.T.column) / 2)


def _circulant_order(m: int, n: int) -> int:
    """The least power of two of at least `m + n - 1`."""
    return 1 << max(m + n - 2, 0).bit_length()

"""Factorizations.

| you want | call |
|---|---|
| eigenvalues and eigenvectors of symmetric matrices | `eigh` |
| singular value decompositions | `svd` |
| all eigenvalues of graded positive definite matrices | `eigh_relative` |
| eigenvalues alone | `eigvalsh` |
| ... of tridiagonal matrices, all or some | `eigvals_tridiagonal` |
| how many of them lie below a number | `sturm_count` |
| ... more than those of another matrix, and at which rows | `relative_oscillation` |
| Jacobi's method and Cholesky as one, by random pivots | `pivoted_diagonalization` |
| ... one-sided Jacobi and Gram-Schmidt | `pivoted_orthogonalization` |
| how far from diagonal a positive definite matrix is | `diagonality_potential` |

All of them take leading batch axes, compute in `float32` at least and return
the dtype that came in.
"""

from ._diagonality import diagonality_potential as diagonality_potential
from ._eigh import Eigh as Eigh, eigh as eigh
from ._eigvalsh import eigvalsh as eigvalsh
from ._oscillation import (
    relative_oscillation as relative_oscillation,
    RelativeOscillation as RelativeOscillation,
)
from ._random_pivots import (
    pivoted_diagonalization as pivoted_diagonalization,
    pivoted_orthogonalization as pivoted_orthogonalization,
    PivotedDiagonalization as PivotedDiagonalization,
    PivotedOrthogonalization as PivotedOrthogonalization,
)
from ._relative import (
    eigh_relative as eigh_relative,
    RelativeEigh as RelativeEigh,
)
from ._svd import Svd as Svd, svd as svd
from ._tridiagonal import (
    eigvals_tridiagonal as eigvals_tridiagonal,
    sturm_count as sturm_count,
)

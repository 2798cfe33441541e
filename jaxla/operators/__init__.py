"""Linear operators with structure.

| you have | make |
|---|---|
| a matrix | `Dense` |
| a diagonal | `Diagonal` |
| a diagonal plus low rank | `LowRankPlusDiagonal` |
| constant diagonals | `Toeplitz` |
| a Kronecker product | `Kronecker` |
| a Kronecker product plus a multiple of the identity | `DampedKronecker` |
| a Kronecker sum | `KroneckerSum` |
| a matrix, or gradients, that should be a Kronecker product | `nearest_kronecker`, \
`nearest_kronecker_of_samples`, `kronecker_svd` |
| an operator of lineax, or a solver there | `from_lineax`, `to_lineax`, `lineax_solver` |

All of them can do what [`jaxla.operators.Operator`][] lists: products, solves,
determinants, eigenvectors. They are pytrees, and take leading batch axes.
"""

from ._dense import Dense as Dense
from ._diagonal import Diagonal as Diagonal
from ._kronecker import DampedKronecker as DampedKronecker, Kronecker as Kronecker
from ._kronecker_sum import KroneckerSum as KroneckerSum
from ._kronecker_svd import kronecker_svd as kronecker_svd, KroneckerSVD as KroneckerSVD
from ._lineax import (
    from_lineax as from_lineax,
    lineax_solver as lineax_solver,
    to_lineax as to_lineax,
)
from ._low_rank import LowRankPlusDiagonal as LowRankPlusDiagonal
from ._nearest import (
    nearest_kronecker as nearest_kronecker,
    NearestKronecker as NearestKronecker,
)
from ._nearest_samples import (
    nearest_kronecker_of_samples as nearest_kronecker_of_samples,
)
from ._operator import (
    Cost as Cost,
    Operator as Operator,
    OperatorEigh as OperatorEigh,
    SignedLogDet as SignedLogDet,
)
from ._toeplitz import Toeplitz as Toeplitz

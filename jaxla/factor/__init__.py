"""Factorizations.

| you want | call |
|---|---|
| eigenvalues and eigenvectors of symmetric matrices | `eigh` |
| eigenvalues alone | `eigvalsh` |
| ... of tridiagonal matrices, all or some | `eigvals_tridiagonal` |
| how many of them lie below a number | `sturm_count` |

All of them take leading batch axes, compute in `float32` at least and return
the dtype that came in.
"""

from ._eigh import Eigh as Eigh, eigh as eigh
from ._eigvalsh import eigvalsh as eigvalsh
from ._tridiagonal import (
    eigvals_tridiagonal as eigvals_tridiagonal,
    sturm_count as sturm_count,
)

"""Factorizations.

| you want | call |
|---|---|
| eigenvalues and eigenvectors of symmetric matrices | `eigh` |

All of them take leading batch axes, compute in `float32` at least and return
the dtype that came in.
"""

from ._eigh import Eigh as Eigh, eigh as eigh

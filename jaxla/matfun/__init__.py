"""Functions of matrices.

| you want | call | made of |
|---|---|---|
| an inverse p-th root of many matrices, fast | `inverse_pth_root` | products |
| any real power, to LAPACK's accuracy | `psd_power` | `eigh` |
| the nearest orthogonal matrix | `orthogonalize` | products |
| both factors of a polar decomposition | `polar` | products |
| a bound of the largest eigenvalue | `eigenvalue_bound` | products |

All of them take leading batch axes, compute in `float32` at least and return
the dtype that came in.
"""

from ._bounds import eigenvalue_bound as eigenvalue_bound
from ._lyapunov import (
    MatrixSolution as MatrixSolution,
    solve_symmetric_lyapunov as solve_symmetric_lyapunov,
)
from ._polar import (
    newton_schulz as newton_schulz,
    orthogonalize as orthogonalize,
    Polar as Polar,
    polar as polar,
    polar_express as polar_express,
    quintic as quintic,
)
from ._power import psd_power as psd_power
from ._roots import (
    inverse_pth_root as inverse_pth_root,
    InverseRoot as InverseRoot,
    num_products as num_products,
)

"""Functions of matrices.

| you want | call | made of |
|---|---|---|
| the square root of a symmetric semi-definite matrix | `sqrtm` | `eigh`, on CPU |
| its inverse, for whitening | `inverse_sqrtm` | products or `eigh` |
| a rough one of well-conditioned matrices | `taylor_sqrtm`, `pade_sqrtm` | products |
| an inverse p-th root of many matrices | `inverse_pth_root` | products |
| ... and how many products that takes | `num_products` | |
| any real power, to LAPACK's accuracy | `psd_power` | `eigh` |
| any function of the eigenvalues, symmetric | `symmetric_function` | `eigh` |
| the logarithm of a general matrix | `logm` | inverses |
| the sign of a general matrix | `signm` | inverses |
| both factors of a polar decomposition | `polar` | products, Cholesky |
| singular values all driven to 1 | `orthogonalize` | products |
| ... and its coefficients | `polar_express`, `quintic`, `newton_schulz` | |
| a bound of the largest eigenvalue | `eigenvalue_bound` | products |
| Y of X Y + Y X = R, where X is symmetric | `solve_symmetric_lyapunov` | `eigh` |
| X of A X + X B = C | `solve_sylvester` | inverses |
| X of A X + X A' = Q | `solve_continuous_lyapunov` | inverses |
| X of X = A X A' + Q | `solve_discrete_lyapunov` | products |
| a regulator's cost matrix, continuous time | `solve_continuous_are` | LU |
| ... in discrete time | `solve_discrete_are` | LU |
| the nearest positive semi-definite matrix | `project_psd` | `eigh` |
| the nearest matrix in a ball of a norm | `project_spectral_ball`, \
`project_nuclear_ball` | `svd` |
| ... in the epigraph of a norm | `project_spectral_epigraph`, \
`project_nuclear_epigraph` | `svd` |
| ... in other spectral cones | `project_sum_of_largest_epigraph`, \
`project_log_det_cone`, `project_trace_inverse_cone` | `eigh` |
| a proximal operator of a matrix norm | `prox_nuclear`, `prox_spectral_norm` | `svd` |
| ... of another spectral function | `prox_sum_of_largest`, `prox_neg_log_det`, \
`prox_trace_inverse`, `prox_entropy` | `eigh` |

All of them take leading batch axes, compute in `float32` at least and return
the dtype that came in.
"""

from ._bounds import eigenvalue_bound as eigenvalue_bound
from ._certified import MatrixFunction as MatrixFunction
from ._functions import symmetric_function as symmetric_function
from ._log import logm as logm
from ._lyapunov import (
    MatrixSolution as MatrixSolution,
    solve_symmetric_lyapunov as solve_symmetric_lyapunov,
)
from ._newton_schulz import (
    newton_schulz as newton_schulz,
    orthogonalize as orthogonalize,
    polar_express as polar_express,
    quintic as quintic,
)
from ._polar import Polar as Polar, polar as polar
from ._power import psd_power as psd_power
from ._riccati import (
    solve_continuous_are as solve_continuous_are,
    solve_discrete_are as solve_discrete_are,
)
from ._roots import (
    inverse_pth_root as inverse_pth_root,
    MatrixRoot as MatrixRoot,
    num_products as num_products,
)
from ._sign import signm as signm
from ._spectral_cones import (
    EpigraphPoint as EpigraphPoint,
    project_nuclear_ball as project_nuclear_ball,
    project_nuclear_epigraph as project_nuclear_epigraph,
    project_psd as project_psd,
    project_spectral_ball as project_spectral_ball,
    project_spectral_epigraph as project_spectral_epigraph,
    project_sum_of_largest_epigraph as project_sum_of_largest_epigraph,
)
from ._spectral_perspectives import (
    PerspectivePoint as PerspectivePoint,
    project_log_det_cone as project_log_det_cone,
    project_trace_inverse_cone as project_trace_inverse_cone,
)
from ._spectral_prox import (
    prox_entropy as prox_entropy,
    prox_neg_log_det as prox_neg_log_det,
    prox_nuclear as prox_nuclear,
    prox_spectral_norm as prox_spectral_norm,
    prox_sum_of_largest as prox_sum_of_largest,
    prox_trace_inverse as prox_trace_inverse,
)
from ._sqrtm import inverse_sqrtm as inverse_sqrtm, sqrtm as sqrtm
from ._stein import solve_discrete_lyapunov as solve_discrete_lyapunov
from ._sylvester import (
    solve_continuous_lyapunov as solve_continuous_lyapunov,
    solve_sylvester as solve_sylvester,
)
from ._taylor_pade import pade_sqrtm as pade_sqrtm, taylor_sqrtm as taylor_sqrtm

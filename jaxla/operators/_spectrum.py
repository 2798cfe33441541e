r"""Operators that are diagonal in the Kronecker product of their factors' eigenvectors.

With symmetric $A_i = V_i \mathrm{diag}(w_i) V_i^\top$ the eigenvalues of
$A_1 \otimes \dots \otimes A_d + s I$ and of $A_1 \oplus \dots \oplus A_d$ are products
and sums of the $w_i$. A solve is a division between products with the $V_i$. The
log-determinant is a symmetric function of the eigenvalues of each factor, so its
derivative needs of each $dA_i$ only the diagonal of $V_i^\top dA_i V_i$, whichever
eigenvectors repeated eigenvalues have.
"""

import functools
from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array

from jaxla._dtypes import matmul
from jaxla._errors import refuse_derivative
from jaxla.factor import eigh

from ._axes import along_all
from ._dense import Dense
from ._diagonal import signed_log_product
from ._each import in_one_call
from ._operator import Operator, Solver


# From the eigenvalues of the factors and the shift to those of the operator.
Spectrum = Callable[[Sequence[Array], Array], Array]


def symmetric_factor(factor: Operator) -> Operator:
    """The symmetric part, with the structure of the factor if that is possible."""
    part = factor._symmetric_part()
    if part is not None:
        return part
    return Dense(factor.as_matrix())._symmetric_part()


def matrices_of(factors: Sequence[Operator]) -> tuple[Array, ...]:
    return tuple(factor._as_matrix() for factor in factors)


def eigensolver(spectrum: Spectrum, factors: Sequence[Operator], shift: Array) -> Solver:
    """Solves with the operator of this spectrum."""
    eigen = in_one_call(eigh, matrices_of(factors))
    values = spectrum([w for w, _ in eigen], shift)[..., None]
    sizes = [w.shape[-1] for w, _ in eigen]
    to_basis = [functools.partial(matmul, v.mT) for _, v in eigen]
    from_basis = [functools.partial(matmul, v) for _, v in eigen]

    def solve(b: Array) -> Array:
        return along_all(from_basis, along_all(to_basis, b, sizes) / values, sizes)

    return solve


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def spectral_slogdet(
    spectrum: Spectrum, matrices: tuple[Array, ...], shift: Array
) -> tuple[Array, Array]:
    """The sign and the logarithm of the determinant of the operator."""
    values = [w for w, _ in in_one_call(eigh, matrices)]
    return signed_log_product(spectrum(values, shift))


@spectral_slogdet.defjvp
def _spectral_slogdet_jvp(spectrum, primals, tangents):
    (matrices, shift), (dmatrices, dshift) = primals, tangents

    def decompose(*matrices):
        return in_one_call(eigh, matrices)

    eigen = refuse_derivative(decompose, _ONCE)(*matrices)
    dvalues = [
        (v * matmul(da, v)).sum(-2) for (_, v), da in zip(eigen, dmatrices, strict=True)
    ]
    fn = lambda values, shift: signed_log_product(spectrum(values, shift))
    values = [w for w, _ in eigen]
    (sign, logabsdet), (dsign, dlogabsdet) = jax.jvp(
        fn, (values, shift), (dvalues, dshift)
    )
    return (sign, logabsdet), (dsign, dlogabsdet)


_ONCE = (
    "`slogdet` of a sum or a damped product of Kronecker factors can be differentiated "
    "once only; for higher derivatives use `Dense(operator.as_matrix()).slogdet`."
)

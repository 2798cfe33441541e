r"""Real powers of symmetric positive semi-definite matrices, by eigendecomposition.

The derivative is the Daleckii-Krein formula
$L(A, E) = Q (K \circ (Q^\top E Q)) Q^\top$ with the divided differences
$K_{ij} = (f(\lambda_i) - f(\lambda_j))/(\lambda_i - \lambda_j)$ in a form
without cancellation, so that it is right at repeated eigenvalues too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from jaxla._dtypes import compute_dtype, matmul
from jaxla._errors import as_square_matrix, refuse_derivative

from ._bounds import eigenvalue_bound


def psd_power(
    matrix: Float[ArrayLike, "*batch n n"],
    exponent: ScalarLike,
    *,
    damping: ScalarLike | None = None,
    rcond: ScalarLike | None = None,
) -> Float[Array, "*batch n n"]:
    r"""Raises a symmetric positive semi-definite matrix to a real power.

    With $A = Q \,\mathrm{diag}(\lambda)\, Q^\top$ this returns
    $Q \,\mathrm{diag}((\max(\lambda, 0) + \varepsilon)^e)\, Q^\top$, where
    $\varepsilon$ is `damping` times [`jaxla.matfun.eigenvalue_bound`][]. Without
    damping, eigenvalues of at most `rcond` times the largest count as zero and
    are left out, so that `exponent=-1.0` is the pseudoinverse.

    **Arguments:**

    - `matrix`: symmetric positive semi-definite; its symmetric part is taken.
        Half-precision input is computed in `float32`.
    - `exponent`: any real power. May be traced.
    - `damping`: relative damping, none by default. May be traced.
    - `rcond`: relative cut-off. Defaults to `n * eps` of the working precision
        without damping, and to zero with it.

    **Returns:**

    A symmetric array with the shape and dtype of `matrix`. A matrix with a
    non-finite entry gives NaN in all of its entries, and touches no other of
    its batch.

    **Cost:** one `eigh`, about $9 n^3$ flops, and a $2 n^3$ product. On CPU and
    GPU, `eigh` runs at a fraction of the speed of products: for inverse roots
    see [`jaxla.matfun.inverse_pth_root`][].

    **Differentiation:** once, in both modes, with respect to all arguments;
    right at repeated eigenvalues. A second derivative raises
    `NotImplementedError`.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.matfun.psd_power(jnp.diag(jnp.array([4.0, 16.0])), -0.5))
        [[0.5  0.  ]
         [0.   0.25]]

    ??? cite "Reference"

        Higham, *Functions of Matrices*, SIAM 2008, Sections 1.2 and 3.2.
    """
    matrix = as_square_matrix("matrix", matrix)
    dtype = compute_dtype(matrix.dtype)
    size = matrix.shape[-1]
    a = matrix.astype(dtype)
    a = (a + a.mT) / 2
    least = jnp.zeros(a.shape[:-2], dtype)
    if damping is not None:
        least = (damping * eigenvalue_bound(a)).astype(dtype)
        a = a + least[..., None, None] * jnp.eye(size, dtype=dtype)
    if rcond is None:
        rcond = size * jnp.finfo(dtype).eps if damping is None else 0.0
    out = _power(a, jnp.asarray(exponent, dtype), least, jnp.asarray(rcond, dtype))
    return out.astype(matrix.dtype)


@jax.custom_jvp
def _power(a: Array, exponent: Array, least: Array, rcond: Array) -> Array:
    """`a ** exponent` with eigenvalues raised to `least`, or left out by `rcond`."""
    _, vectors, values, kept = _eigh_clamped(a, least, rcond)
    # NaN ** 0 is 1: the last term lets NaN through.
    powers = jnp.where(kept, jnp.where(kept, values, 1) ** exponent + 0 * values, 0)
    return matmul(vectors * powers[..., None, :], vectors.mT)


@_power.defjvp
def _power_jvp(primals, tangents):
    a, exponent, least, rcond = primals
    da, dexponent, dleast, _ = tangents
    once = refuse_derivative(
        _eigh_clamped,
        "`psd_power` can be differentiated once only; for higher derivatives "
        "of an inverse root use `jaxla.matfun.inverse_pth_root`.",
    )
    raw, vectors, values, kept = once(a, least, rcond)
    safe = jnp.where(kept, values, 1)
    powers = jnp.where(kept, safe**exponent, 0)
    clamped = raw < values

    # d lambda^e / d e = lambda^e log(lambda);  d lambda = d least where clamped.
    diagonal = powers * jnp.log(safe) * dexponent
    diagonal += jnp.where(clamped, exponent * powers / safe, 0) * dleast[..., None]
    kernel = _divided_differences(safe, kept, exponent)
    kernel *= _clamp_differences(raw, values, clamped)
    inner = kernel * matmul(vectors.mT, matmul((da + da.mT) / 2, vectors))
    inner += diagonal[..., None] * jnp.eye(a.shape[-1], dtype=a.dtype)
    out = matmul(vectors * powers[..., None, :], vectors.mT)
    return out, matmul(vectors, matmul(inner, vectors.mT))


def _eigh_clamped(a: Array, least: Array, rcond: Array):
    raw, vectors = jnp.linalg.eigh(a, symmetrize_input=False)
    values = jnp.maximum(raw, least[..., None])
    # `kept` by negation: a comparison with NaN is false, and NaN must get through.
    kept = ~(values <= rcond * values.max(-1, keepdims=True, initial=0))
    return raw, vectors, values, kept


def _divided_differences(values: Array, kept: Array, exponent: Array) -> Array:
    """`(x^e - y^e) / (x - y)`, and `x^e / x` where y is left out and counts as 0."""
    x, y = values[..., :, None], values[..., None, :]
    z = (x - y) / y
    near = jnp.where(z == 0, 1, z)
    ratio = jnp.where(z == 0, exponent, jnp.expm1(exponent * jnp.log1p(near)) / near)
    both = y ** (exponent - 1) * ratio
    x_kept, y_kept = kept[..., :, None], kept[..., None, :]
    one = jnp.where(x_kept, x ** (exponent - 1), y ** (exponent - 1))
    return jnp.where(x_kept & y_kept, both, jnp.where(x_kept | y_kept, one, 0))


def _clamp_differences(raw: Array, values: Array, clamped: Array) -> Array:
    """`(values_i - values_j) / (raw_i - raw_j)`: 1 where neither is clamped."""
    gap = raw[..., :, None] - raw[..., None, :]
    change = values[..., :, None] - values[..., None, :]
    either = clamped[..., :, None] | clamped[..., None, :]
    ratio = change / jnp.where(gap == 0, 1, gap)
    return jnp.where(either, ratio, 1)

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads
from numpy.polynomial.polynomial import polyval

from jaxla.matfun import newton_schulz, orthogonalize, polar_express, quintic
from tests.helpers import assert_close, random_psd, with_singular_values


SHAPES = [(6, 4), (4, 6), (5, 5)]
orthogonalized = jax.jit(orthogonalize, static_argnames="coefficients")


def test_polar_express_is_as_published():
    """The table of Amsel et al.; its cushion makes the interval of its first steps."""
    rows = polar_express(8, cushion=0.02407327424182761, safety=1.0)
    published = [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    ]
    np.testing.assert_allclose(rows[:6], published, rtol=1e-3)
    # Then that of Halley's family at 1: (15, -10, 3) / 8.
    np.testing.assert_allclose(rows[-1], (1.875, -1.25, 0.375), rtol=1e-5)


def test_safety_is_room_above_one():
    plain, safe = polar_express(3, safety=1.0), polar_express(3, safety=1.05)
    for row, other in zip(plain[:-1], safe[:-1], strict=True):
        factors = np.array([1.05, 1.05**3, 1.05**5])
        np.testing.assert_allclose(np.array(other) * factors, row)
    assert safe[-1] == plain[-1]


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_nearest_orthogonal_matrix(getkey, dtype, shape):
    values = np.geomspace(5e-3, 1, min(shape))
    matrix = with_singular_values(getkey(), shape, values)
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    # The condition of the polar factor is 1 / (the sum of two singular values).
    amplification = 2 / values.min()
    actual = orthogonalized(jnp.asarray(matrix, dtype))
    assert actual.dtype == dtype
    assert_close(actual, u @ vt, amplification=amplification)


def test_so_it_is_by_the_classic_coefficients(getkey, dtype):
    matrix = with_singular_values(getkey(), (6, 4), np.geomspace(5e-3, 1, 4))
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    actual = orthogonalized(jnp.asarray(matrix, dtype), coefficients=newton_schulz(25))
    assert_close(actual, u @ vt, amplification=400)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "rows",
    [((0.7, -0.2),), ((0.9, 0.3, -0.4),), ((1.1, -0.5, 0.25, 0.5), (0.6, 0.1))],
)
def test_coefficients_act_on_the_singular_values(getkey, dtype, rows, shape):
    """Any odd polynomials, of any degree, one after the other."""
    matrix = with_singular_values(getkey(), shape, np.geomspace(0.1, 1, min(shape)))
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sum(s**16) ** (1 / 16)  # by the bound of the Gram matrix
    for row in rows:
        s = s * polyval(s**2, row)
    actual = orthogonalized(jnp.asarray(matrix, dtype), coefficients=rows)
    assert_close(actual, (u * s) @ vt, amplification=20)


def test_a_row_of_one_coefficient_is_linear():
    actual = orthogonalize(jnp.eye(2), coefficients=((0.5,),))
    plain = orthogonalize(jnp.eye(2), coefficients=((0.5, 0.0),))
    assert_close(actual, plain)


def test_quintic_ends_between_0_7_and_1_2():
    matrix = jnp.diag(jnp.geomspace(0.02, 1, 40, dtype=jnp.float32))
    for steps in (5, 10):
        values = jnp.diag(orthogonalized(matrix, coefficients=quintic(steps)))
        assert 0.67 < values.min() < 0.8
        assert 1.05 < values.max() < 1.21


@pytest.mark.parametrize(("floor", "steps"), [(1e-2, 6), (1e-5, 12)])
def test_polar_express_serves_the_floor_that_it_was_made_for(floor, steps):
    values = jnp.geomspace(2 * floor, 1, 40, dtype=jnp.float32)
    matrices = jnp.stack([jnp.diag(values), jnp.diag(values.at[0].set(floor / 30))])
    rows = polar_express(steps, floor=floor)
    served, below = jnp.abs(
        1 - jnp.diagonal(orthogonalized(matrices, coefficients=rows), 0, 1, 2)
    ).max(1)
    assert served < 1e-5
    assert below > 1e-2


def test_rotation_equivariance(getkey, dtype):
    matrix = with_singular_values(getkey(), (6, 4), np.geomspace(0.1, 1, 4))
    left, _ = np.linalg.qr(random_psd(getkey(), 6, 6))
    right, _ = np.linalg.qr(random_psd(getkey(), 4, 4))
    u = np.asarray(orthogonalized(jnp.asarray(matrix, dtype)), "float64")
    turned = orthogonalized(jnp.asarray(left @ matrix @ right, dtype))
    assert_close(turned, left @ u @ right, amplification=20)


def test_transposing_commutes(getkey, dtype):
    matrix = with_singular_values(getkey(), (6, 4), np.geomspace(0.1, 1, 4))
    matrix = jnp.asarray(matrix, dtype)
    tall, wide = orthogonalized(matrix), orthogonalized(matrix.T)
    assert_close(wide, tall.T, amplification=20)


@pytest.mark.usefixtures("x64")
def test_first_and_second_derivatives(getkey):
    """In both modes, at generic points and at repeated singular values."""
    fn = jax.jit(lambda a: orthogonalize(a, coefficients=((1.9, -1.2, 0.3),)))
    generic = with_singular_values(getkey(), (4, 3), [0.5, 0.8, 2])
    for matrix in (generic, np.eye(4, 3), np.eye(4, 3) * [1, 1, 3]):
        # Differences have fewer digits, those of derivatives most of all.
        check_grads(fn, (matrix,), order=1, rtol=1e-5, atol=1e-5)
    check_grads(fn, (generic,), order=2, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_derivative_is_that_of_the_polar_factor(getkey):
    """$dU = U W$ with the skew $W$ of $H W + W H = U^T E - E^T U$, Higham (8.10)."""
    matrix = with_singular_values(getkey(), (4, 4), [0.5, 0.5, 1, 2])
    direction = random_psd(getkey(), 4, 2) + np.triu(np.ones((4, 4)), 1)
    u, h = scipy.linalg.polar(matrix)
    skew = u.T @ direction
    w = scipy.linalg.solve_sylvester(h, h, skew - skew.T)
    _, actual = jax.jit(lambda a, e: jax.jvp(orthogonalize, (a,), (e,)))(
        matrix, direction
    )
    assert_close(actual, u @ w, amplification=100)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [newton_schulz, quintic, polar_express])
def test_messages_on_steps(make):
    with pytest.raises(ValueError, match="`steps` must be an integer, at least 1; got 0"):
        make(0)
    message = "`steps` must be a Python integer, at least 1; got 2.5."
    with pytest.raises(TypeError, match=re.escape(message)):
        make(2.5)


def test_zero_small_empty_and_bad(dtype):
    assert (orthogonalized(jnp.zeros((3, 2), dtype)) == 0).all()
    actual = orthogonalized(jnp.array([[[-5]], [[0]]], dtype))
    assert_close(actual, np.array([[[-1]], [[0]]]), amplification=5)
    for shape in [(0, 3), (3, 0), (0, 2, 2)]:
        assert orthogonalized(jnp.zeros(shape, dtype)).shape == shape
    clean = jnp.broadcast_to(jnp.array([[3.0, 1.0], [1.0, 2.0]], dtype), (3, 2, 2))
    for bad in (np.nan, np.inf):
        out = orthogonalized(clean.at[1, 0, 1].set(bad))
        assert jnp.isnan(out[1]).all()
        assert (out[::2] == orthogonalized(clean)[::2]).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_equivariance(getkey, dtype, scale):
    matrix = with_singular_values(getkey(), (6, 4), np.geomspace(0.1, 1, 4))
    plain = np.asarray(orthogonalized(jnp.asarray(matrix, dtype)), "float64")
    scaled = orthogonalized(jnp.asarray(scale * matrix, dtype))
    assert_close(scaled, plain, amplification=20)


def test_jit_vmap_and_native_batches_agree(getkey):
    keys = [getkey() for _ in range(6)]
    values = np.geomspace(0.1, 1, 4)
    matrices = jnp.array([with_singular_values(k, (5, 4), values) for k in keys])
    matrices = matrices.astype(jnp.float32).reshape(2, 3, 5, 4)
    native = orthogonalize(matrices)
    mapped = jax.vmap(jax.vmap(orthogonalized))(matrices)
    for other in (orthogonalized(matrices), mapped):
        assert_close(other, native, amplification=20)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
def test_half_precision_and_strict_promotion(half):
    loss = lambda a: orthogonalize(a, coefficients=quintic(1)).sum().astype("float32")
    grad = jax.jit(jax.grad(loss))(jnp.eye(3, 2, dtype=half))
    assert grad.dtype == half


@pytest.mark.usefixtures("unchecked")
def test_messages_on_matrix():
    message = "`matrix` must have shape (..., m, n); got (3,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        orthogonalize(jnp.ones(3))
    message = "`matrix` must have a real floating-point dtype; got int32."
    with pytest.raises(TypeError, match=re.escape(message)):
        orthogonalize(jnp.ones((2, 2), "int32"))

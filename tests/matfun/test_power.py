import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from jaxla.matfun import psd_power
from tests.helpers import assert_close, power_oracle, psd_with_spectrum, random_psd


EXPONENTS = [-1.0, -0.5, -0.3, -0.25, 0.0, 0.5, 1.0, 2.0]
power_of = jax.jit(psd_power)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_matches_scipy(getkey, dtype, exponent):
    matrix = psd_with_spectrum(getkey(), [0.1, 0.5, 0.5, 1, 3])
    actual = power_of(jnp.asarray(matrix, dtype), exponent)
    desired = scipy.linalg.fractional_matrix_power(matrix, exponent)
    assert actual.dtype == dtype
    assert_close(actual, desired, amplification=30)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("exponent", [-1.0, -0.25, 0.5])
def test_condition_1e12_in_float64(getkey, exponent):
    values = np.geomspace(1e-12, 1, 6)
    matrix = psd_with_spectrum(getkey(), values)
    actual = power_of(matrix, exponent, rcond=0.0)
    # d lambda^e / lambda^e = e d lambda / lambda, at the smallest eigenvalue.
    amplification = 1e12 * abs(exponent) if exponent < 0 else 1
    assert_close(actual, power_oracle(matrix, exponent), amplification=amplification)


@pytest.mark.parametrize("exponent", [-0.5, -0.25, 1.0])
def test_damping_is_relative_to_the_bound_and_clamps(getkey, dtype, exponent):
    matrix = psd_with_spectrum(getkey(), [-0.05, 0, 0, 1, 3])
    actual = power_of(jnp.asarray(matrix, dtype), exponent, damping=1e-2)
    assert_close(actual, power_oracle(matrix, exponent, 1e-2), amplification=1e3)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_deficient_matrices_have_pseudoinverses(getkey, dtype, rank):
    matrix = random_psd(getkey(), 5, 3) if rank == 3 else np.diag([rank, 0, 0, 0, 0.0])
    given = jnp.asarray(matrix, dtype)
    assert_close(power_of(given, -1.0), np.linalg.pinv(matrix), amplification=1e3)
    projection = matrix @ np.linalg.pinv(matrix)
    assert_close(power_of(given, 0.0), projection, amplification=1e3)


def test_rcond_leaves_out_small_eigenvalues(dtype):
    matrix = jnp.diag(jnp.array([1.0, 0.1, 1e-4], dtype))
    kept = np.diag(power_of(matrix, -1.0, rcond=1e-2))
    np.testing.assert_allclose(kept, [1, 10, 0], rtol=1e-5)


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    logs=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    exponents=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    seed=st.integers(0, 2**16),
)
def test_powers_form_a_group(logs, exponents, seed):
    with jax.enable_x64(True):
        values = 10.0 ** np.array(logs)
        matrix = psd_with_spectrum(jax.random.key(seed), values)
        first, second = (np.asarray(power_of(matrix, e)) for e in exponents)
        both = power_of(matrix, sum(exponents))
        spread = values.max() / values.min()
        # Each factor has the relative accuracy of its largest entries only.
        cancelled = np.linalg.norm(first) * np.linalg.norm(second) / np.linalg.norm(both)
        assert_close(first @ second, both, amplification=20 * spread * cancelled)


def test_jit_vmap_and_loop_agree(getkey):
    matrices = [psd_with_spectrum(getkey(), [0.1, 0.5, 1, 1, 2]) for _ in range(6)]
    matrices = jnp.array(matrices, jnp.float32).reshape(2, 3, 5, 5)
    native = psd_power(matrices, -0.25, damping=1e-3)
    mapped = jax.vmap(jax.vmap(lambda a: power_of(a, -0.25, damping=1e-3)))(matrices)
    loop = [[power_of(a, -0.25, damping=1e-3) for a in row] for row in matrices]
    jitted = power_of(matrices, -0.25, damping=1e-3)
    for other in (jitted, mapped, jnp.array(loop)):
        assert_close(other, native, amplification=20)


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(getkey, half):
    matrix = jnp.asarray(psd_with_spectrum(getkey(), [0.1, 0.5, 1, 1, 2]), half)
    actual = power_of(matrix, -0.25, damping=1e-3)
    wide = power_of(matrix.astype(jnp.float32), -0.25, damping=1e-3)
    assert actual.dtype == half
    assert (actual == wide.astype(half)).all()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
def test_promotes_nothing_silently(half):
    matrix = jnp.eye(3, dtype=half)
    exponent, damping = jnp.float32(-0.25), jnp.float32(1e-3)
    assert power_of(matrix, exponent, damping=damping).dtype == half
    jax.jit(jax.grad(lambda a: psd_power(a, exponent, damping=damping).sum()))(matrix)


def test_small_and_empty(dtype):
    assert_close(power_of(jnp.full((1, 1), 16.0, dtype), -0.25), np.full((1, 1), 0.5))
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0)]:
        for damping in (None, 1e-3):
            out = power_of(jnp.ones(shape, dtype), -0.5, damping=damping)
            assert out.shape == shape
            assert out.dtype == dtype


@pytest.mark.parametrize("damping", [None, 1e-3])
def test_zero_matrix_gives_zero(dtype, damping):
    for exponent in (-0.5, 0.0, 0.5):
        out = power_of(jnp.zeros((3, 3), dtype), exponent, damping=damping)
        assert (out == 0).all()


@pytest.mark.parametrize("exponent", [-0.5, 2.0])
@pytest.mark.parametrize("damping", [None, 1e-3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_matrix_is_nan_and_touches_no_other(getkey, damping, exponent, bad):
    clean = jnp.array([psd_with_spectrum(getkey(), [0.1, 1, 2])] * 4, jnp.float32)
    desired = power_of(clean, exponent, damping=damping)
    others = jnp.array([0, 2, 3])
    for where in [(1, 0, 0), (1, 2, 2), (1, 0, 2)]:
        out = power_of(clean.at[where].set(bad), exponent, damping=damping)
        assert jnp.isnan(out[1]).all()
        assert (out[others] == desired[others]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_power_zero_of_a_bad_matrix_is_nan(bad):
    matrix = jnp.diag(jnp.array([1, bad], jnp.float32))
    assert jnp.isnan(power_of(matrix, 0.0)).all()


@pytest.mark.parametrize("exponent", [-1.0, -0.25, 1.0])
@pytest.mark.parametrize("damping", [None, 1e-3])
def test_scale_equivariance(getkey, dtype, exponent, damping):
    matrix = psd_with_spectrum(getkey(), [0.1, 0.5, 1, 1, 2])
    plain = power_of(jnp.asarray(matrix, dtype), exponent, damping=damping)
    for scale in (1e-30, 1e-12, 1e12, 1e30):
        scaled = power_of(jnp.asarray(scale * matrix, dtype), exponent, damping=damping)
        desired = np.asarray(plain, "float64") * scale**exponent
        assert_close(scaled, desired, amplification=40)


def test_rotation_equivariance(getkey, dtype):
    matrix = psd_with_spectrum(getkey(), [0.1, 0.5, 1, 1, 2])
    q, _ = np.linalg.qr(random_psd(getkey(), 5, 5))
    plain = np.asarray(power_of(jnp.asarray(matrix, dtype), -0.5), "float64")
    turned = power_of(jnp.asarray(q @ matrix @ q.T, dtype), -0.5)
    assert_close(turned, q @ plain @ q.T, amplification=40)


def test_a_symmetric_part_is_taken(getkey):
    matrix = psd_with_spectrum(getkey(), [1.0, 2.0, 3.0])
    skew = np.array([[0, 1, 2], [-1, 0, 3], [-2, -3, 0]])
    actual = power_of(jnp.asarray(matrix + skew, jnp.float32), -0.5)
    desired = power_of(jnp.asarray(matrix, jnp.float32), -0.5)
    assert_close(actual, desired, amplification=10)


@pytest.mark.usefixtures("x64")
def test_derivatives_without_damping(getkey):
    """In both modes and both arguments, at repeated eigenvalues too."""
    generic = psd_with_spectrum(getkey(), [0.5, 0.8, 1.5, 2])
    for matrix in (generic, np.eye(4), np.diag([1.0, 1, 2, 3])):
        for exponent in (-0.25, 0.5, 2.0):
            check_grads(power_of, (matrix, exponent), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_derivatives_with_damping(getkey):
    """Also where eigenvalues are clamped, some of them repeated."""
    fn = jax.jit(lambda a, e, d: psd_power(a, e, damping=d))
    generic = psd_with_spectrum(getkey(), [-0.3, -0.1, 1.5, 2])
    for matrix in (generic, np.eye(4), np.diag([-1.0, -1, 2, 3])):
        check_grads(fn, (matrix, -0.5, 0.1), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_derivative_between_close_eigenvalues():
    """Divided differences without cancellation: exact where a quotient is not."""
    gap, exponent = 1e-9, -0.25
    direction = np.array([[0.0, 1], [1, 0]])
    jvp = jax.jit(lambda a, e: jax.jvp(lambda x: psd_power(x, exponent), (a,), (e,))[1])
    slope = jvp(np.diag([1.0, 1 + gap]), direction)[0, 1]
    np.testing.assert_allclose(slope, exponent * (1 + gap / 2) ** (exponent - 1), 1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("exponent", [-1.0, 0.5])
def test_derivative_at_constant_rank(getkey, exponent):
    """Turning a matrix, A' = W A - A W with skew W, turns its power."""
    matrix = random_psd(getkey(), 5, 3)
    skew = np.triu(random_psd(getkey(), 5, 5), 1)
    skew = skew - skew.T
    turn = lambda a: skew @ a - a @ skew
    fn = lambda a: psd_power(a, exponent)
    power, actual = jax.jvp(fn, (matrix,), (turn(matrix),))
    assert_close(actual, turn(np.asarray(power)), amplification=1e3)


@pytest.mark.usefixtures("x64")
def test_gradients_of_a_batch_are_those_of_its_matrices(getkey):
    matrices = np.stack([psd_with_spectrum(getkey(), [0.5, 0.5, 2]), np.zeros((3, 3))])
    weights = random_psd(getkey(), 3, 3)
    loss = lambda a: (weights * psd_power(a, -0.5, damping=0.1)).sum()
    batched = jax.jit(jax.grad(loss))(matrices)
    single = jax.jit(jax.grad(loss))(matrices[0])
    assert_close(batched[0], single, amplification=20)
    assert (batched[1] == 0).all()


@pytest.mark.parametrize(
    "second",
    [
        lambda f: jax.grad(lambda a: jax.grad(f)(a).sum()),
        lambda f: jax.jacfwd(jax.jacfwd(f)),
        lambda f: jax.jacfwd(jax.grad(f)),
    ],
)
def test_a_second_derivative_is_refused(second):
    message = (
        "`psd_power` can be differentiated once only; for higher derivatives of an "
        "inverse root use `jaxla.matfun.inverse_pth_root`."
    )
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        second(lambda a: psd_power(a, -0.5).sum())(jnp.eye(2))


@pytest.mark.usefixtures("unchecked")
def test_messages():
    for shape in [(3,), (2, 3), (4, 2, 3)]:
        message = f"`matrix` must have shape (..., n, n); got {shape}."
        with pytest.raises(ValueError, match=re.escape(message)):
            psd_power(jnp.ones(shape), -0.5)
    for bad in ("int32", "complex64"):
        message = f"`matrix` must have a real floating-point dtype; got {bad}."
        with pytest.raises(TypeError, match=re.escape(message)):
            psd_power(jnp.ones((2, 2), bad), -0.5)

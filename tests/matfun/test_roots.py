import functools
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.matfun import inverse_pth_root, num_products, psd_power
from tests.helpers import (
    assert_close,
    assert_lowers_for_accelerators,
    power_oracle,
    psd_with_spectrum,
    random_psd,
)


ORDERS = range(1, 9)
root_of = jax.jit(inverse_pth_root, static_argnames=("p", "floor", "method"))


def relative_errors(actual, desired):
    norm = lambda x: np.linalg.norm(x, axis=(-2, -1))
    return norm(np.asarray(actual, "float64") - desired) / norm(desired)


@functools.cache
def hard_and_easy(size):
    """float32 matrices of condition 1e6, the last of 1e2, and their eigenpairs."""
    # The rounding of a single small matrix is a matter of luck: take several.
    conditions = [1e6] * (256 // size) + [1e2]
    matrices = [
        psd_with_spectrum(jax.random.key(i), np.geomspace(1 / condition, 1, size))
        for i, condition in enumerate(conditions)
    ]
    rounded = np.array(matrices, "float32")
    return rounded, np.linalg.eigh(rounded.astype("float64"))


def damped_power(eigenpairs, exponent, damping):
    """`power_oracle` of matrices that are diagonalized already."""
    values, vectors = eigenpairs
    bound = np.sum(values**8, -1, keepdims=True) ** (1 / 8)
    powers = (np.maximum(values, 0) + damping * bound) ** exponent
    return (vectors * powers[..., None, :]) @ vectors.swapaxes(-2, -1)


@pytest.mark.parametrize("size", [16, 128, 256])
@pytest.mark.parametrize("p", ORDERS)
def test_accuracy_in_float32(p, size):
    matrices, eigenpairs = hard_and_easy(size)
    root, residual = root_of(jnp.asarray(matrices), p, damping=1e-6)
    desired = damped_power(eigenpairs, -1 / p, 1e-6)
    assert root.dtype == residual.dtype == np.float32
    assert (residual < 1e-4).all()
    errors = relative_errors(root, desired)
    # Condition 1e2: an inverse may lose as many digits, which is 1.2e-5.
    assert errors[-1] < (1.2e-5 if p == 1 else 5e-6)
    if p > 1:
        assert (errors < 2e-3).all()
        return
    # To round A + eps I to float32 moves its smallest eigenvalue, and hence the
    # inverse, by 1e-3 already: no algorithm that starts from it reaches 2e-3 safely,
    # and LAPACK is the measure.
    assert (errors < 6e-3).all()
    damped = jnp.asarray(damped_power(eigenpairs, 1, 1e-6), jnp.float32)
    lapack = relative_errors(jnp.linalg.inv(damped), desired)
    assert np.linalg.norm(errors) < 1.5 * np.linalg.norm(lapack)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("p", ORDERS)
def test_matches_the_oracle_in_float64(getkey, p):
    conditions = np.array([1e2, 1e8, 1e12])
    matrices = np.stack(
        [psd_with_spectrum(getkey(), np.geomspace(1 / c, 1, 12)) for c in conditions]
    )
    root, residual = root_of(matrices, p, damping=0.0)
    desired = power_oracle(matrices, -1 / p)
    assert (residual < 1e-13).all()
    for actual, expected, condition in zip(root, desired, conditions, strict=True):
        # The root of the smallest eigenvalue dominates, whose relative error is the
        # condition times eps, over p.
        assert_close(actual, expected, amplification=condition / p)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
def test_promotes_nothing_silently(half):
    matrix = jnp.eye(3, dtype=half)
    root, _ = jax.jit(lambda a, d: inverse_pth_root(a, 4, damping=d))(
        matrix, jnp.float32(1e-3)
    )
    assert root.dtype == half
    jax.jit(jax.grad(lambda a: inverse_pth_root(a, 4).root.sum()))(matrix)


@pytest.mark.parametrize("p", [1, 3, 4])
def test_damping_is_relative_to_the_bound(getkey, dtype, p):
    matrix = 7 * random_psd(getkey(), 6, 2)
    actual, _ = root_of(jnp.asarray(matrix, dtype), p, damping=1e-2)
    assert_close(actual, power_oracle(matrix, -1 / p, damping=1e-2), amplification=1e2)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
    exponents=st.lists(st.floats(-4, 0), min_size=4, max_size=4),
    p=st.sampled_from([3, 4]),
    seed=st.integers(0, 2**16),
)
def test_the_pth_power_is_the_inverse(exponents, p, seed):
    """Whatever the spectrum: repeated, clustered, geometric."""
    with jax.enable_x64(True):
        values = 10.0 ** np.array([0, *exponents])
        matrix = psd_with_spectrum(jax.random.key(seed), values)
        root, _ = root_of(matrix, p, damping=0.0)
        product = np.linalg.matrix_power(root, p) @ matrix
        assert_close(product, np.eye(5), amplification=10 / values.min())


@pytest.mark.parametrize("p", [1, 4])
def test_repeated_eigenvalues(dtype, p):
    matrices = np.stack([np.eye(4), np.diag([1.0, 1, 2, 3]), 5 * np.eye(4)])
    root, residual = root_of(jnp.asarray(matrices, dtype), p, damping=0.0)
    assert_close(root, power_oracle(matrices, -1 / p), amplification=4)
    assert (residual < 100 * jnp.finfo(dtype).eps).all()


def test_jit_vmap_and_loop_agree(getkey):
    values = np.geomspace(1e-2, 1, 5)
    matrices = [psd_with_spectrum(getkey(), values) for _ in range(6)]
    matrices = jnp.array(matrices, jnp.float32).reshape(2, 3, 5, 5)
    native = inverse_pth_root(matrices, 4)
    assert native.root.shape == (2, 3, 5, 5)
    assert native.residual.shape == (2, 3)
    mapped = jax.vmap(jax.vmap(lambda a: root_of(a, 4)))(matrices)
    loop = [[root_of(a, 4).root for a in row] for row in matrices]
    for other in (root_of(matrices, 4).root, mapped.root, jnp.array(loop)):
        assert_close(other, native.root, amplification=1e2)


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(getkey, half):
    matrix = jnp.asarray(psd_with_spectrum(getkey(), np.geomspace(1e-2, 1, 6)), half)
    root, residual = root_of(matrix, 4)
    wide = root_of(matrix.astype(jnp.float32), 4)
    assert root.dtype == half
    assert residual.dtype == jnp.float32
    assert (root == wide.root.astype(half)).all()
    assert residual == wide.residual


def test_small_and_empty(dtype):
    root, residual = root_of(jnp.full((1, 1), 16.0, dtype), 4, damping=0.0)
    assert_close(root, np.full((1, 1), 0.5))
    assert residual < 100 * jnp.finfo(dtype).eps
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0)]:
        root, residual = root_of(jnp.ones(shape, dtype), 4)
        assert root.shape == shape
        assert residual.shape == shape[:-2]
        assert root.dtype == residual.dtype == dtype


def test_is_symmetric_up_to_rounding_errors(dtype):
    matrices = jnp.asarray(hard_and_easy(16)[0], dtype)
    root, _ = root_of(matrices, 4)
    assert_close(root, root.mT, amplification=1e6 / 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("p", [1, 4])
def test_a_bad_matrix_is_flagged_and_touches_no_other(getkey, p, bad):
    clean = jnp.array([psd_with_spectrum(getkey(), [0.1, 1, 2])] * 4, jnp.float32)
    root, residual = root_of(clean, p)
    for where in [(1, 0, 0), (1, 0, 2)]:
        poisoned, flags = root_of(clean.at[where].set(bad), p)
        others = jnp.array([0, 2, 3])
        assert flags[1] == jnp.inf
        assert (poisoned[1] == 0).all()
        assert (poisoned[others] == root[others]).all()
        assert (flags[others] == residual[others]).all()


@pytest.mark.parametrize("p", [1, 4])
def test_matrices_without_a_root_are_flagged(dtype, p):
    zero, negative, indefinite, tiny = np.zeros(2), [-1, -2], [1, -0.5], [1, 1e-20]
    matrices = jnp.array([np.diag(d) for d in (zero, negative, indefinite, tiny)], dtype)
    root, residual = root_of(matrices, p, damping=0.0)
    assert (residual[:3] == jnp.inf).all()
    assert (root[:3] == 0).all()
    # Below `floor`: as if damped, and not converged.
    assert residual[3] > 0.1
    assert jnp.isfinite(root[3]).all()


def test_floor_serves_what_it_says(dtype):
    matrix = jnp.diag(jnp.array([1, 1e-9], dtype))
    short, long = (root_of(matrix, 2, damping=0.0, floor=f) for f in (1e-4, 1e-9))
    assert short.residual > 0.1
    assert long.residual < 1e-5
    assert_close(long.root, np.diag([1, 10**4.5]), amplification=4)


@pytest.mark.parametrize("p", [1, 4])
def test_scale_equivariance(getkey, dtype, p):
    matrix = psd_with_spectrum(getkey(), np.geomspace(1e-2, 1, 6))
    root, residual = root_of(jnp.asarray(matrix, dtype), p)
    for scale in (1e-30, 1e-12, 1e12, 1e30):
        scaled, other = root_of(jnp.asarray(scale * matrix, dtype), p)
        desired = np.asarray(root, "float64") * scale ** (-1 / p)
        assert_close(scaled, desired, amplification=1e2)
        assert abs(other - residual) < 100 * jnp.finfo(dtype).eps


@pytest.mark.parametrize("p", [2, 4])
def test_rotation_equivariance(getkey, dtype, p):
    matrix = psd_with_spectrum(getkey(), np.geomspace(1e-2, 1, 6))
    q, _ = np.linalg.qr(random_psd(getkey(), 6, 6))
    root = np.asarray(root_of(jnp.asarray(matrix, dtype), p).root, "float64")
    turned, _ = root_of(jnp.asarray(q @ matrix @ q.T, dtype), p)
    assert_close(turned, q @ root @ q.T, amplification=1e2)


@pytest.mark.usefixtures("x64")
def test_first_and_second_derivatives(getkey):
    """In both modes, at generic points and at repeated eigenvalues."""
    fn = jax.jit(lambda a, damping: inverse_pth_root(a, 4, damping=damping).root)
    generic = psd_with_spectrum(getkey(), [0.5, 0.8, 1.5, 2])
    for matrix in (generic, np.eye(4), np.diag([1.0, 1, 2, 3])):
        check_grads(fn, (matrix, 0.1), order=1, rtol=1e-6, atol=1e-6)
    for matrix in (generic, np.eye(4)):
        # Differences of derivatives have fewer digits.
        check_grads(fn, (matrix, 0.1), order=2, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_derivative_is_that_of_daleckii_and_krein(getkey):
    """An oracle without finite differences, at a repeated eigenvalue."""
    values, p = np.array([1.0, 1, 2, 3]), 3
    direction = random_psd(getkey(), 4, 2)
    fn = lambda a: inverse_pth_root(a, p, damping=0.0).root
    _, actual = jax.jit(lambda a, e: jax.jvp(fn, (a,), (e,)))(np.diag(values), direction)
    x, y = values[:, None], values[None, :]
    apart = np.where(x == y, 1, x - y)
    slopes = (x ** (-1 / p) - y ** (-1 / p)) / apart
    slopes = np.where(x == y, -1 / p * x ** (-1 / p - 1), slopes)
    assert_close(actual, slopes * direction, amplification=20)


def test_gradient_beside_a_bad_matrix():
    matrices = jnp.stack([jnp.eye(3), jnp.full((3, 3), jnp.nan), jnp.zeros((3, 3))])
    grad = jax.jit(jax.grad(lambda a: inverse_pth_root(a, 4).root.sum()))
    alone = grad(jnp.stack([jnp.eye(3)] * 3))
    beside = grad(matrices)
    assert (beside[0] == alone[0]).all()
    assert (beside[2] == 0).all()


@pytest.mark.parametrize("p", ORDERS)
def test_num_products_counts_the_products(p):
    jaxpr = jax.make_jaxpr(lambda a: inverse_pth_root(a, p))(jnp.eye(3, dtype="float32"))
    assert num_products(p) == count_products(jaxpr.jaxpr)
    assert num_products(p, floor=1e-3) < num_products(p)


def count_products(jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        total += eqn.primitive.name == "dot_general"
        inner = [x for x in eqn.params.values() if hasattr(x, "eqns")]
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += repeats * sum(map(count_products, inner))
    return total


def test_agrees_with_psd_power(getkey, dtype):
    matrix = jnp.asarray(psd_with_spectrum(getkey(), [0.1, 0.1, 1, 4]), dtype)
    root, _ = root_of(matrix, 4, damping=1e-3)
    other = jax.jit(psd_power)(matrix, -1 / 4, damping=1e-3)
    assert_close(root, other, amplification=40)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (0, ValueError, "`p` must be an integer, between 1 and 8; got 0."),
        (9, ValueError, "`p` must be an integer, between 1 and 8; got 9."),
        (2.0, TypeError, "`p` must be a Python integer, between 1 and 8; got 2.0."),
        (True, TypeError, "`p` must be a Python integer, between 1 and 8; got True."),
    ],
)
def test_message_on_p(p, error, message):
    for call in (lambda: inverse_pth_root(jnp.eye(2), p), lambda: num_products(p)):
        with pytest.raises(error, match=re.escape(message)):
            call()


@pytest.mark.parametrize("floor", [0.0, 1.0, -1e-3, float("nan")])
def test_message_on_floor(floor):
    message = f"`floor` must lie between 0 and 1; got {floor}."
    with pytest.raises(ValueError, match=re.escape(message)):
        inverse_pth_root(jnp.eye(2), 4, floor=floor)


@pytest.mark.usefixtures("unchecked")
def test_message_on_matrix():
    for shape in [(3,), (2, 3), (4, 2, 3)]:
        message = f"`matrix` must have shape (..., n, n); got {shape}."
        with pytest.raises(ValueError, match=re.escape(message)):
            inverse_pth_root(jnp.ones(shape), 4)
    for dtype in ("int32", "complex64", "bool"):
        message = f"`matrix` must have a real floating-point dtype; got {dtype}."
        with pytest.raises(TypeError, match=re.escape(message)):
            inverse_pth_root(jnp.ones((2, 2), dtype), 4)


def stages(damping):
    """The steps of the iteration, by the scan in the program."""
    program = jax.make_jaxpr(lambda a: inverse_pth_root(a, 4, damping=damping))
    (rule,) = (
        e.params["call_jaxpr"]
        for e in program(jnp.eye(4, dtype="float32")).eqns
        if e.primitive.name == "custom_jvp_call"
    )
    (scan,) = (e for e in rule.eqns if e.primitive.name == "scan")
    return scan.params["length"]


def test_damping_that_is_a_number_saves_steps():
    steps = [stages(damping) for damping in (1e-6, 1e-4, 1e-2, 1.0, 1e20)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[1] > steps[2] > steps[3]
    # Of one that is traced nothing is known.
    assert stages(jnp.float32(1e-2)) == stages(1e-6)


@pytest.mark.parametrize("p", [1, 4])
@pytest.mark.parametrize("damping", [1e-4, 1e-2, 1.0, 30.0])
def test_fewer_steps_are_enough(getkey, p, damping):
    matrix = psd_with_spectrum(getkey(), np.geomspace(1e-9, 1, 12))
    root, residual = inverse_pth_root(jnp.asarray(matrix, "float32"), p, damping=damping)
    bound = np.sum(np.linalg.eigvalsh(matrix) ** 8) ** (1 / 8)
    damped = matrix + damping * bound * np.eye(12)
    assert residual < 1e-4
    assert_close(root, power_oracle(damped, -1 / p, 0.0), amplification=10 / damping + 30)


@pytest.mark.parametrize("p", [2, 4, 8])  # the inverse itself would be subnormal
def test_the_largest_numbers_have_roots(p):
    values = 2e38 * np.linspace(0.5, 1, 8)
    root, residual = inverse_pth_root(jnp.diag(jnp.asarray(values, "float32")), p)
    assert residual < 1e-4
    np.testing.assert_allclose(jnp.diag(root), values ** (-1 / p), rtol=1e-4)


@pytest.mark.parametrize("p", [1, 3, 4, 8])
@pytest.mark.parametrize(
    ("method", "size"),
    [("newton", 6), ("eigh", 6), ("auto", 6), ("auto", 60)],  # changes its mind between
)
def test_all_methods_agree(getkey, dtype, method, size, p):
    matrix = psd_with_spectrum(getkey(), np.geomspace(1e-2, 1, size))
    root, residual = root_of(jnp.asarray(matrix, dtype), p, method=method)
    assert_close(root, power_oracle(matrix, -1 / p, 1e-6), amplification=200)
    assert residual < 5e3 * jnp.finfo(dtype).eps


@pytest.mark.parametrize("p", [2, 4])
def test_products_beat_the_eigendecomposition_in_float32(p):
    """Five times at condition 1e6, which is what they are for."""
    matrices, eigenpairs = hard_and_easy(128)
    desired = damped_power(eigenpairs, -1 / p, 1e-6)
    errors = {
        method: relative_errors(root_of(matrices, p, method=method).root, desired)[:-1]
        for method in ("minimax", "newton", "eigh")
    }
    assert errors["minimax"].max() < errors["eigh"].max() / 5
    assert errors["newton"].max() < errors["eigh"].max() / 5


def test_newton_takes_twice_as_many_products():
    for p in (2, 3, 4, 8):
        newton, minimax = (num_products(p, method=m) for m in ("newton", "minimax"))
        assert newton > 1.9 * minimax
    # The steps that its recurrence m -> m ((p + 1 - m) / p)^p takes from 5e-7.
    m, steps = 5e-7 * 2.5, 0
    while abs(1 - m) > 2e-7:
        m, steps = m * ((5 - m) / 4) ** 4, steps + 1
    assert num_products(4, method="newton") == 4 * steps + 2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("p", [1, 3, 4])
def test_derivatives_of_the_eigendecomposition_method(getkey, p):
    """To second order, at repeated eigenvalues too: its own equation, not its vectors."""
    weights = np.arange(9.0).reshape(3, 3)
    direction = np.array([[1.0, 2, -1], [0, 0.5, 1], [3, 1, -2]])  # not symmetric

    def along(t, matrix, method="eigh"):
        matrix = matrix + t * (direction + direction.T)
        return (
            inverse_pth_root(matrix, p, method=method, damping=0.0).root * weights
        ).sum()

    orders = [jax.jit(f) for f in (jax.grad(along), jax.jacfwd(jax.grad(along)))]
    by_products = functools.partial(along, method="newton")
    others = [
        jax.jit(f) for f in (jax.grad(by_products), jax.jacfwd(jax.grad(by_products)))
    ]
    for spectrum in ([1, 1, 1.0], [1, 1, 2.0], [0.5, 0.8, 2]):
        for mine, other in zip(orders, others, strict=True):
            actual, desired = mine(0.0, np.diag(spectrum)), other(0.0, np.diag(spectrum))
            np.testing.assert_allclose(actual, desired, rtol=1e-8)


@pytest.mark.parametrize("method", ["newton", "eigh", "auto"])
def test_bad_matrices_of_a_batch_by_all_methods(getkey, method):
    clean = jnp.array(
        [psd_with_spectrum(getkey(), np.linspace(0.1, 1, 60))] * 3, "float32"
    )
    desired = root_of(clean, 4, method=method)
    for bad in (np.nan, np.inf):
        out = root_of(clean.at[1, 0, 2].set(bad), 4, method=method)
        assert out.residual[1] == jnp.inf
        assert (out.root[1] == 0).all()
        assert (out.root[::2] == desired.root[::2]).all()
    mapped = jax.jit(jax.vmap(lambda a: inverse_pth_root(a, 4, method=method)))(clean)
    assert_close(mapped.root, desired.root, amplification=60)


@pytest.mark.parametrize("method", ["minimax", "newton", "eigh", "auto"])
def test_lowers_for_accelerators(method):
    matrix = jnp.ones((2, 60, 60), jnp.float32)
    fn = lambda a: inverse_pth_root(a, 4, method=method).root
    assert_lowers_for_accelerators(fn, matrix)


@pytest.mark.usefixtures("unchecked")
def test_message_on_method():
    with pytest.raises(ValueError, match="`method` must be one of 'minimax', 'newton'"):
        inverse_pth_root(jnp.eye(2), 2, method="svd")

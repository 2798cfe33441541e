"""Power iterations against singular values in float64, and what leads them astray."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.kron import power_iteration


# Tall, wide, stacked and long: the limit of two calls pads some of them.
SHAPES = ((6, 4), (4, 6), (2, 5, 4), (9, 3))


@jax.jit
def update(matrices, vectors):
    return power_iteration(matrices, vectors, steps=1, shapes=2)


def run(matrices, vectors=None, calls=1):
    matrices = [jnp.asarray(g) for g in matrices]
    vectors = zeros() if vectors is None else vectors
    for _ in range(calls):
        norms, vectors = update(matrices, vectors)
    return norms, vectors


def zeros():
    return [jnp.zeros((*s[:-2], min(s[-2:]))) for s in SHAPES]


def random_matrices(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES]


def of_rank_one(seed):
    rng = np.random.default_rng(seed)
    pairs = [rng.normal(size=(*s[:-2], s[-2] + s[-1])) for s in SHAPES]
    return [
        (p[..., : s[-2], None] * p[..., None, s[-2] :]).astype("float32")
        for p, s in zip(pairs, SHAPES, strict=True)
    ]


def singular_values(g):
    return np.linalg.svd(np.asarray(g, "float64"), compute_uv=False)


def test_many_calls_find_norms_and_vectors():
    matrices = random_matrices()
    norms, vectors = run(matrices, calls=60)
    for g, rho, v in zip(matrices, norms, vectors, strict=True):
        np.testing.assert_allclose(rho, singular_values(g)[..., 0], rtol=1e-5)
        tall = g if g.shape[-2] >= g.shape[-1] else g.swapaxes(-1, -2)
        expected = np.linalg.svd(tall.astype("float64"))[2][..., 0, :]
        np.testing.assert_allclose(np.abs(np.sum(v * expected, -1)), 1, rtol=1e-4)


def test_estimates_are_between_their_bounds():
    matrices = random_matrices(1)
    first = run(matrices)[0]
    for g, rho, last in zip(matrices, first, run(matrices, calls=9)[0], strict=True):
        s = singular_values(g)
        least = np.sqrt((s**2).sum(-1) / s.shape[-1])
        assert (rho >= least * (1 - 1e-5)).all()
        assert (rho <= last * (1 + 1e-5)).all()
        assert (last <= s[..., 0] * (1 + 1e-5)).all()
    # All but hidden from both starts: orthogonal to the mixture of rows, cos(i^2).
    s = np.cos(np.array([4.0, 9.0]))
    matrices[0] = np.zeros((6, 4), "float32")
    matrices[0][0, 0], matrices[0][1:3, 1] = 1e-2, [s[1], -s[0]]
    least = np.linalg.norm(matrices[0]) / 2
    np.testing.assert_allclose(run(matrices)[0][0], least, rtol=1e-5)


def test_errors_fall_with_the_gap_at_each_step():
    g = np.diag([10.0, 7.0, 1.0]).astype("float32")
    start = jnp.full(3, 3**-0.5)
    errors = []
    for steps in (1, 3):
        run = jax.jit(lambda g, v, k=steps: power_iteration([g], [v], steps=k))
        errors.append(10 - float(run(g, start)[0][0]))
    np.testing.assert_allclose(errors[1] / errors[0], 0.7**8, rtol=0.2)


def test_the_norm_of_rank_one_is_exact_wherever_it_starts():
    _, vectors = run(of_rank_one(2))
    # Orthogonal to all rows, as after a batch of one other example.
    matrices = []
    for g, v in zip(of_rank_one(3), vectors, strict=True):
        v = np.asarray(v, "float64")
        tall = g.shape[-2] >= g.shape[-1]
        g = g if tall else g.swapaxes(-1, -2)
        g = g - (g @ v[..., None]) * v[..., None, :]
        matrices.append(np.asarray(g if tall else g.swapaxes(-1, -2), "float32"))
    norms, _ = run(matrices, vectors)
    for g, rho in zip(matrices, norms, strict=True):
        np.testing.assert_allclose(rho, singular_values(g)[..., 0], rtol=1e-5)


def test_a_vector_of_another_singular_value_is_left():
    matrices = random_matrices(4)
    vectors = zeros()
    for diagonal, i in ((np.array([1, 9, 1, 1]), 0), (np.array([1, 1, 9]), 3)):
        matrices[i] = np.eye(*SHAPES[i], dtype="float32") * diagonal.astype("float32")
        vectors[i] = vectors[i].at[0].set(1)
    norms, _ = run(matrices, vectors)
    np.testing.assert_allclose([norms[0], norms[3]], 9, rtol=1e-3)


def test_scale_zeros_and_bad_entries():
    matrices = random_matrices(6)
    norms, vectors = run(matrices)
    for scale in (np.float32(1e-30), np.float32(1e30)):
        scaled, same = run([scale * g for g in matrices])
        for x, y in zip((*scaled, *same), (*norms, *vectors), strict=True):
            unit = scale if x.shape == () or x.shape == (2,) else 1
            np.testing.assert_allclose(x / unit, y, rtol=1e-4, atol=1e-5)

    bad = [g.copy() for g in matrices]
    bad[0][1, 1], bad[1][...], bad[2][0, 0, 0] = np.nan, 0, np.inf
    found, after = run(bad, vectors)
    fine, kept = run(matrices, vectors)
    assert np.isnan(found[0])
    assert found[1] == 0
    np.testing.assert_array_equal(np.isnan(found[2]), [True, False])
    np.testing.assert_allclose(found[2][1], fine[2][1], rtol=1e-6)
    np.testing.assert_allclose(after[2][1], kept[2][1], rtol=1e-5)
    for i in (0, 1):
        np.testing.assert_array_equal(after[i], vectors[i])
    np.testing.assert_array_equal(after[2][0], vectors[2][0])


def test_the_derivative_is_that_of_the_largest_singular_value():
    g = random_matrices(7)[0]
    _, v = run(random_matrices(7), calls=60)
    one = lambda g: power_iteration([g], [v[0]], steps=1)[0][0]
    both = jax.jit(lambda g: (jax.grad(one)(g), jax.jvp(one, (g,), (g,))[1]))
    gradient, tangent = both(g)
    u, s, vt = np.linalg.svd(g.astype("float64"))
    np.testing.assert_allclose(gradient, np.outer(u[:, 0], vt[0]), atol=1e-4)
    np.testing.assert_allclose(tangent, s[0], rtol=1e-4)


def test_half_precision_is_computed_in_single():
    g = jnp.ones((4, 4), jnp.bfloat16)
    norms, vectors = jax.jit(power_iteration)([g], [jnp.zeros(4)])
    assert norms[0].dtype == vectors[0].dtype == jnp.float32
    np.testing.assert_allclose(norms[0], 4, rtol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments():
    assert power_iteration([], []) == ([], [])
    with pytest.raises(ValueError, match=r"`vectors` must have the shapes \[\(2,\)\]"):
        power_iteration([jnp.ones((3, 2))], [jnp.zeros(3)])
    with pytest.raises(TypeError, match="`steps` must be a Python integer, at least 0"):
        power_iteration([jnp.ones((3, 2))], [jnp.zeros(2)], steps=1.5)

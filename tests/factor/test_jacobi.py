import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.factor._jacobi import (
    eigh_jacobi,
    permute,
    ranking,
    rotation,
    rounds_of_a_sweep,
    turn_rows,
)
from jaxla.factor._one_sided import orthogonalize


@pytest.mark.parametrize("size", range(2, 12))
def test_every_two_rows_meet_once_in_a_sweep(size):
    rows = jnp.arange(float(size))[:, None, None]
    none = jnp.ones((size // 2, 1)), jnp.zeros((size // 2, 1))
    met = []
    for _ in range(rounds_of_a_sweep(size)):
        now = np.asarray(rows)[:, 0, 0].astype(int)
        half = size // 2
        met += [frozenset(now[[i, i + half]].tolist()) for i in range(half)]
        rows = turn_rows(rows, *none)
    assert len(met) == len(set(met)) == size * (size - 1) // 2
    assert (rows[:, 0, 0] == jnp.arange(size)).all()


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_a_rotation_makes_diagonal(dtype, scale):
    cases = [(1, 2, 3), (2, 1, -3), (1, 1, 1), (1, 1, -1), (1, 2, 0), (0, 0, 0)]
    cases += [(1, 1e-20, 1e-10), (1e-20, 1, 1e-25), (1, 2, 1e-30)]
    a, b, o = (jnp.asarray(x, dtype) * scale for x in np.array(cases, "float64").T)
    c, s = rotation(a, b, o)
    c, s, a, b, o = (np.asarray(x, "float64") for x in (c, s, a, b, o))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(c * c + s * s, 1, rtol=4 * eps)
    off = c * s * (a - b) + (c * c - s * s) * o
    assert (abs(off) <= 4 * eps * abs(o)).all()
    assert (abs(s) <= c * (1 + 2 * eps)).all()


def test_ranking_is_a_stable_argsort(dtype):
    values = jnp.asarray(np.random.default_rng(0).integers(0, 4, (6, 50)), dtype)
    order = ranking(values)
    assert (order == jnp.argsort(values, axis=0)).all()
    assert (permute(values, order) == jnp.sort(values, axis=0)).all()


def test_converges_where_eigenvalues_repeat():
    """Plain sweeps converge linearly here: a tenth a sweep or worse."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((500, 8, 8)))[0]
    a = (q * rng.choice([0.0, 1.0], (500, 8))[:, None]) @ q.swapaxes(1, 2)
    a = jnp.asarray(a.transpose(1, 2, 0), jnp.float32)
    w, v = jax.jit(eigh_jacobi)((a + a.swapaxes(0, 1)) / 2)
    rest = jnp.einsum("ijb,jkb->ikb", a, v, precision="highest") - v * w[None]
    assert jnp.abs(rest).max() < 1e-6


@pytest.mark.parametrize("size", [1, 2, 5])
def test_columns_become_orthogonal_relative_to_their_norms(dtype, size):
    rng = np.random.default_rng(size)
    scales = np.geomspace(1, 1e-12, size)[:, None, None]
    a = jnp.asarray(scales * rng.standard_normal((size, 7, 20)), dtype)
    v = jnp.broadcast_to(jnp.eye(size, dtype=dtype)[:, :, None], (size, size, 20))
    x, v = jax.jit(orthogonalize)(a, v)
    x, v, a = (np.asarray(y, "float64") for y in (x, v, a))
    gram = np.einsum("imb,jmb->ijb", x, x)
    norms = np.sqrt(np.einsum("iib->ib", gram))
    eps = np.finfo(dtype).eps
    cosines = gram / norms[:, None] / norms[None] - np.eye(size)[:, :, None]
    assert abs(cosines).max() <= 30 * eps
    np.testing.assert_allclose(np.einsum("ijb,jmb->imb", v, a), x, atol=30 * eps)

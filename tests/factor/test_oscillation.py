import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxla.factor import relative_oscillation


oscillation = jax.jit(relative_oscillation)
UNUSABLE = -(2**31)


def dense(d, e) -> np.ndarray:
    d, e = np.asarray(d, "float64"), np.asarray(e, "float64")
    i, j = np.arange(d.shape[-1]), np.arange(d.shape[-1] - 1)
    out = np.zeros((*d.shape, len(i)))
    out[..., i, i], out[..., j, j + 1], out[..., j + 1, j] = d, e, e
    return out


def spectra(pair) -> list[np.ndarray]:
    """All of $T_0 - x_0$, then all of $T_1 - x_1$."""
    d0, e0, x0, d1, e1, x1 = (np.asarray(a, "float64") for a in pair)
    return [
        np.linalg.eigvalsh(dense(d, e)) - x[..., None]
        for d, e, x in ((d0, e0, x0), (d1, e1, x1))
    ]


def hybrids(pair) -> np.ndarray:
    """Eigenvalues of $H_0, ..., H_n$, along the axis before the last."""
    d0, e0, x0, d1, e1, x1 = (np.asarray(a, "float64") for a in pair)
    n = d0.shape[-1]
    exchanged = np.arange(n) < np.arange(n + 1)[:, None]
    first, second = ((d - x[..., None])[..., None, :] for d, x in ((d0, x0), (d1, x1)))
    d = np.where(exchanged, first, second)
    e = np.where(exchanged[:, 1:], e0[..., None, :], e1[..., None, :])
    return np.linalg.eigvalsh(dense(d, e))


def random_pairs(seed: int, batch: int = 11_000, n: int = 9):
    """Of all kinds: a fifth each have another perturbation."""
    rng = np.random.default_rng(seed)
    d0, d1 = rng.normal(size=(2, batch, n))
    e0, e1 = rng.normal(size=(2, batch, n - 1))
    x0, x1 = rng.normal(size=(2, batch))
    kind = rng.integers(0, 5, batch)
    bonds, site, shift, whole = (kind == k for k in range(1, 5))
    # Only what is beside the diagonal differs.
    d1[bonds], x1[bonds] = d0[bonds], x0[bonds]
    # One row, by much.
    moved = d0 + 10 * d1 * (np.arange(n) == rng.integers(0, n, batch)[:, None])
    d1[site], e1[site], x1[site] = moved[site], e0[site], x0[site]
    # The number alone.
    d1[shift], e1[shift] = d0[shift], e0[shift]
    # Zeros everywhere: as pivots, and beside the diagonal.
    for a in (d0, d1, e0, e1):
        a[whole] = np.clip(np.round(a[whole]), -1, 1)
    x0[whole] = x1[whole] = np.round(2 * x0[whole]) / 2
    return d0, e0, x0, d1, e1, x1


def far(values, pair, dtype) -> np.ndarray:
    """Where no eigenvalue is so close to zero that its sign is a matter of rounding."""
    norm = max(float(np.abs(a).max()) for a in pair)
    tolerance = 10 * float(jnp.finfo(dtype).eps) * norm
    return (np.abs(values) > tolerance).all(-1)


def test_count_is_the_difference_of_counts(dtype):
    """For ten thousand random pairs and more, as `eigvalsh` counts them."""
    pair = [np.asarray(a, dtype) for a in random_pairs(0)]
    actual = oscillation(*pair).count
    assert actual.dtype == jnp.int32
    first, second = spectra(pair)
    sure = far(first, pair, dtype) & far(second, pair, dtype)
    assert sure.sum() >= 10_000
    desired = (second < 0).sum(-1) - (first < 0).sum(-1)
    assert (actual == desired)[sure].all()
    assert desired.min() <= -7
    assert desired.max() >= 7


def test_nodes_are_where_exchanged_rows_move_eigenvalues(dtype):
    """All in between are told by `eigvalsh`, too."""
    pair = [np.asarray(a, dtype) for a in random_pairs(1)]
    # Of some, for the oracle takes its time.
    count, nodes = (np.asarray(a)[:1500] for a in oscillation(*pair))
    d0, e0, x0, d1, e1, x1 = pair = [a[:1500] for a in pair]
    values = hybrids(pair)
    sure = far(values, pair, dtype).all(-1)
    assert sure.sum() >= 1300
    negative = (values < 0).sum(-1)
    assert (nodes == negative[:, :-1] - negative[:, 1:])[sure].all()
    assert (count == nodes.sum(-1)).all()
    equal = d0 - x0[:, None] == d1 - x1[:, None]
    equal[:, 1:] &= e0 == e1
    assert not nodes[sure][equal[sure]].any()


@pytest.mark.parametrize("exponent", [-40, -10, 10, 40])
def test_matrices_of_other_scales(dtype, exponent):
    """Neither loses its small entries to the other; nodes follow the true ratio."""
    pair = random_pairs(2)
    scale = 2.0**exponent
    pair = [np.asarray(a * scale if i < 3 else a, dtype) for i, a in enumerate(pair)]
    count, nodes = oscillation(*pair)
    first, second = spectra(pair)
    sure = far(first, pair[:3], dtype) & far(second, pair[3:], dtype)
    desired = (second < 0).sum(-1) - (first < 0).sum(-1)
    assert sure.sum() >= 9000
    assert (count == desired)[sure].all()
    if abs(exponent) == 10:
        some = [a[:1500] for a in pair]
        values = hybrids(some)
        sure = far(values, some, dtype).all(-1)
        negative = (values < 0).sum(-1)
        assert (nodes[:1500] == negative[:, :-1] - negative[:, 1:])[sure].all()
        assert sure.sum() >= 800


def test_scale_equivariance(dtype):
    pair = [np.asarray(a, dtype) for a in random_pairs(3)]
    plain = oscillation(*pair)
    for exponent in (-100, 100):
        scaled = oscillation(*(np.asarray(2.0**exponent, dtype) * a for a in pair))
        assert (scaled.count == plain.count).all()
        assert (scaled.nodes == plain.nodes).all()


def test_long_matrices(dtype):
    """Solutions of 3000 rows grow and fall beyond all bounds."""
    n, batch = 3000, 3
    rng = np.random.default_rng(4)
    d0, d1 = rng.normal(size=(2, batch, n))
    e0, e1 = rng.normal(size=(2, batch, n - 1))
    d0[1], e0[1], e1[1] = 0, 1, 1
    d1[1] = np.where(np.arange(n) % 100 == 50, -3, 0)
    d1[2], e1[2] = d0[2], e0[2] * np.where(np.arange(n - 1) == 1500, 20, 1)
    x0, x1 = np.array([0.3, -2.01, 0.1]), np.array([0.1, -2.01, 0.1])
    pair = [np.asarray(a, dtype) for a in (d0, e0, x0, d1, e1, x1)]
    count, nodes = oscillation(*pair)
    wide = [np.asarray(a, "float64") for a in pair]
    for k in range(batch):
        below = []
        for d, e, x in ((a[k] for a in wide[:3]), (a[k] for a in wide[3:])):
            values = scipy.linalg.eigvalsh_tridiagonal(d, e) - x
            assert np.abs(values).min() > 10 * np.finfo(dtype).eps
            below.append((values < 0).sum())
        assert count[k] == below[1] - below[0]
    # A deep site every hundred rows brings one eigenvalue each, there and nowhere else.
    assert (np.asarray(nodes[1]) == (np.arange(n) % 100 == 50)).all()


def test_an_eigenvalue_is_not_below_itself(dtype):
    """All ends of intervals, infinite ones as well: [x0, x1) is what is counted."""
    diagonal = [1.0, 3, 3, 4], [0.0, 0, 0], [-5.0, 1, 3, 3.5, 4, np.inf, -np.inf]
    # Eigenvalues -1 and 1, twice: exact zeros among the pivots.
    pairs = [0.0, 0, 0, 0], [1.0, 0, 1], [-1.5, -1, 0, 1, 1.5, np.inf, -np.inf]
    wanted = [0, 0, 1, 3, 3, 4, 0], [0, 0, 2, 2, 4, 4, 0]
    for given, below in zip((diagonal, pairs), wanted, strict=True):
        d, e, x = (np.array(a, dtype) for a in given)
        actual = oscillation(d, e, x[:, None], d, -e, x).count
        assert (actual == np.array(below) - np.array(below)[:, None]).all()


def test_exchange_and_signs(dtype):
    """Pairs exchanged change the sign; signs beside the diagonal do not matter."""
    d0, e0, x0, d1, e1, x1 = pair = [np.asarray(a, dtype) for a in random_pairs(3)]
    first, second = spectra(pair)
    sure = far(first, pair, dtype) & far(second, pair, dtype)
    plain = oscillation(*pair)
    assert (oscillation(d1, e1, x1, d0, e0, x0).count == -plain.count)[sure].all()
    signs = np.where(np.arange(8) % 3 == 0, -1, 1).astype(dtype)
    for other in ((d0, signs * e0, x0, d1, e1, x1), (d0, e0, x0, d1, signs * e1, x1)):
        assert (oscillation(*other).nodes == plain.nodes).all()


def test_jit_vmap_and_broadcasting_agree():
    d0, e0, x0, d1, e1, x1 = pair = [
        jnp.asarray(a, jnp.float32) for a in random_pairs(5, 6, 5)
    ]
    native = oscillation(*pair)
    mapped = jax.jit(jax.vmap(relative_oscillation))(*pair)
    outer = oscillation(d0[:, None], e0[:, None], x0[:, None], d1, e1, x1)
    for a, b, c in zip(native, mapped, outer, strict=True):
        assert (a == b).all()
        assert (a == c[jnp.arange(6), jnp.arange(6)]).all()
    assert outer.count.shape == (6, 6)
    assert outer.nodes.shape == (6, 6, 5)
    # One pair of matrices takes numbers of any shape.
    many = oscillation(d0[0], e0[0], x0[:, None], d1[0], e1[0], x1)
    w0, w1 = (np.linalg.eigvalsh(dense(d[0], e[0])) for d, e in ((d0, e0), (d1, e1)))
    below0, below1 = (
        (w < np.asarray(x)[:, None]).sum(-1) for w, x in ((w0, x0), (w1, x1))
    )
    assert (many.count == below1 - below0[:, None]).all()


def test_small_and_empty():
    e = jnp.zeros(0, jnp.float32)
    single = lambda *x: jnp.array(x, jnp.float32)
    count, nodes = oscillation(single(1), e, 0.0, single(-1), e, 0.0)
    assert (int(count), nodes.tolist()) == (1, [1])
    assert oscillation(single(-1), e, 0.0, single(1), e, 0.0).nodes.tolist() == [-1]
    for shape in [(0,), (2, 0), (0, 3)]:
        d = jnp.ones(shape, jnp.float32)
        e = jnp.ones((*shape[:-1], max(shape[-1] - 1, 0)), jnp.float32)
        x = jnp.zeros(shape[:-1], jnp.float32)
        count, nodes = oscillation(d, e, x, d, e, x)
        assert count.shape == shape[:-1]
        assert nodes.shape == shape
        assert not count.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_member_stays_alone(bad):
    pair = [jnp.asarray(a, jnp.float32) for a in random_pairs(6, 6, 5)]
    clean, others = oscillation(*pair), np.array([0, 2, 3, 4, 5])
    for i, a in enumerate(pair):
        where = (1, 2) if a.ndim == 2 else 1
        if a.ndim == 1 and not np.isnan(bad):
            continue  # an infinite number may be counted below
        spoilt = oscillation(*pair[:i], a.at[where].set(bad), *pair[i + 1 :])
        assert spoilt.count[1] == UNUSABLE
        assert (spoilt.nodes[1] == UNUSABLE).all()
        for actual, desired in zip(spoilt, clean, strict=True):
            assert (actual[others] == desired[others]).all()


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(half):
    pair = [jnp.asarray(a, half) for a in random_pairs(7, 50)]
    wide = oscillation(*(a.astype(jnp.float32) for a in pair))
    assert (oscillation(*pair).nodes == wide.nodes).all()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_promotes_nothing_silently(dtype):
    d, e, x = (jnp.ones(shape, dtype) for shape in ((2, 5), (2, 4), (3, 1)))
    jax.eval_shape(relative_oscillation, d[0], e, x, d, e[0], x[0, 0])


def test_lowers_for_gpu_and_tpu():
    d, e, x = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 64), (2, 63), (2,)))
    jax.export.export(oscillation, platforms=["cuda", "tpu"])(d, e, x, d, e, x)


def test_has_no_derivative():
    """Integers: through them the derivative of anything is zero."""
    pair = [jnp.asarray(a, jnp.float32) for a in random_pairs(8, 6, 5)]
    loss = lambda d: (relative_oscillation(d, *pair[1:]).count * d.sum(-1)).sum()
    count = oscillation(*pair).count
    assert (jax.jit(jax.grad(loss))(pair[0]) == count[:, None]).all()


@pytest.mark.usefixtures("unchecked")
def test_messages():
    three, two = jnp.ones(3), jnp.ones(2)
    good = {"d0": three, "e0": two, "x0": 0.0, "d1": three, "e1": two, "x1": 0.0}
    float_dtype = "must have a real floating-point dtype; got"
    for error, name, value, message in [
        (ValueError, "d0", jnp.float32(1), "`d0` must have shape (..., n); got ()."),
        (ValueError, "e0", three, "`e0` must have shape (..., 2); got (3,)."),
        (ValueError, "d1", jnp.float32(1), "`d1` must have shape (..., n); got ()."),
        (ValueError, "e1", three, "`e1` must have shape (..., 2); got (3,)."),
        (TypeError, "d0", jnp.arange(3, dtype="int32"), f"`d0` {float_dtype} int32."),
        (TypeError, "e1", two.astype("complex64"), f"`e1` {float_dtype} complex64."),
        (TypeError, "x0", jnp.int32(1), f"`x0` {float_dtype} int32."),
        (TypeError, "x1", jnp.int32(1), f"`x1` {float_dtype} int32."),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            relative_oscillation(**(good | {name: value}))
    message = "`d1` must have shape (..., 3), as `d0`; got (2,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        relative_oscillation(**(good | {"d1": two, "e1": jnp.ones(1)}))

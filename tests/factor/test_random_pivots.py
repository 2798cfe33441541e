import functools
import itertools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.factor import (
    diagonality_potential,
    pivoted_diagonalization,
    pivoted_orthogonalization,
)
from jaxla.factor._pivots import pivot_rule
from tests.helpers import assert_close, psd_with_spectrum, random_psd


STATIC = ("steps", "transform", "block")
TRANSFORMS = ("orthogonal", "triangular")
transforms = pytest.mark.parametrize("transform", TRANSFORMS)


def jitted(fn):
    """With strings for pivots static, and arrays of pivots traced."""

    @functools.partial(jax.jit, static_argnames=(*STATIC, "rule"))
    def call(matrix, rule=None, pivots=None, **options):
        return fn(matrix, pivots=rule or pivots, **options)

    return call


diagonalize = jitted(pivoted_diagonalization)
orthogonalize = jitted(pivoted_orthogonalization)


def tall(key, *shape) -> np.ndarray:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return rng.normal(size=shape)


def subsets(n: int, k: int) -> jax.Array:
    return jnp.array(list(itertools.combinations(range(n), k)))[:, None]


@pytest.mark.usefixtures("x64")
@transforms
@pytest.mark.parametrize(("n", "k"), [(6, 2), (8, 4)])
def test_the_potential_falls_as_the_theorem_says(getkey, transform, n, k):
    """On average over all sets of pivots, and the same for every transform."""
    a = tall(getkey(), n + 2, n)
    b = a.T @ a
    options = {"steps": 1, "transform": transform, "block": k}
    two = jax.vmap(lambda j: diagonalize(b, pivots=j, **options).matrix)(subsets(n, k))
    one = jax.vmap(lambda j: orthogonalize(a, pivots=j, **options).columns)(subsets(n, k))
    for after in (two, one.mT @ one):
        rate = diagonality_potential(after).mean() / diagonality_potential(b)
        np.testing.assert_allclose(rate, 1 - k * (k - 1) / (n * (n - 1)), atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_random_pivots_are_uniform(getkey):
    """Random rates have the mean of the theorem, within their standard error."""
    b = random_psd(getkey(), 6, 9)
    start = diagonality_potential(b)

    def rates(key):
        b_1 = diagonalize(b, rule="random", steps=1, block=3, key=key).matrix
        return diagonality_potential(b_1) / start, b_1 == b

    rate, kept = jax.vmap(rates)(jax.random.split(getkey(), 4000))
    error = rate.std() / 4000**0.5
    assert 0 < error < 0.02
    assert abs(rate.mean() - (1 - 6 / 30)) < 4 * error
    # Pivots in a step differ from each other: three rows of six change.
    untouched = jnp.diagonal(kept, axis1=1, axis2=2)
    assert (untouched.sum(-1) == 3).all()
    np.testing.assert_allclose(untouched.mean(0), 0.5, atol=4 * 0.5 / 4000**0.5)


RULES = [
    ("random", 2, 300, "float64"),
    ("cyclic", 2, 75, "float32"),
    ("greedy", 2, 60, "float32"),
    ("random", 4, 60, "float32"),
    ("cyclic", 3, 75, "float64"),
    ("cyclic", 6, 1, "float32"),
]


@transforms
@pytest.mark.parametrize(("rule", "block", "steps", "dtype"), RULES)
@pytest.mark.usefixtures("x64")
def test_the_factors_at_the_end(getkey, dtype, transform, rule, block, steps):
    a = tall(getkey(), 8, 6)
    key = getkey() if rule == "random" else None
    options = {"rule": rule, "block": block, "steps": steps, "transform": transform}
    two = diagonalize(jnp.asarray(a.T @ a, dtype), key=key, **options)
    one = orthogonalize(jnp.asarray(a, dtype), key=key, **options)
    f2, f1 = two.factor, one.factor
    assert_close(f2.T @ two.matrix @ f2, a.T @ a, amplification=40)
    assert_close(one.columns @ f1, a, amplification=20)
    eps = float(jnp.finfo(dtype).eps)
    assert two.off_diagonal < 20 * eps
    assert one.coherence < 20 * eps
    if transform == "orthogonal":
        values = np.linalg.eigvalsh(a.T @ a)
        assert_close(jnp.sort(jnp.diagonal(two.matrix)), values, amplification=20)
        norms = np.linalg.norm(np.asarray(one.columns, "float64"), axis=0)
        np.testing.assert_allclose(np.sort(norms) ** 2, values, rtol=100 * eps)
        for f in (f1, f2):
            assert_close(f.T @ f, np.eye(6), amplification=20)


def test_one_cyclic_sweep_of_eliminations_is_cholesky_and_qr(getkey):
    dtype = jnp.float32
    a = tall(getkey(), 8, 6)
    options = {"rule": "cyclic", "steps": 15, "transform": "triangular"}
    two = diagonalize(jnp.asarray(a.T @ a, dtype), **options)
    one = orthogonalize(jnp.asarray(a, dtype), **options)
    desired = np.linalg.cholesky(a.T @ a).T
    r2 = jnp.sqrt(jnp.diagonal(two.matrix))[:, None] * two.factor
    r1 = jnp.linalg.norm(one.columns, axis=0)[:, None] * one.factor
    for r in (r1, r2):
        assert (jnp.tril(r, -1) == 0).all()
        assert_close(r, desired, amplification=300)


@transforms
def test_every_number_of_steps_is_a_factorization(getkey, transform):
    a = jnp.asarray(tall(getkey(), 8, 6), jnp.float32)
    b = a.T @ a
    options = {"rule": "cyclic", "steps": 5, "transform": transform}
    out, columns = diagonalize(b, **options), orthogonalize(a, **options)
    assert_close(out.factor.T @ out.matrix @ out.factor, b, amplification=40)
    assert_close(columns.columns @ columns.factor, a, amplification=20)


def test_the_flags(getkey):
    a = jnp.asarray(tall(getkey(), 8, 6), jnp.float32)
    b = a.T @ a
    off = diagonalize(b, rule="cyclic", steps=0).off_diagonal
    rest = b - jnp.diag(jnp.diagonal(b))
    np.testing.assert_allclose(off, jnp.linalg.norm(rest) / jnp.linalg.norm(b), rtol=1e-5)
    cosines = b / jnp.sqrt(jnp.outer(jnp.diagonal(b), jnp.diagonal(b)))
    coherence = orthogonalize(a, rule="cyclic", steps=0).coherence
    desired = jnp.abs(cosines - jnp.eye(6)).max()
    np.testing.assert_allclose(coherence, desired, rtol=1e-5)


def test_greedy_pivots_are_the_largest_cosine():
    b = jnp.diag(jnp.array([1e4, 1e4, 1.0, 1, 1, 1]))
    b = b.at[0, 1].set(10.0).at[1, 0].set(10.0).at[2, 4].set(0.5).at[4, 2].set(0.5)
    out = diagonalize(b, rule="greedy", steps=1).matrix
    assert out[2, 4] == 0
    assert out[0, 1] == 10


@pytest.mark.parametrize(("n", "block"), [(6, 2), (6, 3), (6, 4), (7, 4), (7, 5), (5, 5)])
def test_a_cyclic_sweep_takes_every_pair(n, block):
    half = block // 2
    parts = -(-n // half)
    order, choose = pivot_rule("cyclic", n, block, parts * (parts - 1) // 2, None)
    rows = np.array([choose(i, None) for i in order])
    assert rows.shape[1] == block
    assert all(len(set(row)) == block for row in rows.tolist())
    pairs = {pair for row in rows.tolist() for pair in itertools.combinations(row, 2)}
    assert pairs == set(itertools.combinations(range(n), 2))


@transforms
def test_rank_deficient_zero_and_indefinite(getkey, transform):
    dtype = jnp.float32
    options = {"rule": "cyclic", "steps": 75, "transform": transform}
    low = tall(getkey(), 8, 3) @ tall(getkey(), 3, 6)
    for a in (low, np.zeros((8, 6)), np.ones((8, 6)), np.eye(8)[:, :6]):
        b = a.T @ a
        out = diagonalize(jnp.asarray(b, dtype), **options)
        columns = orthogonalize(jnp.asarray(a, dtype), **options)
        norm = 1 + np.linalg.norm(b)
        eps = float(jnp.finfo(dtype).eps)
        back = out.factor.T @ out.matrix @ out.factor
        assert np.linalg.norm(back - b) < 300 * eps * norm
        assert np.linalg.norm(columns.columns @ columns.factor - a) < 100 * eps * norm
        assert out.off_diagonal < 300 * eps
        assert columns.coherence < 1e4 * eps
    indefinite = psd_with_spectrum(getkey(), [-3.0, -1, 0, 0.5, 1, 2])
    out = diagonalize(jnp.asarray(indefinite, dtype), **options)
    back = out.factor.T @ out.matrix @ out.factor
    assert_close(back, indefinite, amplification=300)
    if transform == "orthogonal":
        values = np.linalg.eigvalsh(indefinite)
        assert_close(jnp.sort(jnp.diagonal(out.matrix)), values, amplification=20)
    else:
        assert out.off_diagonal > 1e-3  # left alone, and flagged


@pytest.mark.parametrize(
    ("transform", "rule"), [("orthogonal", "random"), ("triangular", "greedy")]
)
def test_jit_vmap_and_loop_agree(getkey, transform, rule):
    a = jnp.asarray(tall(getkey(), 2, 1, 8, 6), jnp.float32)
    key = getkey() if rule == "random" else None
    options = {"rule": rule, "steps": 5, "transform": transform, "key": key}
    for fn, x in [(diagonalize, a.mT @ a), (orthogonalize, a)]:
        native = fn(x, **options)
        call = functools.partial(fn, **options)
        mapped, one = jax.jit(jax.vmap(jax.vmap(call)))(x), call(x[1, 0])
        for n, m, o in zip(native, mapped, one, strict=True):
            assert_close(m, n, amplification=10)
            assert_close(o, n[1, 0], amplification=10)


def test_independent_draws_by_vmap_over_keys(getkey):
    b = jnp.asarray(random_psd(getkey(), 6, 9), jnp.float32)
    draw = lambda key: diagonalize(b, rule="random", steps=1, key=key).matrix
    keys = jax.random.split(getkey(), 20)
    out = jax.jit(jax.vmap(draw))(keys)
    assert_close(out[3], draw(keys[3]), amplification=10)
    assert len({x.tobytes() for x in np.asarray(out)}) > 5


def test_small_and_empty():
    dtype = jnp.float32
    for shape in [(1, 1), (2, 0, 0), (0, 3, 3)]:
        b = jnp.full(shape, 2.0, dtype)
        out = diagonalize(b, rule="cyclic", steps=2)
        columns = orthogonalize(b, rule="cyclic", steps=2)
        assert out.matrix.shape == columns.columns.shape == shape
        assert out.factor.shape == columns.factor.shape == shape
        assert not out.off_diagonal.any()
        if shape == (1, 1):
            assert out.matrix == 2
            assert out.factor == 1
    assert orthogonalize(jnp.ones((0, 3), dtype), rule="cyclic", steps=2).coherence == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("transform", "rule"), [("orthogonal", "cyclic"), ("triangular", "greedy")]
)
def test_a_bad_member_stays_alone(getkey, transform, rule, bad):
    a = jnp.asarray(tall(getkey(), 3, 8, 6), jnp.float32)
    options = {"rule": rule, "steps": 5, "transform": transform}
    for fn, x in [(diagonalize, a.mT @ a), (orthogonalize, a)]:
        clean, out = fn(x, **options), fn(x.at[1, 2, 3].set(bad), **options)
        assert jnp.isnan(out[0][1]).all()
        assert jnp.isnan(out[1][1]).all()
        assert out[2][1] == np.inf
        for o, c in zip(out, clean, strict=True):
            assert (o[::2] == c[::2]).all()


@transforms
def test_scale_equivariance(getkey, transform):
    a = jnp.asarray(tall(getkey(), 8, 6), jnp.float32)
    options = {"rule": "cyclic", "steps": 5, "transform": transform}
    for fn, x in [(diagonalize, a.T @ a), (orthogonalize, a)]:
        plain = fn(x, **options)
        for exponent in (-100, -40, 40, 100):
            scale = jnp.float32(2.0**exponent)
            out = fn(scale * x, **options)
            assert (out[0] == scale * plain[0]).all()
            assert (out[1] == plain[1]).all()
            assert out[2] == plain[2]


@transforms
@pytest.mark.usefixtures("strict")
def test_promotes_nothing_silently(transform):
    a = jnp.ones((2, 6, 6), jnp.bfloat16)
    for rule, block in [("random", 2), ("cyclic", 3), ("greedy", 2)]:
        key = jax.random.key(0) if rule == "random" else None
        options = {"pivots": rule, "steps": 2, "transform": transform, "block": block}
        for fn in (pivoted_diagonalization, pivoted_orthogonalization):
            out = jax.eval_shape(lambda a, f=fn, o=options, k=key: f(a, key=k, **o), a)
            assert all(x.dtype == jnp.bfloat16 for x in out)


def test_half_precision_is_computed_in_float32(getkey):
    a = jnp.asarray(tall(getkey(), 8, 6), jnp.bfloat16)
    wide = a.astype(jnp.float32)
    for fn, x, y in [(diagonalize, a[:6], wide[:6]), (orthogonalize, a, wide)]:
        for o, w in zip(*(fn(z, rule="cyclic", steps=5) for z in (x, y)), strict=True):
            assert (o == w.astype(jnp.bfloat16)).all()


@transforms
def test_derivatives_are_refused(getkey, transform):
    for rule in ("random", "cyclic"):
        key = getkey() if rule == "random" else None
        options = {"pivots": rule, "steps": 2, "transform": transform, "key": key}
        for fn in (pivoted_diagonalization, pivoted_orthogonalization):
            loss = lambda a, f=fn, o=options: f(a, **o)[0].sum()
            with pytest.raises(NotImplementedError, match="pivots have no derivative"):
                jax.eval_shape(jax.grad(loss), jnp.eye(6))


def test_lowers_for_gpu_and_tpu():
    a = jax.ShapeDtypeStruct((2, 6, 6), jnp.float32)
    for transform, (rule, block) in itertools.product(
        TRANSFORMS, [("random", 2), ("cyclic", 3), ("greedy", 2)]
    ):
        key = jax.random.key(0) if rule == "random" else None
        options = {"pivots": rule, "steps": 2, "transform": transform, "block": block}
        for fn in (pivoted_diagonalization, pivoted_orthogonalization):
            call = lambda a, f=fn, o=options, k=key: tuple(f(a, key=k, **o))
            jax.export.export(jax.jit(call), platforms=["cuda", "tpu"])(a)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fn", [pivoted_diagonalization, pivoted_orthogonalization])
def test_messages(fn):
    b, key = jnp.eye(3), jax.random.key(0)
    whole, cyclic = np.ones((1, 3), int), {"pivots": "cyclic"}
    for options, message in [
        ({}, "`key` is needed for random pivots; got None."),
        ({**cyclic, "key": key}, "`key` is for nothing but random pivots; got"),
        ({"pivots": "all"}, "`pivots` must be one of 'random', 'cyclic', 'greedy'; got"),
        ({**cyclic, "transform": "qr"}, "`transform` must be one of 'orthogonal"),
        ({**cyclic, "block": 4}, "`block` must be an integer, between 2 and 3; got 4"),
        ({**cyclic, "block": 1}, "`block` must be an integer, between 2 and 3; got 1"),
        ({**cyclic, "steps": -1}, "`steps` must be an integer, at least 0; got -1"),
        ({"pivots": whole}, "`pivots` must have shape (2, 2) and integers; got int"),
        ({"pivots": np.ones((2, 2))}, "`pivots` must have shape (2, 2) and integers"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            fn(b, **{"steps": 2, **options})
    with pytest.raises(TypeError, match="`matrix` must have a real floating-point dtype"):
        fn(b.astype("int32"), steps=1, pivots="cyclic")
    with pytest.raises(ValueError, match="`matrix` must have shape"):
        fn(b[0], steps=1, pivots="cyclic")
    if fn is pivoted_diagonalization:
        with pytest.raises(ValueError, match="`matrix` must have shape"):
            fn(b[:2], steps=1, pivots="cyclic")

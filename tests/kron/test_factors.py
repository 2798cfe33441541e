"""Statistics, staggered roots and preconditioning against dense formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla import kron
from jaxla.kron import Axes, Blocks
from tests.helpers import assert_close, power_oracle, psd_with_spectrum


SHAPES = [(20, 12), (16, 24), (7,), (17, 3, 3), (2, 9, 16), (16, 24)]
RULES = {"p4": Axes(rows=(2,), cols=(1,), batch=(0,))}
MATRICES = [0, 1, 3, 4, 5]


def normal(key, shape):
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return rng.standard_normal(shape).astype("float32")


def setup(key, **choices):
    leaves = [
        jnp.asarray(normal(jax.random.fold_in(key, i), s)) for i, s in enumerate(SHAPES)
    ]
    blocks = Blocks(rules=RULES, **choices)
    return leaves, kron.make_plan([f"p{i}" for i in range(6)], leaves, blocks), blocks


def stacked(leaves, plan):
    """The stacks and their Gram matrices, compiled in one go."""

    @jax.jit
    def both(leaves):
        stacks = kron.to_stacks(leaves, plan)
        return stacks, kron.gram_factors(stacks, plan)

    return both(leaves)


def matrices_of(leaf, i):
    """The matrices that a parameter stands for, by hand, in float64."""
    leaf = np.asarray(leaf, "float64")
    if i == 4:
        return leaf.swapaxes(1, 2)
    return leaf.reshape(1, leaf.shape[0], -1)


def pieces(length, size):
    """The equal parts, but for a shorter last one, that an axis is cut into."""
    part = -(-length // -(-length // size))
    return [slice(begin, min(begin + part, length)) for begin in range(0, length, part)]


def block_diagonal(gram, size, fn):
    """`fn` of every diagonal block, and zero elsewhere."""
    out = np.zeros_like(gram)
    for piece in pieces(len(gram), size):
        out[piece, piece] = fn(gram[piece, piece])
    return out


def desired_step(leaf, i, size, fn, limit=None):
    """`fn(L) G fn(R)` with block-diagonal `L` and `R`, in the shape of the leaf.

    Above the limit, `fn(L, lone=True) G` or `G fn(R, lone=True)`.
    """
    out = []
    for g in matrices_of(leaf, i):
        m, n = g.shape
        lone = limit is not None and max(m, n) > limit
        if not lone or m <= n:
            left = block_diagonal(g @ g.T, size, functools.partial(fn, lone=lone))
        if not lone or m > n:
            right = block_diagonal(g.T @ g, size, functools.partial(fn, lone=lone))
        if lone:
            out.append(left @ g if m <= n else g @ right)
        else:
            out.append(left @ g @ right)
    return (np.array(out).swapaxes(1, 2) if i == 4 else np.array(out)).reshape(leaf.shape)


def empty_like(factors):
    roots = {size: jnp.zeros_like(x) for size, x in factors.items()}
    residuals = {size: jnp.full(len(x), jnp.inf, x.dtype) for size, x in factors.items()}
    return roots, residuals


@pytest.mark.parametrize(("size", "shards"), [(8, 1), (16, 4), (64, 1)])
def test_grams_are_diagonal_blocks_in_the_order_of_the_plan(getkey, size, shards):
    leaves, plan, _ = setup(getkey(), size=size, shards=shards)
    _, grams = stacked(leaves, plan)
    assert {s: len(x) for s, x in grams.items()} == plan.num_factors
    desired = {s: np.zeros(x.shape) for s, x in grams.items()}
    for i in MATRICES:
        leaf, matrices = plan.leaves[i], matrices_of(leaves[i], i)
        sides = [
            (leaf.left, leaf.tile[0], [g @ g.T for g in matrices]),
            (leaf.right, leaf.tile[1], [g.T @ g for g in matrices]),
        ]
        for place, block, products in sides:
            cut = [x[piece, piece] for x in products for piece in pieces(len(x), size)]
            assert place.stop - place.start == len(cut)
            for k, x in zip(range(place.start, place.stop), cut, strict=True):
                desired[block][k, : len(x), : len(x)] = x
    for s in grams:
        assert_close(grams[s], desired[s], amplification=2)


CHOICES = [
    {},
    {"one_sided_above": 17},
    {"exponent": 1, "normalize_trace": True, "one_sided_above": 17},
    {"exponent": 1 / 2, "normalize_trace": True},
    {"exponent": 1, "normalize_trace": True},
    {"exponent": 0.3},
    {"root": "eigh", "normalize_trace": True},
]


@pytest.mark.parametrize(
    ("size", "choices"), [(64, {}), *[(8, choices) for choices in CHOICES]], ids=str
)
def test_steps_are_those_of_dense_matrices(getkey, size, choices):
    """With `size=64` nothing is cut: the textbook's L^-e G R^-e."""
    leaves, plan, blocks = setup(getkey(), size=size, refresh_every=1, **choices)

    @jax.jit
    def step(leaves):
        stacks = kron.to_stacks(leaves, plan)
        factors = kron.gram_factors(stacks, plan)
        roots, residuals, rejected = kron.refresh_roots(
            factors, *empty_like(factors), 0, blocks=blocks, damping=0.1, tolerance=1e-2
        )
        out = kron.precondition(stacks, roots, plan, blocks=blocks)
        ready = kron.has_roots(factors, residuals, plan)
        return kron.from_stacks(out, plan), rejected, ready

    def root(gram, lone):
        if blocks.normalize_trace:
            gram = gram / np.sqrt(np.trace(gram))
        exponent = blocks.exponent * (2 if lone and not blocks.normalize_trace else 1)
        return power_oracle(gram, -exponent, 0.1)

    out, rejected, ready = step(leaves)
    assert rejected == 0
    assert ready.all()
    assert sorted(out) == MATRICES
    for i, actual in out.items():
        desired = desired_step(leaves[i], i, size, root, blocks.one_sided_above)
        assert_close(actual, desired, amplification=30)


def test_a_parameter_has_roots_when_all_its_factors_have(getkey):
    _, plan, _ = setup(getkey(), size=16, classes=2, shards=4)
    has_roots = jax.jit(lambda *stacks: kron.has_roots(*stacks, plan))
    counts = plan.num_factors.items()
    some = {n: np.broadcast_to(np.eye(n, dtype="float32"), (k, n, n)) for n, k in counts}
    done = {size: np.full(count, 0.3, "float32") for size, count in counts}
    assert has_roots(some, done).all()
    never = {size: np.full_like(x, np.inf) for size, x in done.items()}
    assert has_roots(some, never).tolist() == [i == 2 for i in range(6)]  # p2: a vector
    for size, residuals in done.items():
        owners = plan.owners_of_factors(size)
        for k in range(len(residuals)):
            here = np.arange(len(residuals)) == k
            one = done | {size: np.where(here, np.float32(np.inf), residuals)}
            assert has_roots(some, one).tolist() == [i != owners[k] for i in range(6)]
            # A factor that is zero is not waited for.
            zero = some | {size: np.where(here[:, None, None], 0, some[size])}
            assert has_roots(zero, one).all()


def test_roots_are_applied_as_they_are(getkey):
    """Random roots, of which each has its own place."""
    leaves, plan, _ = setup(getkey(), size=16, classes=2)
    stacks, factors = stacked(leaves, plan)
    roots = {s: jnp.asarray(normal(getkey(), x.shape)) for s, x in factors.items()}
    out = jax.jit(lambda *arrays: kron.precondition(*arrays, plan))(stacks, roots)
    steps = kron.from_stacks(out, plan)
    for i in MATRICES:
        leaf, desired = plan.leaves[i], []
        for k, g in enumerate(matrices_of(leaves[i], i)):
            sides = []
            for place, size, count, part, length in [
                (leaf.left, leaf.tile[0], leaf.rows, leaf.part[0], len(g)),
                (leaf.right, leaf.tile[1], leaf.cols, leaf.part[1], len(g.T)),
            ]:
                first = place.start + k * count
                own = np.asarray(roots[size][first : first + count], "float64")
                dense = dense_of(own[:, :part, :part])
                sides.append(dense[:length, :length])
            desired.append(sides[0] @ g @ sides[1])
        desired = np.array(desired)
        desired = desired.swapaxes(1, 2) if i == 4 else desired
        assert_close(steps[i], desired.reshape(leaves[i].shape), amplification=10)


def dense_of(blocks):
    count, size, _ = blocks.shape
    out = np.zeros((count, size, count, size))
    out[np.arange(count), :, np.arange(count), :] = blocks
    return out.reshape(count * size, count * size)


@functools.cache
def stack_of(count, size=8):
    values = np.geomspace(1, 1e-2, size)
    keys = [jax.random.key(i) for i in range(count)]
    stack = [(i + 1) * psd_with_spectrum(key, values) for i, key in enumerate(keys)]
    return np.array(stack, "float32")


def refresher(blocks, tolerance=1e-2):
    """`refresh_roots` of one stack, compiled once for all steps."""

    @jax.jit
    def refresh(stack, roots, residuals, step):
        roots, residuals, rejected = kron.refresh_roots(
            {8: stack},
            {8: roots},
            {8: residuals},
            step,
            blocks=blocks,
            damping=1e-6,
            tolerance=tolerance,
        )
        return roots[8], residuals[8], rejected

    return refresh


COMBINATIONS = [
    (1, 10, 1),
    (3, 7, 1),
    (5, 2, 1),
    (7, 3, 1),
    (10, 10, 1),
    (12, 5, 4),
    (23, 10, 1),
    (16, 10, 8),
    (6, 1, 2),
]


@pytest.mark.parametrize(("count", "period", "shards"), COMBINATIONS)
def test_each_root_has_its_turn(count, period, shards):
    """In every period, from wherever it is counted; and no step does more than told."""
    stack, blocks = stack_of(count), Blocks(refresh_every=period, shards=shards)
    refresh, most = refresher(blocks), kron.roots_per_step(count, blocks)
    old, infinite = np.full_like(stack, 7), np.full(count, np.inf, "float32")
    desired = power_oracle(stack, -1 / 4, 1e-6)
    turns, steps = np.zeros(count, int), []
    for step in range(period):
        new, residuals, rejected = refresh(stack, old, infinite, step)
        done = np.isfinite(residuals)
        turns += done
        steps.append(done.sum())
        assert rejected == 0
        assert_close(new[done], desired[done], amplification=100)
        assert (new[~done] == 7).all()
        # The shards do the same at the same time.
        assert (done.reshape(shards, -1) == done.reshape(shards, -1)[0]).all()
        again, *_ = refresh(stack, old, infinite, step + 3 * period)
        assert (again == new).all()
    assert set(steps) <= {0, most}
    # Once each; twice only where the last window must overlap the one before.
    windows = -(-count // most)
    assert turns.min() == 1
    assert turns.max() <= 2
    assert turns.sum() == windows * most


@pytest.mark.parametrize(("count", "shards"), [(5, 1), (12, 4), (1, 1)])
def test_eager_steps_renew_every_root(count, shards):
    blocks = Blocks(refresh_every=7, shards=shards, eager_steps=3)
    eager, patient = refresher(blocks), refresher(Blocks(refresh_every=7, shards=shards))
    stack, infinite = stack_of(count), np.full(count, np.inf, "float32")
    desired = power_oracle(stack, -1 / 4, 1e-6)
    for step in range(14):
        new, residuals, rejected = eager(stack, np.zeros_like(stack), infinite, step)
        assert rejected == 0
        if step < 3:
            assert_close(new, desired, amplification=100)
            assert (residuals < 1e-2).all()
        else:
            same, *_ = patient(stack, np.zeros_like(stack), infinite, step)
            assert (new == same).all()


def test_the_work_is_spread_evenly():
    """Fewer windows than steps: they are as far apart as can be."""
    refresh = refresher(Blocks(refresh_every=10))
    stack, infinite = stack_of(4), np.full(4, np.inf, "float32")
    busy = [
        step
        for step in range(20)
        if np.isfinite(refresh(stack, stack, infinite, step)[1]).any()
    ]
    assert len(busy) == 8
    assert set(np.diff(busy)) == {2, 3}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("root", ["coupled", "eigh"])
def test_a_bad_factor_keeps_its_old_root_and_is_counted(root, bad):
    if root == "eigh" and bad == -1:
        pytest.skip("`psd_power` takes negative eigenvalues for zeros, and has a root")
    refresh = refresher(Blocks(refresh_every=1, root=root))
    stack, residuals = stack_of(4).copy(), np.full(4, 0.5, "float32")
    old = np.stack([np.eye(8, dtype="float32")] * 4)
    clean, *_ = refresh(stack, old, residuals, 0)
    stack[1] = np.diag([bad] * 8)
    stack[2, 3, 3] = bad * stack[2, 3, 3]
    new, new_residuals, rejected = refresh(stack, old, residuals, 0)
    assert rejected == 2
    assert (new[1:3] == old[1:3]).all()
    assert (new_residuals[1:3] == 0.5).all()
    assert (new[::3] == clean[::3]).all()


@pytest.mark.parametrize("root", ["coupled", "eigh"])
def test_a_factor_without_statistics_is_not_counted(root):
    refresh = refresher(Blocks(refresh_every=1, root=root))
    stack, infinite = np.zeros((2, 8, 8), "float32"), np.full(2, np.inf, "float32")
    new, residuals, rejected = refresh(stack, stack, infinite, 0)
    assert rejected == 0
    assert (new == 0).all()
    assert (residuals == np.inf).all()


def test_a_tolerance_that_nothing_meets():
    """And no eigenvalue below the floor: what is refused would have been good."""
    refresh = refresher(Blocks(refresh_every=1), tolerance=-1.0)
    old, residuals = np.full((3, 8, 8), 7, "float32"), np.full(3, 0.5, "float32")
    new, new_residuals, rejected = refresh(stack_of(3), old, residuals, 0)
    assert rejected == 3
    assert (new == old).all()
    assert (new_residuals == residuals).all()


def test_rejected_roots_add_up_over_the_sizes():
    factors = {8: jnp.array(stack_of(2)), 16: jnp.array(stack_of(3, 16))}
    roots, residuals = empty_like(factors)
    options = {"blocks": Blocks(refresh_every=1), "damping": 1e-6, "tolerance": -1.0}
    refresh = jax.jit(lambda *stacks: kron.refresh_roots(*stacks, 0, **options))
    *_, rejected = refresh(factors, roots, residuals)
    assert rejected == 5


@pytest.mark.parametrize("shards", [1, 4])
def test_numbers_of_parameters_reach_their_factors(getkey, shards):
    _, plan, _ = setup(getkey(), size=16, shards=shards)
    numbers = jax.jit(lambda x: kron.per_factor(x, plan))(jnp.arange(1.0, 7.0))
    assert {s: len(x) for s, x in numbers.items()} == plan.num_factors
    seen = {size: np.zeros(len(x)) for size, x in numbers.items()}
    for i in MATRICES:
        leaf = plan.leaves[i]
        seen[leaf.tile[0]][leaf.left] = i + 1
        seen[leaf.tile[1]][leaf.right] = i + 1
    for size, desired in seen.items():
        assert (numbers[size] == desired).all()


def test_flops_and_roots_are_counted():
    assert kron.roots_per_step(34, Blocks(refresh_every=10)) == 4
    assert kron.roots_per_step(32, Blocks(refresh_every=10, shards=8)) == 8
    assert kron.root_flops(10, Blocks(root="eigh")) == 11 * 10**3
    assert kron.root_flops(10, Blocks(exponent=0.3)) == 11 * 10**3
    assert kron.root_flops(8, Blocks()) == 2 * 8**3 * 37


@pytest.mark.usefixtures("x64")
def test_float64_stays_float64(getkey):
    stack = np.stack([psd_with_spectrum(getkey(), np.geomspace(1e-8, 1, 8))] * 2)
    refresh = refresher(Blocks(refresh_every=1))
    new, residuals, rejected = refresh(stack, 0 * stack, np.full(2, np.inf), 0)
    assert new.dtype == residuals.dtype == np.float64
    assert rejected == 0
    assert_close(new, power_oracle(stack, -1 / 4, 1e-6), amplification=1e6)

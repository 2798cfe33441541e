import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.kron import Axes, Blocks, from_stacks, make_plan, to_stacks


SHAPES = [(5, 3), (20, 12), (7,), (3, 5, 2), (2, 9, 4), (17, 2, 3, 2), (), (9, 20)]
RULES = {"p4": Axes(rows=(-1,), cols=(1,), batch=(0,))}


def some_leaves():
    """Entries that tell where they come from, and are never zero."""
    start, leaves = 1, []
    for shape in SHAPES:
        size = int(np.prod(shape))
        leaves.append(jnp.arange(start, start + size, dtype="float32").reshape(shape))
        start += size
    return leaves


def plan_of(leaves, **choices):
    return make_plan([f"p{i}" for i in range(len(leaves))], leaves, Blocks(**choices))


def there_and_back(leaves, plan):
    """Compiled in one go."""

    @jax.jit
    def both(leaves):
        stacks = to_stacks(leaves, plan)
        return stacks, from_stacks(stacks, plan)

    return both(leaves)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("size", [8, 16, 128])
@pytest.mark.parametrize("classes", [1, 3])
def test_round_trip(size, classes):
    leaves = some_leaves()
    plan = plan_of(leaves, size=size, classes=classes, rules=RULES)
    stacks, back = there_and_back(leaves, plan)
    assert set(stacks) == {leaf.tile for leaf in plan.leaves if leaf.axes is not None}
    assert sorted(back) == [0, 1, 3, 4, 5, 7]
    for i, leaf in back.items():
        assert leaf.shape == leaves[i].shape
        assert (leaf == leaves[i]).all()
    # Everything is there once; the rest is zero.
    stacked = np.concatenate([np.ravel(stack) for stack in stacks.values()])
    given = np.concatenate([np.ravel(leaves[i]) for i in back])
    assert sorted(stacked[stacked != 0]) == sorted(given)


@pytest.mark.parametrize(
    "axes",
    [
        Axes(rows=(0,), cols=(1,), batch=(2, 3)),
        Axes(rows=(3, 0), cols=(2,), batch=(1,)),
        Axes(rows=(-1,), cols=(1, -4), batch=(2,)),
        Axes(rows=(2, 1, 0, 3), cols=()),
        Axes(rows=(), cols=(3,), batch=(0, 1, 2)),
        Axes(rows=(1,), cols=(0,), batch=(-1, -2)),
    ],
)
def test_axes_in_any_order(axes):
    leaf = jnp.arange(1.0, 5 * 3 * 2 * 9 + 1, dtype="float32").reshape(5, 3, 2, 9)
    plan = plan_of([leaf], size=8, rules={"p0": axes})
    stacks, back = there_and_back([leaf], plan)
    assert (back[0] == leaf).all()
    batch, m, n = plan.leaves[0].matrix_shape
    order = [axis % 4 for axis in (*axes.batch, *axes.rows, *axes.cols)]
    matrices = np.transpose(leaf, order).reshape(batch, m, n)
    ((size, stack),) = stacks.items()
    (t, u), rows, cols = plan.leaves[0].part, plan.leaves[0].rows, plan.leaves[0].cols
    desired = np.zeros((batch, rows, cols, *size), "float32")
    for i in range(rows):
        for j in range(cols):
            block = matrices[:, i * t : (i + 1) * t, j * u : (j + 1) * u]
            desired[:, i, j, : block.shape[1], : block.shape[2]] = block
    assert (stack == desired.reshape(stack.shape)).all()


def test_members_of_a_stack_stand_in_order():
    leaves = [jnp.full((4, 4), 1.0), jnp.full((3, 4, 4), 2.0), jnp.full((4, 4), 3.0)]
    plan = plan_of(leaves, rules={"p1": Axes((1,), (2,), (0,))})
    assert plan.stack_members() == {(8, 8): [0, 1, 2]}
    (stack,) = to_stacks(leaves, plan).values()
    assert stack[:, 0, 0].tolist() == [1, 2, 2, 2, 3]


def test_tiles_of_one_size_share_a_stack():
    """Matrices of one and of two rows of blocks, cut into the same tiles."""
    leaves = [jnp.full((16, 8), 1.0), jnp.full((8, 8), 2.0), jnp.full((16, 8), 3.0)]
    plan = plan_of(leaves, size=8)
    ((size, members),) = plan.stack_members().items()
    stack = to_stacks(leaves, plan)[size]
    numbers = [i + 1 for i in members for _ in range(plan.leaves[i].num_tiles)]
    assert stack[:, 0, 0].tolist() == numbers
    assert members == [0, 1, 2]


def test_what_fills_the_padding_does_not_come_back():
    """`from_stacks` is the transpose of `to_stacks`, and its left inverse."""
    leaves = some_leaves()
    plan = plan_of(leaves, size=8, rules=RULES)
    stacks, _ = there_and_back(leaves, plan)
    rng = np.random.default_rng(0)
    filled = jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape), "float32"), stacks
    )

    @jax.jit
    def both(filled):
        transpose = jax.linear_transpose(lambda x: to_stacks(x, plan), leaves)
        return transpose(filled)[0], from_stacks(filled, plan)

    transposed, back = both(filled)
    for i, leaf in back.items():
        assert (leaf == transposed[i]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtypes_stay(dtype):
    leaves = [leaf.astype(dtype) for leaf in some_leaves()]
    plan = plan_of(leaves, size=16)
    stacks, back = there_and_back(leaves, plan)
    assert {stack.dtype for stack in stacks.values()} == {jnp.dtype(dtype)}
    assert all((back[i] == leaves[i]).all() for i in back)


def test_nothing_gives_nothing():
    plan = plan_of([jnp.ones(3)])
    assert to_stacks([jnp.ones(3)], plan) == {}
    assert from_stacks({}, plan) == {}

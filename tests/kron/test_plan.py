import itertools
import math
import re

import hypothesis
import hypothesis.strategies as st
import jax
import pytest

from jaxla.kron import Axes, Blocks, make_plan


def plan_of(shapes, **choices):
    leaves = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    return make_plan([f"p{i}" for i in range(len(shapes))], leaves, Blocks(**choices))


def longest_parts(plan):
    """Of each block size, the parts that got it, left and right, with their counts."""
    parts = {}
    for leaf in plan.leaves:
        if leaf.axes is None:
            continue
        sizes = (leaf.group.row_size, leaf.group.col_size)
        for part, size, count in zip(leaf.part, sizes, leaf.num_factors, strict=True):
            parts.setdefault(size, []).extend([part] * count)
    return parts


dimension = st.integers(1, 70)
shapes = st.lists(
    st.lists(dimension, min_size=0, max_size=4).map(tuple), min_size=0, max_size=6
)


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(
    shapes=shapes,
    size=st.sampled_from([8, 16, 24, 64]),
    classes=st.integers(1, 4),
    shards=st.sampled_from([1, 2, 8]),
)
def test_plans_hold_together(shapes, size, classes, shards):
    plan = plan_of(shapes, size=size, classes=classes, shards=shards)
    assert len(plan.leaves) == len(shapes)
    for shape, leaf in zip(shapes, plan.leaves, strict=True):
        assert leaf.shape == shape
        if leaf.axes is None:
            assert leaf.num_factors == (0, 0)
            continue
        batch, m, n = leaf.matrix_shape
        assert batch * m * n == math.prod(shape)
        rows, row_size, cols, col_size = leaf.group
        assert leaf.num_factors == (batch * rows, batch * cols)
        for length, count, part, block in [
            (m, rows, leaf.part[0], row_size),
            (n, cols, leaf.part[1], col_size),
        ]:
            # As few equal parts as the size allows, and a block that holds them.
            assert count == math.ceil(length / size)
            assert part == math.ceil(length / count)
            assert part <= block <= size
            assert block % 8 == 0
    parts = longest_parts(plan)
    assert len(parts) <= classes
    assert sorted(parts) == list(plan.num_factors)
    check_slices(plan, parts, shards)


def check_slices(plan, parts, shards):
    """The stack of each size is cut into the groups' left and right blocks."""
    for size, total in plan.num_factors.items():
        slices = [plan.left[group] for group in plan.groups if group.row_size == size]
        slices += [plan.right[group] for group in plan.groups if group.col_size == size]
        covered = sorted(i for s in slices for i in range(s.start, s.stop))
        assert covered == list(range(len(parts[size])))
        assert total % shards == 0
        assert len(covered) <= total < len(covered) + shards
    members = sorted(i for indices in plan.groups.values() for i in indices)
    assert members == [i for i, leaf in enumerate(plan.leaves) if leaf.axes is not None]
    for group, indices in plan.groups.items():
        matrices = sum(plan.leaves[i].matrix_shape[0] for i in indices)
        assert all(plan.leaves[i].group == group for i in indices)
        left, right = plan.left[group], plan.right[group]
        assert left.stop - left.start == matrices * group.rows
        assert right.stop - right.start == matrices * group.cols


def cost(sizes, parts):
    """What the docstring of the size classes asks to be least."""
    roots = sum(min(size for size in sizes if size >= part) ** 3 for part in parts)
    return roots + 3 * len(sizes) * max(parts) ** 3


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    parts=st.lists(st.integers(2, 64), min_size=2, max_size=12).filter(
        lambda parts: len(parts) % 2 == 0
    ),
    classes=st.integers(1, 4),
)
def test_size_classes_are_the_best(parts, classes):
    """Against all sets of sizes, by brute force."""
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    plan = plan_of(pairs, size=64, classes=classes)
    assert sorted(itertools.chain(*longest_parts(plan).values())) == sorted(parts)
    candidates = sorted({-(-part // 8) * 8 for part in parts})
    best = min(
        cost(sizes, parts)
        for k in range(1, classes + 1)
        for sizes in itertools.combinations(candidates, k)
        if max(sizes) >= max(parts)
    )
    assert cost(list(plan.num_factors), parts) == best


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((), None),
        ((7,), None),
        ((1, 7), None),
        ((7, 1), None),
        ((1, 1, 1), None),
        ((6, 5), (6, 5)),
        ((16, 8, 3, 3), (16, 72)),  # an Equinox kernel: out, in, height, width
        ((3, 3, 8, 16), (72, 16)),  # a Flax kernel: height, width, in, out
        ((2, 3, 4), (6, 4)),
        ((4, 1, 5), (4, 5)),
        ((12, 4, 16), (48, 16)),
    ],
)
def test_default_split_makes_the_short_side_longest(shape, matrix):
    (leaf,) = plan_of([shape]).leaves
    if matrix is None:
        assert leaf.axes is None
    else:
        assert leaf.matrix_shape == (1, *matrix)


def test_rules_overrule_the_default():
    shapes, paths = [(6, 5), (2, 6, 5), (6, 5), (6, 5)], ["a", "b", "c", "d/w"]
    leaves = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    layers = Axes(rows=(2,), cols=(1,), batch=(-3,))
    mapping = {"a": "diagonal", "b": layers, "d/*": "matrix"}
    plan = make_plan(paths, leaves, Blocks(rules=mapping))
    assert plan.leaves[0].axes is None
    assert plan.leaves[1].matrix_shape == (2, 5, 6)
    assert plan.leaves[2].axes == plan.leaves[3].axes == Axes((0,), (1,))
    by_function = Blocks(rules=lambda path, leaf: mapping.get(path.replace("w", "*")))
    assert make_plan(paths, leaves, by_function) == plan


@pytest.mark.parametrize(
    ("shape", "rule", "message"),
    [
        (
            (7,),
            "matrix",
            "`rules` asks to treat 'p' as a matrix, but its shape (7,) does not have two "
            "axes longer than 1.",
        ),
        (
            (7, 1),
            "matrix",
            "`rules` asks to treat 'p' as a matrix, but its shape (7, 1) does not have",
        ),
        (
            (3, 4),
            "rows",
            "`rules` must give 'matrix', 'diagonal', `Axes` or None for a parameter; got "
            "'rows' for 'p'.",
        ),
        (
            (3, 4),
            Axes((0,), ()),
            "`rules`: Axes(rows=(0,), cols=(), batch=()) must name each axis of the "
            "parameter 'p' of shape (3, 4) once.",
        ),
        ((3, 4), Axes((0,), (1, -1)), "must name each axis"),
        ((3, 4), Axes((0,), (2,)), "must name each axis"),
        ((3, 4), Axes((0,), (-3,)), "must name each axis"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_messages_on_rules(shape, rule, message):
    leaf = jax.ShapeDtypeStruct(shape, "float32")
    for rules in ({"p": rule}, lambda path, leaf: rule):
        with pytest.raises(ValueError, match=re.escape(message)):
            make_plan(["p"], [leaf], Blocks(rules=rules))

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
        for part, size, count in zip(leaf.part, leaf.tile, leaf.num_factors, strict=True):
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
    limit=st.sampled_from([None, 0, 20]),
)
def test_plans_hold_together(shapes, size, classes, shards, limit):
    plan = plan_of(
        shapes, size=size, classes=classes, shards=shards, one_sided_above=limit
    )
    assert len(plan.leaves) == len(shapes)
    for shape, leaf in zip(shapes, plan.leaves, strict=True):
        assert leaf.shape == shape
        if leaf.axes is None:
            assert leaf.num_factors == (0, 0)
            continue
        batch, m, n = leaf.matrix_shape
        assert batch * m * n == math.prod(shape)
        counts = (leaf.rows, leaf.cols)
        sides = (True, True)
        if limit is not None and max(m, n) > limit:
            sides = (m <= n, m > n)
        assert leaf.num_factors == (
            sides[0] * batch * leaf.rows,
            sides[1] * batch * leaf.cols,
        )
        assert leaf.num_tiles == batch * leaf.rows * leaf.cols
        for length, count, part, block in zip(
            (m, n), counts, leaf.part, leaf.tile, strict=True
        ):
            # As few equal parts as the size allows, and a block that holds them.
            assert count == math.ceil(length / size)
            assert part == math.ceil(length / count)
            assert part <= block <= size
            assert block % 8 == 0
    parts = longest_parts(plan)
    used = sorted(size for size, parts_of_size in parts.items() if parts_of_size)
    assert len(used) <= classes
    assert used == list(plan.num_factors)
    check_places(plan, parts, shards)
    check_tiles(plan)


def places_of(leaf):
    """The places of a parameter's factors: pairs of a size and an index."""
    sides = zip(leaf.tile, (leaf.left, leaf.right), strict=True)
    return [(size, k) for size, side in sides for k in range(side.start, side.stop)]


def check_places(plan, parts, shards):
    """Every place in a stack is one parameter's, or spare."""
    matrices = [i for i, leaf in enumerate(plan.leaves) if leaf.axes is not None]
    owner = {}
    for i in matrices:
        leaf = plan.leaves[i]
        assert len(places_of(leaf)) == sum(leaf.num_factors)
        assert not owner.keys() & places_of(leaf)
        owner |= dict.fromkeys(places_of(leaf), i)
    for size, total in plan.num_factors.items():
        used = len(parts[size])
        assert total % shards == 0
        assert used <= total < used + shards
        owners = [owner.get((size, k), -1) for k in range(total)]
        assert min(owners[:used]) >= 0
        assert plan.owners_of_factors(size).tolist() == owners


def check_tiles(plan):
    """Tiles lie in the order parameter, matrix, row, column; a row shares its left
    factor, a column its right one."""
    members = plan.stack_members()
    assert sorted(itertools.chain(*members.values())) == [
        i for i, leaf in enumerate(plan.leaves) if leaf.axes is not None
    ]
    for size, indices in members.items():
        expected = []
        for i in indices:
            leaf = plan.leaves[i]
            assert leaf.tile == size
            expected += [
                (
                    i,
                    leaf.left.start + b * leaf.rows + r if leaf.sides[0] else -1,
                    leaf.right.start + b * leaf.cols + c if leaf.sides[1] else -1,
                )
                for b in range(leaf.matrix_shape[0])
                for r in range(leaf.rows)
                for c in range(leaf.cols)
            ]
        told = (plan.owners_of_tiles(size), *plan.factors_of_tiles(size))
        assert list(zip(*(x.tolist() for x in told), strict=True)) == expected


def test_a_side_without_factors_has_no_say_in_the_size_of_the_other():
    plan = plan_of([(50_000, 16)], one_sided_above=100)
    assert plan.leaves[0].tile == (128, 16)
    assert plan.num_factors == {16: 1}


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
            "`rules` must give 'matrix', 'one-sided', 'diagonal', `Axes` or None for a "
            "parameter; got 'rows' for 'p'.",
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

"""Few calls for matrices of many shapes."""

import jax.numpy as jnp
import numpy as np

from jaxla.kron import map_similar, merge_shapes


def test_shapes_and_transposes_share_a_call():
    calls = []

    def fn(x):
        calls.append(x.shape)
        return 2 * x

    shapes = [(3, 4), (4, 3), (2, 4, 3), (2, 3, 6, 5), (5, 7)]
    xs = [jnp.asarray(np.random.default_rng(0).normal(size=s), "float32") for s in shapes]
    out = map_similar(fn, xs, shapes=None)
    assert sorted(calls) == sorted([(4, 4, 3), (6, 6, 5), (1, 7, 5)])
    for x, y in zip(xs, out, strict=True):
        np.testing.assert_array_equal(y, 2 * x)

    calls.clear()
    out = map_similar(fn, xs, shapes=2)
    assert sorted(calls) == [(4, 4, 3), (7, 7, 5)]
    for x, y in zip(xs, out, strict=True):
        np.testing.assert_array_equal(y, 2 * x)
    assert map_similar(fn, []) == []


def test_dtypes_come_back():
    given = [jnp.ones((2, 2), dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    out = map_similar(lambda x: x, given)
    assert [x.dtype for x in out] == [jnp.float32, jnp.bfloat16]


def test_the_cheapest_are_merged_first():
    # Padding the large one would cost most, and stays alone.
    stacks = [(1, 100, 100), (4, 8, 8), (1, 12, 8), (2, 30, 30)]
    assert merge_shapes(stacks, None) == {
        (100, 100): [0],
        (8, 8): [1],
        (12, 8): [2],
        (30, 30): [3],
    }
    assert merge_shapes(stacks, 3) == {(100, 100): [0], (30, 30): [3], (12, 8): [1, 2]}
    assert merge_shapes(stacks, 2) == {(100, 100): [0], (30, 30): [1, 2, 3]}
    assert merge_shapes(stacks, 1) == {(100, 100): [0, 1, 2, 3]}
    # The union of two may be a third.
    assert merge_shapes([(1, 9, 2), (1, 8, 4), (1, 9, 4)], 2) == {
        (9, 2): [0],
        (9, 4): [1, 2],
    }

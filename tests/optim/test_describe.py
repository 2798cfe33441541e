"""What `describe` tells, and that it is so."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla.optim import Axes, Blocks, describe, shampoo


SHAPES = {"bias": (12,), "conv": (16, 8, 3, 3), "dense": (20, 12), "stack": (3, 8, 5)}
PARAMS = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
)
BLOCKS = Blocks(size=16, rules={"stack": Axes(rows=(1,), cols=(2,), batch=(0,))})
BLOCKED = functools.partial(shampoo, blocks=BLOCKS)
ONLY_DENSE = {"bias": False, "conv": False, "dense": True, "stack": False}


def test_tells_what_each_parameter_gets():
    lines = describe(BLOCKED(0.1), PARAMS).splitlines()
    rows = [re.split(r"  +", line) for line in lines[1 : lines.index("")]]
    assert rows == [
        ["bias", "12", "diagonal", "-", "-"],
        ["conv", "16x8x3x3", "16x72", "1 of 16", "5 of 16"],
        # The parts of 10 and 12, of 15 and of 16 share blocks of 16.
        ["dense", "20x12", "20x12", "2 of 16", "1 of 16"],
        ["stack", "3x8x5", "3 of 8x5", "3 of 8", "3 of 8"],
    ]


def test_counts_the_factors_of_the_state():
    opt = BLOCKED(0.1)
    told = re.findall(r"^(\d+) +(\d+) +\d+ +\d+$", describe(opt, PARAMS), re.MULTILINE)
    factors = optax.tree.get(jax.eval_shape(opt.init, PARAMS), "factors")
    assert {int(size): int(count) for size, count in told} == {
        size: len(stack) for size, stack in factors.items()
    }


@pytest.mark.parametrize(
    "opt",
    [
        BLOCKED(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), BLOCKED(0.1), optax.ema(0.9)),
        optax.masked(BLOCKED(0.1), ONLY_DENSE),
        optax.partition(
            {True: BLOCKED(0.1), False: optax.adam(0.1)},
            ONLY_DENSE,
        ),
        optax.inject_hyperparams(BLOCKED)(0.1),
        optax.MultiSteps(BLOCKED(0.1), 2).gradient_transformation(),
        shampoo(0.1, graft="none", mu_dtype="bfloat16"),
    ],
    ids=["plain", "chain", "masked", "partition", "inject", "accumulate", "half"],
)
def test_the_bytes_are_those_of_the_state(opt):
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), PARAMS)
    state = jax.tree.leaves(opt.init(params))
    size = sum(np.asarray(leaf).nbytes for leaf in state)
    numbers = sum(leaf.size for leaf in state) / sum(map(np.prod, SHAPES.values()))
    told = describe(opt, PARAMS)
    assert told.endswith(
        f"state: {size / 2**20:.2f} MiB, {numbers:.2f} numbers a parameter"
    )
    assert re.search(r"^dense +20x12 +20x12 ", told, re.MULTILINE)


def test_tells_only_what_is_not_masked():
    told = describe(optax.masked(BLOCKED(0.1), ONLY_DENSE), PARAMS)
    assert "dense" in told
    assert "conv" not in told


def test_two_optimizers_have_two_tables():
    labels = ONLY_DENSE
    opts = {True: BLOCKED(0.1), False: shampoo(0.1, blocks=Blocks(size=8))}
    told = describe(optax.partition(opts, labels), PARAMS)
    assert told.count("parameter  ") == 2
    assert re.search(r"^conv .* 2 of 8 +9 of 8$", told, re.MULTILINE)


def test_nothing_is_computed():
    huge = {"w": jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32)}
    assert "1048576x1048576" in describe(shampoo(0.1), huge)


@pytest.mark.parametrize(
    "opt", [optax.adam(0.1), optax.masked(shampoo(0.1), False)], ids=["adam", "masked"]
)
def test_there_must_be_something_to_tell(opt):
    with pytest.raises(ValueError, match="`opt` has no blocked optimizer of jaxla in it"):
        describe(opt, PARAMS)


def test_rules_that_match_nothing_are_named():
    params = {"embed": jnp.ones((8, 4)), "layer": {"embed": jnp.ones((8, 4))}}
    rules = {"embed": "diagonal", "head": "diagonal", "nome*": "matrix"}
    text = describe(shampoo(0.1, blocks=Blocks(rules=rules)), params)
    assert "rules that match no parameter: 'head', 'nome*'" in text
    text = describe(shampoo(0.1, blocks=Blocks(rules={"*embed": "diagonal"})), params)
    assert "match no parameter" not in text

import dataclasses
import re

import pytest

from jaxla.kron import Axes, Blocks


@pytest.mark.parametrize("p", range(1, 9))
def test_integer_roots_come_from_products(p):
    assert Blocks(exponent=1 / p).coupled_order == p
    assert Blocks(exponent=1 / p, root="coupled").coupled_order == p
    assert Blocks(exponent=1 / p, root="eigh").coupled_order is None


@pytest.mark.parametrize("exponent", [0.3, 2, 1 / 9, 0.26, 1.5])
def test_other_exponents_need_eigenvalues(exponent):
    assert Blocks(exponent=exponent).coupled_order is None


def test_the_first_pattern_counts():
    axes = Axes(rows=(0,), cols=(1,))
    rules = {"*embed*": "diagonal", "layers/[0-1]/*": "matrix", "*weight": axes}
    blocks = Blocks(rules=rules)
    assert blocks.rule("embed/weight", None) == "diagonal"
    assert blocks.rule("layers/1/weight", None) == "matrix"
    assert blocks.rule("layers/2/weight", None) is axes
    assert blocks.rule("layers/2/bias", None) is None


def test_a_function_gets_path_and_parameter():
    blocks = Blocks(rules=lambda path, leaf: "diagonal" if leaf > 3 else None)
    assert blocks.rule("w", 4) == "diagonal"
    assert blocks.rule("w", 3) is None


def test_choices_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Blocks().size = 64


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        (
            {"size": 0},
            ValueError,
            "`size` must be an integer, between 8 and 16384; got 0",
        ),
        ({"size": 2**15}, ValueError, "between 8 and 16384; got 32768"),
        ({"size": 12}, ValueError, "`size` must be a multiple of 8; got 12."),
        ({"size": 64.0}, TypeError, "`size` must be a Python integer"),
        ({"classes": 0}, ValueError, "`classes` must be an integer, at least 1; got 0."),
        ({"refresh_every": 0}, ValueError, "`refresh_every` must be an integer, at leas"),
        ({"refresh_every": True}, TypeError, "`refresh_every` must be a Python integer"),
        ({"shards": -1}, ValueError, "`shards` must be an integer, at least 1; got -1."),
        (
            {"root": "qr"},
            ValueError,
            "`root` must be one of 'auto', 'coupled', 'eigh'; got 'qr'.",
        ),
        ({"exponent": 0}, ValueError, "`exponent` must be a positive number; got 0."),
        ({"exponent": -0.25}, ValueError, "must be a positive number; got -0.25."),
        ({"exponent": float("nan")}, ValueError, "must be a positive number; got nan."),
        ({"exponent": "1/4"}, ValueError, "must be a positive number; got '1/4'."),
        (
            {"exponent": 0.3, "root": "coupled"},
            ValueError,
            "`root='coupled'` needs an `exponent` of 1/p with an integer p between 1 "
            "and 8; got 0.3. Use `root='eigh'`.",
        ),
    ],
)
def test_messages(choices, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Blocks(**choices)

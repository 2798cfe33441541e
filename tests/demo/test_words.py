"""The paragraph tells the truth for curves of any kind."""

import pytest

from jaxla._demo._summary import Reached, Row, summarize
from jaxla._demo._train import Program, Run
from jaxla._demo._trials import Trials
from jaxla._demo._words import paragraph


def run(name, losses, second, *, seed=0, batch_size=8):
    """A run that is looked at every 5 steps, each of `second` seconds."""
    steps = tuple(range(0, 5 * len(losses), 5))
    return Run(
        name,
        batch_size,
        0.01,
        seed,
        False,
        steps,
        tuple(second * step for step in steps),
        tuple(losses),
        0.9,
        (second,) * steps[-1],
    )


def tell(*runs, targets=(0.3,)):
    names = tuple(dict.fromkeys(run.optimizer for run in runs))
    sizes = tuple(dict.fromkeys(run.batch_size for run in runs))
    programs = {
        (size, name): Program(name, size, 20, (2, 2), id, id, 1.5, 8.0, 2.0)
        for size in sizes
        for name in names
    }
    trials = Trials(sizes, names, programs, list(runs))
    return paragraph(summarize(trials, targets), targets)


def test_fewer_steps_and_fewer_seconds():
    text = tell(
        run("adamw", [2.0, 0.9, 0.5, 0.4, 0.3], 0.1),
        run("shampoo", [2.0, 0.3, 0.2, 0.2, 0.2], 0.2),
    )
    assert "Batch 8. To a validation loss of 0.3 shampoo took 5 steps and 1 s" in text
    assert "adamw took 20 steps and 2 s: 0.25 times the steps, 0.5 times the " in text
    assert "lowest loss was 0.200 with shampoo and 0.300 with adamw" in text
    assert "took 1.5 s and 1.5 s" in text
    assert "of 1 case shampoo was ahead of adamw in 1 counted in steps, and in 1 " in text


def test_fewer_steps_but_more_seconds():
    text = tell(
        run("adamw", [2.0, 0.9, 0.3], 0.1),
        run("shampoo", [2.0, 0.3, 0.2], 0.4),
    )
    assert "0.5 times the steps, 2 times the seconds" in text
    assert "in 1 counted in steps, and in 0 counted in seconds" in text


def test_slower():
    text = tell(
        run("adamw", [2.0, 0.3, 0.3], 0.1),
        run("shampoo", [2.0, 0.9, 0.3], 0.3),
    )
    assert "2 times the steps, 6 times the seconds" in text
    assert "in 0 counted in steps, and in 0 counted in seconds" in text


def test_equal_is_not_ahead():
    runs = [run(name, [2.0, 0.3], 0.1) for name in ("adamw", "shampoo")]
    assert "in 0 counted in steps, and in 0 counted in seconds" in tell(*runs)


@pytest.mark.parametrize(
    ("adamw", "shampoo", "told", "ahead"),
    [
        (0.4, 0.3, "shampoo took 5 steps and 0.5 s; adamw never reached it.", 1),
        (0.3, 0.4, "adamw took 5 steps and 0.5 s; shampoo never reached it.", 0),
        (0.4, 0.4, "shampoo never reached a validation loss of 0.3, adamw never ", 0),
    ],
)
def test_never_reached(adamw, shampoo, told, ahead):
    text = tell(run("adamw", [2.0, adamw], 0.1), run("shampoo", [2.0, shampoo], 0.1))
    assert told in text
    assert f"in {ahead} counted in steps, and in {ahead} counted in seconds" in text
    assert "inf" not in text


def test_reached_by_a_minority_of_seeds_is_not_reached():
    text = tell(
        *(
            run("adamw", [2.0, loss], 0.1, seed=i)
            for i, loss in enumerate([0.2, 0.4, 1.0])
        ),
        run("shampoo", [2.0, 0.3], 0.1),
    )
    assert "adamw in the median of 3 seeds did not reach it" in text


def test_reached_by_half_of_the_seeds_is_not_reached():
    text = tell(
        *(run("adamw", [2.0, loss], 0.1, seed=i) for i, loss in enumerate([0.2, 0.4])),
        run("shampoo", [2.0, 0.3], 0.1),
    )
    assert "adamw in the median of 2 seeds did not reach it" in text
    assert "nan" not in text


def test_every_batch_size_and_target_counts():
    runs = [
        run(name, [2.0, *losses], 0.1, batch_size=size)
        for size in (8, 16)
        for name, losses in (("adamw", [0.4, 0.3]), ("sgd", [0.3, 0.2]))
    ]
    text = tell(*runs, targets=(0.3, 0.2))
    assert "Batch 8." in text
    assert "Batch 16." in text
    assert "of 4 cases sgd was ahead of adamw in 4 counted in steps" in text


def test_losses_that_are_not_numbers():
    text = tell(
        run("adamw", [2.0, float("nan")], 0.1),
        run("shampoo", [2.0, 0.3], 0.1),
    )
    assert "adamw never reached it" in text
    assert "inf with adamw" in text


def test_below_the_target_from_the_start():
    text = tell(run("adamw", [0.1, 0.1], 0.1), run("shampoo", [0.1, 0.1], 0.1))
    assert "shampoo took 0 steps and 0 s, adamw took 0 steps and 0 s." in text


def test_nothing_to_compare():
    assert "nothing to compare" in tell(run("adamw", [2.0, 0.3], 0.1))


def test_rows_are_medians_over_seeds():
    runs = [run("adamw", [2.0, a, b], s, seed=i) for i, (a, b, s) in enumerate(SEEDS)]
    programs = {(8, "adamw"): Program("adamw", 8, 10, (2, 2), id, id, 1.5, 8.0, 2.0)}
    (row,) = summarize(Trials((8,), ("adamw",), programs, runs), (0.3, 0.1))
    assert isinstance(row, Row)
    assert row.reached[0.3] == Reached(10.0, 2.0, 3)
    assert row.reached[0.1].count == 0
    assert row.best_loss == 0.25
    assert row.step_median == 0.2


SEEDS = [(0.3, 0.2, 0.1), (0.4, 0.3, 0.3), (0.5, 0.25, 0.2)]

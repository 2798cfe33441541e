"""Which runs are made when time is short, or Ctrl-C comes."""

import numpy as np
import pytest

from jaxla._demo import _trials
from jaxla._demo._data import Dataset
from jaxla._demo._options import Options
from jaxla._demo._summary import choose_targets
from jaxla._demo._train import Program, Run
from jaxla._demo._trials import LEARNING_RATES, run_trials, Trials


OPTIONS = Options(batch_sizes=(8,), steps=4, budget=100.0)
DATASET = Dataset("", "", np.zeros((20, 2)), np.arange(20) % 2, 2)
FULL = 2 * len(LEARNING_RATES), 2 * OPTIONS.seeds


class Quiet:
    """A watcher that listens to nothing."""

    def compiling(self, optimizer: str, batch_size: int) -> None: ...
    def begin(self, program: Program, learning_rate: float, seed: int, sweep: bool): ...
    def advance(self, step: int, loss: float) -> None: ...
    def end(self, run: Run) -> None: ...


class Clock:
    """Time passes when a run is made, and only then."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def trials(monkeypatch, *, seconds, interrupt_at=None) -> Trials:
    """All trials with runs that last `seconds` of a clock made for this."""
    clock, count = Clock(), 0

    def compile_program(optimizer, batch_size, steps, sizes, part):
        return Program(optimizer, batch_size, steps, sizes, id, id, 1.0, 8.0, 2.0)

    def train(program, part, *, learning_rate, seed, sweep, watch):
        nonlocal count
        count += 1
        for step in range(4):
            if count == interrupt_at:
                raise KeyboardInterrupt
            clock.now += seconds / 4
            watch(step, 1.0)
        loss = abs(learning_rate - 0.02) + 0.01
        names = program.optimizer, program.batch_size
        curve = (0, 4), (0.0, seconds), (2.0, loss)
        return Run(*names, learning_rate, seed, sweep, *curve, 0.5, (seconds / 4,) * 4)

    monkeypatch.setattr(_trials, "compile_program", compile_program)
    monkeypatch.setattr(_trials, "train", train)
    return run_trials(OPTIONS, DATASET, Quiet(), 0.0, clock)


def counts(trials):
    sweeps = sum(run.sweep for run in trials.runs)
    return sweeps, len(trials.runs) - sweeps


def test_with_time_enough_every_run_is_made(monkeypatch):
    done = trials(monkeypatch, seconds=1.0)
    assert counts(done) == FULL
    assert done.stopped is None
    for key in done.keys:
        assert [run.learning_rate for run in done.sweep(key)] == sorted(LEARNING_RATES)
        assert [run.learning_rate for run in done.final(key)] == [0.02] * OPTIONS.seeds
        assert [run.seed for run in done.final(key)] == [0, 1, 2]
        assert {run.seed for run in done.sweep(key)} == {3}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (7.0, (10, 2)),  # one seed: a second would end at 98, after the deadline of 95
        (10.0, (6, 2)),  # a shorter sweep: it leaves time for one seed
        (30.0, (2, 0)),  # one round of the sweep, and none more
    ],
)
def test_a_short_budget_drops_seeds_first(monkeypatch, seconds, expected):
    done = trials(monkeypatch, seconds=seconds)
    assert counts(done) == expected
    assert done.stopped == "budget"


def test_the_sweep_stands_in_where_there_was_no_time_for_seeds(monkeypatch):
    done = trials(monkeypatch, seconds=30.0)
    for key in done.keys:
        (run,) = done.final(key)
        assert run.sweep


def test_a_run_that_outlasts_the_budget_is_dropped(monkeypatch):
    done = trials(monkeypatch, seconds=80.0)
    assert counts(done) == (1, 0)
    assert done.stopped == "budget"


def test_ctrl_c_keeps_what_is_finished(monkeypatch):
    done = trials(monkeypatch, seconds=1.0, interrupt_at=FULL[0] + 2)
    assert counts(done) == (FULL[0], 1)
    assert done.stopped == "interrupted"


def test_targets_of_unknown_data(monkeypatch):
    done = trials(monkeypatch, seconds=1.0)
    assert choose_targets("mnist", done) == (0.3, 0.25)
    assert choose_targets("mine", done) == (0.015, 0.011)
    assert choose_targets("mine", Trials((8,), ("sgd",))) == ()

"""From runs to the numbers of the table: medians over seeds."""

import dataclasses
import math

import numpy as np

from ._trials import LEARNING_RATES, Trials


MNIST_TARGETS = (0.30, 0.25)


@dataclasses.dataclass(frozen=True)
class Reached:
    """How a validation loss was reached: medians, infinite if half the seeds did not."""

    steps: float
    seconds: float
    count: int  # the seeds that did


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer at one batch size."""

    optimizer: str
    batch_size: int
    steps: int
    every: int
    learning_rate: float
    seeds: int
    from_sweep: bool  # no run with the chosen learning rate but the sweep's own
    at_edge: bool  # the chosen learning rate is an end of the grid
    reached: dict[float, Reached]
    best_loss: float
    accuracy: float
    step_median: float
    step_worst: float
    compile_seconds: float
    state_bytes: float
    state_numbers: float


def summarize(trials: Trials, targets: tuple[float, ...]) -> list[Row]:
    """One row for each optimizer and batch size that finished a run."""
    return [_row(trials, key, targets) for key in trials.keys if trials.final(key)]


def choose_targets(task: str, trials: Trials) -> tuple[float, ...]:
    """Two validation losses to reach.

    For data of unknown difficulty 1.5 and 1.1 times the best loss of the sweep that
    all optimizers have in common, rounded up to two digits.
    """
    if task == "mnist":
        return MNIST_TARGETS
    best = [run.best_loss for key in trials.keys if (run := trials.chosen(key))]
    common = max((loss for loss in best if math.isfinite(loss)), default=0)
    if common == 0:
        return ()
    return _two_digits(1.5 * common), _two_digits(1.1 * common)


def _row(trials: Trials, key: tuple[int, str], targets: tuple[float, ...]) -> Row:
    runs, program = trials.final(key), trials.programs[key]
    rate = runs[0].learning_rate
    return Row(
        optimizer=key[1],
        batch_size=key[0],
        steps=program.steps,
        every=program.every,
        learning_rate=rate,
        seeds=len(runs),
        from_sweep=runs[0].sweep,
        at_edge=rate in (min(LEARNING_RATES), max(LEARNING_RATES)),
        reached={target: _reached(runs, target) for target in targets},
        best_loss=_median([run.best_loss for run in runs]),
        accuracy=_median([run.accuracy for run in runs]),
        step_median=_median([_median(run.step_seconds) for run in runs]),
        step_worst=_median([max(run.step_seconds) for run in runs]),
        compile_seconds=program.compile_seconds,
        state_bytes=program.state_bytes_per_parameter,
        state_numbers=program.state_numbers_per_parameter,
    )


def _reached(runs, target: float) -> Reached:
    steps, seconds = zip(*(run.first_below(target) for run in runs), strict=True)
    return Reached(_median(steps), _median(seconds), sum(map(math.isfinite, steps)))


def _median(values) -> float:
    return float(np.median(values))


def _two_digits(number: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    # Division by a power of ten that is exact, so that 0.3 does not become 0.30000004.
    digits = math.ceil(number / unit - 1e-9)
    return float(f"{digits * unit:.2g}")

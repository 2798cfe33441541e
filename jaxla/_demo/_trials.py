"""Which runs are made, in which order, and what is dropped when time is short.

First a sweep: every optimizer at every batch size tries the same learning rates, on a
split of its own. Then the best of each runs with several seeds. Runs come in rounds,
in each of which every optimizer has its turn, so that the end of the budget, or
Ctrl-C, leaves them with the same number of trials, give or take one.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from ._data import Dataset, Split, split
from ._options import Options
from ._train import compile_program, layer_sizes, Program, Run, train


# From the middle outwards, so that a sweep cut short has tried the likeliest.
LEARNING_RATES = (1e-2, 5e-3, 2e-2, 2e-3, 5e-2)
CRITERION = "the lowest validation loss"
RESERVE = 5.0  # seconds for the table and the picture

Key = tuple[int, str]  # batch size and optimizer


class OutOfTime(Exception):
    """The budget ended."""


@runtime_checkable
class Watcher(Protocol):
    """Who is told how the trials go on; the screen, as a rule."""

    def compiling(self, optimizer: str, batch_size: int) -> None: ...
    def begin(self, program: Program, learning_rate: float, seed: int, sweep: bool): ...
    def advance(self, step: int, loss: float) -> None: ...
    def end(self, run: Run) -> None: ...


@dataclasses.dataclass
class Trials:
    """All that was finished, and why there is no more of it."""

    batch_sizes: tuple[int, ...]
    optimizers: tuple[str, ...]
    programs: dict[Key, Program] = dataclasses.field(default_factory=dict)
    runs: list[Run] = dataclasses.field(default_factory=list)
    stopped: str | None = None  # "budget" or "interrupted"

    @property
    def keys(self) -> list[Key]:
        return [(size, name) for size in self.batch_sizes for name in self.optimizers]

    def sweep(self, key: Key) -> list[Run]:
        """The runs of the sweep, from the lowest learning rate to the highest."""
        return sorted(self._of(key, sweep=True), key=lambda run: run.learning_rate)

    def chosen(self, key: Key) -> Run | None:
        """The best run of the sweep."""
        return min(self.sweep(key), key=lambda run: run.best_loss, default=None)

    def final(self, key: Key) -> list[Run]:
        """The runs at the chosen learning rate; if none was finished, the sweep's."""
        best = self.chosen(key)
        return self._of(key, sweep=False) or ([best] if best else [])

    def _of(self, key: Key, *, sweep: bool) -> list[Run]:
        return [
            run
            for run in self.runs
            if (run.batch_size, run.optimizer) == key and run.sweep == sweep
        ]


def run_trials(
    options: Options,
    dataset: Dataset,
    watcher: Watcher,
    start: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Trials:
    """Makes the runs until all are made, the budget ends, or Ctrl-C comes."""
    trials = Trials(options.batch_sizes, options.optimizers)
    deadline = start + options.budget - RESERVE
    job = _Job(options, dataset, watcher, trials, deadline, clock)
    try:
        job.compile()
        job.sweep()
        job.finals()
    except OutOfTime:
        trials.stopped = "budget"
    except KeyboardInterrupt:
        trials.stopped = "interrupted"
    return trials


@dataclasses.dataclass
class _Job:
    options: Options
    dataset: Dataset
    watcher: Watcher
    trials: Trials
    deadline: float
    clock: Callable[[], float]
    round_seconds: float = 0.0  # of the last round, the guess for the next

    def compile(self) -> None:
        part = split(self.dataset, self.options.seed)
        sizes = layer_sizes(self.dataset)
        for batch_size, name in self.trials.keys:
            self._check_time()
            self.watcher.compiling(name, batch_size)
            steps = self.options.steps_of(batch_size)
            program = compile_program(name, batch_size, steps, sizes, part)
            self.trials.programs[batch_size, name] = program

    def sweep(self) -> None:
        seed = self.options.seed + self.options.seeds  # none of the final ones
        part = split(self.dataset, seed)
        for learning_rate in self._rounds(LEARNING_RATES, spare=1):
            for key in self.trials.keys:
                self._run(key, part, learning_rate, seed, sweep=True)

    def finals(self) -> None:
        seeds = range(self.options.seed, self.options.seed + self.options.seeds)
        best = {key: self.trials.chosen(key) for key in self.trials.keys}
        for seed in self._rounds(seeds, spare=0):
            part = split(self.dataset, seed)
            for key, run in best.items():
                if run:
                    self._run(key, part, run.learning_rate, seed, sweep=False)

    def _rounds(self, trials: Sequence[Any], spare: int) -> Iterator[Any]:
        """The trials, as long as there is time for `spare` more rounds after each."""
        for trial in trials:
            start = self.clock()
            if start + (1 + spare) * self.round_seconds > self.deadline:
                self.trials.stopped = "budget"
                return
            yield trial
            self.round_seconds = self.clock() - start

    def _run(
        self, key: Key, part: Split, learning_rate: float, seed: int, *, sweep: bool
    ) -> None:
        program = self.trials.programs[key]
        self.watcher.begin(program, learning_rate, seed, sweep)

        def watch(step: int, loss: float) -> None:
            self._check_time()
            self.watcher.advance(step, loss)

        run = train(
            program,
            part,
            learning_rate=learning_rate,
            seed=seed,
            sweep=sweep,
            watch=watch,
        )
        self.trials.runs.append(run)
        self.watcher.end(run)

    def _check_time(self) -> None:
        if self.clock() > self.deadline:
            raise OutOfTime

"""Optimizers on two real tasks, each with the same number of learning rates to try."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ._harness import Findings, run_script, say, Settings
from ._optimizers import ADAMW, OPTIMIZERS, WEIGHT_DECAY
from ._report import Cell, Table
from ._tasks import digits, Task, text
from ._timing import ratio
from ._training import compile_program, Program, Run, train


QUESTION = """Which optimizer gets furthest in a given number of steps, and in a given
time, when each may try the same number of learning rates? On two real tasks: a
perceptron that classifies digits, and a small transformer that reads Python."""

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
TUNING_SEED = 1000  # none of the final ones

Runs = dict[str, list[Run]]


@dataclasses.dataclass(frozen=True)
class Trials:
    """All runs on one task: `sweep` one a learning rate, `final` one a seed."""

    task: Task
    programs: Mapping[str, Program]
    sweep: Runs
    final: Runs


def main(arguments=None):
    return run_script("optimizers", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    tasks = settings.choose(
        lambda: (digits(), text()), lambda: (digits(2, 16, 1), text(2, 2, 1, 16, 1))
    )()
    names = settings.choose(tuple(OPTIMIZERS), (ADAMW, "gradient descent"))
    factors = settings.choose(FACTORS, (1.0,))
    seeds = range(settings.num_rounds(3))
    trials = [run_all(task, names, factors, seeds) for task in tasks]
    tables = [_settings_table(names, factors, len(seeds))]
    for each in trials:
        tables += [results_table(each), sweep_table(each, factors)]
    pictures = []
    if settings.out is not None:
        pictures.append("optimizers.png")
        draw(trials, settings.out / pictures[0])
    return Findings(tables, peers=["equinox", "mlxtend"], pictures=pictures)


def run_all(
    task: Task, names: Sequence[str], factors: Sequence[float], seeds: Iterable[int]
) -> Trials:
    """Every optimizer has its turn at each factor, and then at each seed."""
    programs, sweep, final = (
        {},
        {name: [] for name in names},
        {name: [] for name in names},
    )
    for name in names:
        programs[name] = compile_program(task, OPTIMIZERS[name])
        say(f"{task.name}, {name}: compiled in {programs[name].compiled.seconds:.1f} s")
    for factor in factors:
        for name in names:
            rate = factor * OPTIMIZERS[name].centre
            sweep[name].append(_train(name, programs[name], rate, TUNING_SEED))
    for seed in seeds:
        for name in names:
            rate = best_rate(sweep[name])
            final[name].append(_train(name, programs[name], rate, seed))
    return Trials(task, programs, sweep, final)


def _train(name: str, program: Program, rate: float, seed: int) -> Run:
    run = train(program, rate, seed)
    say(
        f"{program.task.name}, {name}, rate {rate:.2g}, seed {seed}: "
        f"loss {run.final_loss:.4f}, {run.seconds[-1]:.1f} s"
    )
    return run


def best_rate(sweep: Sequence[Run]) -> float:
    return min(sweep, key=lambda run: run.final_loss).rate


def results_table(trials: Trials) -> Table:
    base = trials.final[ADAMW]
    rows = [_row(trials, name, runs, base) for name, runs in trials.final.items()]
    columns = (
        "optimizer", "learning rate", "loss", "least", "largest", "minus AdamW's",
        "better", "training loss", "steps to AdamW's loss", "seconds to it",
        "time / AdamW", "step ms", "step / AdamW", "compile s",
        "state numbers a parameter",
    )  # fmt: skip
    note = (
        f"Trained on {trials.task.told}. Loss: of validation, after the last step; "
        "medians over the seeds. Minus AdamW's, and better: seed by seed. Steps to the "
        "loss that AdamW ends with in the same seed, and time to it relative to the "
        "whole run of AdamW. All seconds are CPU time on one core."
    )
    return Table(f"{trials.task.name.capitalize()}: results", columns, rows, note)


def _row(trials: Trials, name: str, runs: list[Run], base: list[Run]) -> tuple[Cell, ...]:
    rate, tried = runs[0].rate, [run.rate for run in trials.sweep[name]]
    at_end = len(tried) > 1 and rate in (min(tried), max(tried))
    losses = [run.final_loss for run in runs]
    pairs = list(zip(runs, base, strict=True))
    steps, seconds = zip(*(a.reach(b.final_loss) for a, b in pairs), strict=True)
    relative = [s / b.seconds[-1] for s, b in zip(seconds, base, strict=True)]
    gaps = [a.final_loss - b.final_loss for a, b in pairs]
    better = sum(gap < 0 for gap in gaps)
    step = [run.step_seconds for run in trials.sweep[name] + runs]
    base_step = [run.step_seconds for run in trials.sweep[ADAMW] + base]
    program = trials.programs[name]
    return (
        name, f"{rate:.2g}" + at_end * ", an END of the grid",
        _median(losses), min(losses), max(losses),
        *((None, None) if name == ADAMW else (_median(gaps), f"{better} of {len(runs)}")),
        _median([run.training_loss for run in runs]),
        *map(_reached, (_median(steps), _median(seconds), _median(relative))),
        1e3 * _median(step), ratio(step, base_step),
        program.compiled.cpu_seconds, program.state_numbers,
    )  # fmt: skip


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _reached(value: float) -> Cell:
    return value if np.isfinite(value) else "never"


def sweep_table(trials: Trials, factors: Sequence[float]) -> Table:
    rows = [
        (name, OPTIMIZERS[name].centre, *(run.final_loss for run in runs))
        for name, runs in trials.sweep.items()
    ]
    columns = ("optimizer", "centre", *(f"times {factor:g}" for factor in factors))
    note = "Validation loss after the last step, on a split and a seed of their own."
    title = f"{trials.task.name.capitalize()}: the sweep of learning rates"
    return Table(title, columns, rows, note)


def _settings_table(names: Sequence[str], factors: Sequence[float], seeds: int) -> Table:
    rows = [(name, OPTIMIZERS[name].told) for name in names]
    note = (
        f"The decoupled weight decay is {WEIGHT_DECAY:g} for all. So is the schedule: a "
        "linear rise in a tenth of the steps, then a cosine to zero. Each has one centre "
        f"for both tasks and tries {', '.join(f'{f:g}' for f in factors)} times that, on "
        "a split and a seed that serve for nothing else. The best by the last validation "
        f"loss then runs with new seeds, {seeds} in all, each with its own split, first "
        "weights and order of examples, which all optimizers share."
    )
    return Table("Settings", ("optimizer", "settings"), rows, note)


def draw(trials: Sequence[Trials], path: Path) -> None:
    """Validation loss against steps and against seconds, a row for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (11, 4 * len(trials))
    figure, axes = pyplot.subplots(
        len(trials), 2, figsize=size, layout="constrained", squeeze=False, sharey="row"
    )
    for each, (left, right) in zip(trials, axes, strict=True):
        for number, (name, runs) in enumerate(each.final.items()):
            style = "k:" if name == ADAMW else f"C{number}-"
            losses = np.median([run.losses for run in runs], axis=0)
            seconds = np.median([run.seconds for run in runs], axis=0)
            label = f"{name}, rate {runs[0].rate:.2g}"
            left.plot(runs[0].steps, losses, style, label=label)
            right.plot(seconds, losses, style)
        base = each.final[ADAMW]
        early = _median([run.losses[len(run.losses) // 8] for run in base])
        lowest = min(run.final_loss for runs in each.final.values() for run in runs)
        left.set_ylim(lowest - 0.05 * (early - lowest), early)
        right.set_xlim(left=base[0].seconds[-1] / 20)
        left.set(xlabel="steps", ylabel="validation loss")
        right.set(xlabel="seconds on one core", xscale="log")
        left.set_title(f"{each.task.name}: median over {len(base)} seeds")
        left.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

"""The course of the job, from the announcement to the last word."""

import dataclasses
import time
from pathlib import Path

from ._data import Dataset
from ._files import TIMING, write_json
from ._optimizers import OPTIMIZERS
from ._options import Options
from ._picture import draw
from ._screen import Screen
from ._summary import choose_targets, summarize
from ._train import layer_sizes
from ._trials import CRITERION, LEARNING_RATES, run_trials, Trials
from ._words import paragraph


def run_and_report(options: Options, dataset: Dataset, folder: Path, start: float) -> int:
    """Runs the trials that there is time for, and returns the exit code."""
    screen = Screen()
    options = _fit_batches(options, dataset, screen)
    _announce(options, dataset, screen)
    runs = len(LEARNING_RATES) + options.seeds
    steps = sum(map(options.steps_of, options.batch_sizes))
    screen.total = runs * steps * len(options.optimizers)
    with screen:
        trials = run_trials(options, dataset, screen, start)
    try:
        code = _report(options, dataset, trials, folder, screen)
    except KeyboardInterrupt:
        screen.say(f"\nInterrupted; what was written is in {folder}.")
        return 130
    screen.say(f"This took {time.perf_counter() - start:.0f} s.")
    return 130 if trials.stopped == "interrupted" else code  # as a shell has it


def _fit_batches(options: Options, dataset: Dataset, screen: Screen) -> Options:
    """No batch is larger than the training part."""
    most = len(dataset.x) * 4 // 5
    if max(options.batch_sizes) <= most:
        return options
    screen.say(f"There are {most} examples to train on: no batch is larger.")
    fitted = tuple(dict.fromkeys(min(size, most) for size in options.batch_sizes))
    return dataclasses.replace(options, batch_sizes=fitted)


def _announce(options: Options, dataset: Dataset, screen: Screen) -> None:
    sizes = "-".join(map(str, layer_sizes(dataset)))
    train = len(dataset.x) * 4 // 5
    batches = " and ".join(
        f"batch {size} ({options.steps_of(size)} steps)" for size in options.batch_sizes
    )
    settings = "; ".join(
        f"{name} is {OPTIMIZERS[name].told}" for name in options.optimizers
    )
    rates = ", ".join(f"{rate:g}" for rate in sorted(LEARNING_RATES))
    screen.say(
        f"Data: {dataset.source}; {train:,} to train on, {len(dataset.x) - train:,} to "
        f"validate on, drawn by the seed.\nModel: a tanh network {sizes}, trained by "
        f"{' and '.join(options.optimizers)} at {batches}.\n"
        f"Settings: {settings}.\n"
        f"First a sweep: each optimizer tries the learning rates {rates}, as the peak of "
        f"a cosine schedule, once; what counts is {CRITERION}. Then the best of each "
        f"with {options.seeds} other seed{'s' * (options.seeds != 1)}.\n"
        "On two cores the default takes one to two minutes; this one ends within "
        f"{options.budget:g} s, with fewer seeds if need be (`--budget`). Ctrl-C ends it "
        "at once and keeps what is finished.\n"
    )


def _report(
    options: Options, dataset: Dataset, trials: Trials, folder: Path, screen: Screen
) -> int:
    _tell_why(options, trials, screen)
    targets = choose_targets(options.name, trials)
    rows = summarize(trials, targets)
    if not rows:
        screen.say("No run was finished, so there is nothing to show.")
        if not any(folder.iterdir()):
            folder.rmdir()
        return 1
    for size in trials.batch_sizes:
        if group := [row for row in rows if row.batch_size == size]:
            title = (
                f"{options.name}, batch {size}, {group[0].steps} steps (loss looked at "
                f"every {group[0].every})"
            )
            screen.table(group, title)
    screen.say(f"Medians over seeds. Step times: {TIMING}.\n")
    for row in rows:
        if row.at_edge:
            screen.say(
                f"{row.optimizer} at batch {row.batch_size} chose an end of the sweep's "
                "range: a wider one may serve it better."
            )
    words = paragraph(rows, targets)
    screen.say(words)
    # The numbers first: they take no time, and Ctrl-C in the picture keeps them.
    write_json(folder / "results.json", options, dataset, trials, rows, words)
    draw(trials, targets, f"jaxla: {options.name}", folder / "curves.png")
    screen.say(
        f"\nPicture and numbers: {folder / 'curves.png'} and {folder / 'results.json'}"
    )
    return 0


def _tell_why(options: Options, trials: Trials, screen: Screen) -> None:
    if trials.stopped is None:
        return
    sweeps = sum(run.sweep for run in trials.runs)
    pairs = len(trials.keys)
    why = {
        "interrupted": "Interrupted",
        "budget": f"The budget of {options.budget:g} s was used up",
    }[trials.stopped]
    screen.say(
        f"\n{why}: finished are {sweeps} of {pairs * len(LEARNING_RATES)} runs of the "
        f"sweep and {len(trials.runs) - sweeps} of {pairs * options.seeds} runs with the "
        "best learning rates."
    )

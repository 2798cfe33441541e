"""The picture: validation loss against steps and against seconds."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ._optimizers import OPTIMIZERS
from ._train import Run
from ._trials import Trials


# Okabe and Ito's, which people with any kind of colour vision can tell apart; a dash
# pattern each for print in grey.
_COLOURS = (
    "#D55E00", "#0072B2", "#009E73", "#CC79A7",
    "#56B4E9", "#E69F00", "#000000", "#F0E442",
)  # fmt: skip
_DASHES = (
    (), (6, 1.5), (2, 1.5), (6, 1.5, 1.5, 1.5), (1, 1), (4, 1.5, 1, 1.5), (10, 2), (3, 3),
)  # fmt: skip


def draw(trials: Trials, targets: tuple[float, ...], title: str, path: Path) -> None:
    """Writes a PNG with a row for each batch size."""
    sizes = [size for size in trials.batch_sizes if _runs_at(trials, size)]
    figure = Figure(figsize=(11, 1.1 + 3.7 * len(sizes)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\nbold: median over seeds; thin: each seed")
    axes = figure.subplots(len(sizes), 2, squeeze=False, sharey="row")
    for (left, right), size in zip(axes, sizes, strict=True):
        _draw_curves(left, trials, size, targets, "steps")
        _draw_curves(right, trials, size, targets, "seconds")
        _set_limits(left, trials, size, targets)
        left.set(title=f"batch {size}", xlabel="steps", ylabel="validation loss")
        right.set(title=f"batch {size}", xlabel="time of these steps (s)")
        left.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=130)


def _draw_curves(axis, trials: Trials, size: int, targets, field: str) -> None:
    for target in targets:
        axis.axhline(target, color="0.6", linewidth=0.8, linestyle=":")
    for name in trials.optimizers:
        runs = trials.final((size, name))
        if not runs:
            continue
        style = list(OPTIMIZERS).index(name)
        colour, dashes = _COLOURS[style], _DASHES[style]
        for run in runs:
            axis.plot(getattr(run, field), run.losses, color=colour, lw=0.6, alpha=0.45)
        x = np.median([getattr(run, field) for run in runs], axis=0)
        y = np.median([run.losses for run in runs], axis=0)
        count = f"{len(runs)} seeds" if len(runs) > 1 else "1 run"
        label = f"{name}, rate {runs[0].learning_rate:g} ({count})"
        axis.plot(x, y, color=colour, lw=2, dashes=dashes, label=label)
    axis.set_xlim(left=0)
    axis.spines[["top", "right"]].set_visible(False)


def _set_limits(axis, trials: Trials, size: int, targets) -> None:
    """From a little below the lowest loss to where the curves part."""
    runs = _runs_at(trials, size)
    lowest = min(run.best_loss for run in runs)
    if not np.isfinite(lowest):
        return
    top = 2.5 * max([lowest, *targets])
    axis.set_ylim(max(0, lowest - 0.08 * (top - lowest)), top)
    for target in targets:
        axis.annotate(
            f"{target:.3g}",
            (1, target),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color="0.4",
        )


def _runs_at(trials: Trials, size: int) -> list[Run]:
    return [run for name in trials.optimizers for run in trials.final((size, name))]

"""What the user sees: a live bar on a terminal, plain lines elsewhere; the table."""

import math
from collections.abc import Sequence
from types import TracebackType

import rich.box
import rich.console
import rich.progress
import rich.table

from ._summary import Reached, Row
from ._train import Program, Run


class Screen:
    """Tells of the trials while they go on, and shows the table at the end."""

    def __init__(self, console: rich.console.Console | None = None):
        self.console = console or _console()
        self.total = 0
        self._done = 0  # steps before the present run
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("loss {task.fields[loss]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=self.console,
            # Often enough for the eye, and seldom enough not to show in the timings.
            refresh_per_second=4,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, loss="-")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.update(self._task, visible=False)
        self._bar.stop()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def compiling(self, optimizer: str, batch_size: int) -> None:
        text = f"compiling {optimizer} at batch {batch_size}"
        self._bar.update(self._task, description=text, total=self.total)
        if not self.console.is_terminal:
            self.say(text)

    def begin(
        self, program: Program, learning_rate: float, seed: int, sweep: bool
    ) -> None:
        part = "sweep" if sweep else f"seed {seed}"
        text = f"{part}, batch {program.batch_size}, {program.optimizer}"
        self._bar.update(self._task, description=f"{text}, rate {learning_rate:g}")

    def advance(self, step: int, loss: float) -> None:
        self._bar.update(self._task, completed=self._done + step, loss=f"{loss:.3f}")

    def end(self, run: Run) -> None:
        self._done += len(run.step_seconds)
        part = "sweep " if run.sweep else f"seed {run.seed}"
        steps, seconds = len(run.step_seconds), run.seconds[-1]
        self.say(
            f"{part}  batch {run.batch_size:<5} {run.optimizer:<8} rate "
            f"{run.learning_rate:<6g} best loss {run.best_loss:.3f}  accuracy "
            f"{run.accuracy:.1%}  {steps} steps in {seconds:.2f} s"
        )

    def table(self, rows: Sequence[Row], title: str) -> None:
        """One column for each optimizer: narrow enough for any terminal."""
        table = rich.table.Table(
            title=title, box=rich.box.SIMPLE_HEAD, title_justify="left"
        )
        table.add_column("")
        for row in rows:
            table.add_column(row.optimizer, justify="right")
        columns = [_cells(row) for row in rows]
        for name in columns[0]:
            table.add_row(name, *(column[name] for column in columns))
        self.console.print(table)


def _console() -> rich.console.Console:
    console = rich.console.Console()
    return console if console.is_terminal else rich.console.Console(width=100)


def _cells(row: Row) -> dict[str, str]:
    cells = {
        "learning rate, chosen by the sweep": f"{row.learning_rate:g}",
        "seeds": "0 (the sweep's)" if row.from_sweep else str(row.seeds),
    }
    for target, reached in row.reached.items():
        cells[f"steps to loss {target:.3g}"] = _reached(reached, row, "steps")
        cells[f"seconds to loss {target:.3g}"] = _reached(reached, row, "seconds")
    return cells | {
        "best validation loss": f"{row.best_loss:.3f}",
        "accuracy at the end": f"{row.accuracy:.1%}",
        "step, median": f"{1e3 * row.step_median:.2f} ms",
        "step, worst": f"{1e3 * row.step_worst:.2f} ms",
        "compile time": f"{row.compile_seconds:.1f} s",
        "state, bytes a parameter": f"{row.state_bytes:.1f}",
        "state, numbers a parameter": f"{row.state_numbers:.2f}",
    }


def _reached(reached: Reached, row: Row, field: str) -> str:
    value = getattr(reached, field)
    if math.isinf(value):
        text = "never" if reached.count == 0 else "not"
    else:
        text = f"{value:g}" if field == "steps" else f"{value:.2f}"
    return (
        text
        if reached.count in (0, row.seeds)
        else f"{text} ({reached.count} of {row.seeds})"
    )

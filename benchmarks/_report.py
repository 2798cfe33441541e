"""What a benchmark leaves: tables, as Markdown to read and as JSON to compute with."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any


Cell = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells under named columns, and what to know to read them."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ""

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"`rows` of {self.title!r} must have {len(self.columns)} cells; "
                    f"got {row!r}."
                )


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that was to be reached: `measured` must be at most `limit`."""

    what: str
    limit: float
    measured: float

    @property
    def reached(self) -> bool:
        return self.measured <= self.limit


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything about one run of one benchmark.

    - `name`: of the script, and of the files that are written.
    - `question`: what it measures, in a sentence or two.
    - `command`, `date`, `environment`: how, when and with what it was made.
    - `load_average`: of the machine at the start and at the end.
    - `pictures`: names of PNG files beside the report.
    """

    name: str
    question: str
    command: str
    date: str
    environment: dict[str, Any]
    load_average: tuple[float | None, float | None]
    tables: list[Table]
    figures: list[Figure] = dataclasses.field(default_factory=list)
    pictures: list[str] = dataclasses.field(default_factory=list)

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        for entry, figure in zip(content["figures"], self.figures, strict=True):
            entry["reached"] = figure.reached
        # JSON has no infinity and no NaN.
        return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        start, end = self.load_average
        parts = [f"# {self.name}", self.question]
        parts.append(
            f"Made on {self.date} by\n\n    {self.command}\n\n"
            f"on {self.environment['machine']}; load average {start} at the start, "
            f"{end} at the end."
        )
        if self.figures:
            rows: list[tuple[Cell, ...]] = [
                (figure.what, figure.limit, figure.measured, figure.reached)
                for figure in self.figures
            ]
            columns = ("figure to reach", "at most", "measured", "reached")
            parts.append(_markdown(Table("", columns, rows)))
        for table in self.tables:
            parts += [f"## {table.title}", _markdown(table)]
            parts += [table.note] if table.note else []
        parts += [f"![{self.name}]({picture})" for picture in self.pictures]
        rows = [(name, str(value)) for name, value in self.environment.items()]
        parts += ["## Versions", _markdown(Table("", ("what", "which"), rows))]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> None:
        """Writes `<name>.json` and `<name>.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(self.to_json())
        (folder / f"{self.name}.md").write_text(self.to_markdown())


def format_cell(cell: Cell) -> str:
    """A cell as the Markdown shows it: three significant digits."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        if not math.isfinite(cell) or cell == 0 or 1e-3 <= abs(cell) < 1e5:
            digits = 0 if abs(cell) >= 100 else None
            return f"{cell:.0f}" if digits == 0 else f"{cell:.3g}"
        return f"{cell:.1e}"
    return cell.replace("|", "\\|")


def _markdown(table: Table) -> str:
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    lines += ["| " + " | ".join(map(format_cell, row)) + " |" for row in table.rows]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

"""One command line for all benchmarks, and one way from measurements to files."""

import argparse
import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ._environment import environment, load_average, use_cores
from ._report import Figure, Report, Table


RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a script is asked for on the command line.

    - `smoke`: only show that it runs, in seconds.
    - `rounds`: how often to repeat each measurement, or `None` for the script's
        own choice.
    - `out`: where to write, or `None` for nowhere.
    - `cores`: how many to use, or `None` for the script's own choice.
    """

    smoke: bool
    rounds: int | None
    out: Path | None
    cores: int | None = None

    def choose(self, full: Any, smoke: Any) -> Any:
        """`full`, or `smoke` in smoke mode."""
        return smoke if self.smoke else full

    def num_rounds(self, full: int, smoke: int = 1) -> int:
        return self.rounds or self.choose(full, smoke)


@dataclasses.dataclass
class Findings:
    """What a script hands back."""

    tables: list[Table]
    figures: list[Figure] = dataclasses.field(default_factory=list)
    peers: Sequence[str] = ()
    pictures: list[str] = dataclasses.field(default_factory=list)


def run_script(
    name: str,
    question: str,
    measure: Callable[[Settings], Findings],
    arguments: Sequence[str] | None = None,
    *,
    cores: int | None = None,
) -> Report:
    """Runs a benchmark, prints its report, and writes it unless in smoke mode.

    **Arguments:**

    - `name`: of the script: `benchmarks/<name>.py`.
    - `question`: what it measures.
    - `measure`: takes the settings and does the work.
    - `arguments`: of the command line; those of this process by default.
    - `cores`: how many the figures are meant for, unless the command line says so;
        all by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    settings = _parse(name, question, arguments)
    if not settings.smoke:
        use_cores(settings.cores or cores)
    start, began = load_average(), time.perf_counter()
    findings = measure(settings)
    report = Report(
        name=name,
        question=" ".join(question.split()),
        command=_command(name, settings),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        environment=environment(findings.peers),
        load_average=(start, load_average()),
        tables=findings.tables,
        figures=findings.figures,
        pictures=findings.pictures,
    )
    print(report.to_markdown())
    if settings.out is not None:
        report.write(settings.out)
    say(f"done in {time.perf_counter() - began:.0f} s")
    return report


def say(line: str) -> None:
    """A line of progress, apart from the report on standard output."""
    print(line, file=sys.stderr, flush=True)


def _parse(name: str, question: str, arguments: Sequence[str]) -> Settings:
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=question)
    parser.add_argument(
        "--smoke", action="store_true", help="only show that it runs; writes no results"
    )
    parser.add_argument("--rounds", type=int, help="repetitions of each measurement")
    parser.add_argument("--cores", type=int, help="how many cores to use")
    parser.add_argument("--out", type=Path, help="folder for the results")
    given = parser.parse_args(arguments)
    for option in ("rounds", "cores"):
        value = getattr(given, option)
        if value is not None and value < 1:
            parser.error(f"--{option} must be at least 1; got {value}")
    out = given.out or (None if given.smoke else RESULTS)
    return Settings(given.smoke, given.rounds, out, given.cores)


def _command(name: str, settings: Settings) -> str:
    words = [f"python -m benchmarks.{name}"]
    words += ["--smoke"] if settings.smoke else []
    words += [f"--rounds {settings.rounds}"] if settings.rounds else []
    words += [f"--cores {settings.cores}"] if settings.cores else []
    return " ".join(words)

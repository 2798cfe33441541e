"""The command line of `python -m jaxla`."""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ._optimizers import OPTIMIZERS


TASKS = ("mnist", "digits")

_DESCRIPTION = """\
Trains a small classifier on real data with several optimizers. The learning rate of
each is chosen by the same sweep; then each runs with several seeds. Ends with a table,
a paragraph in words, a picture of the curves, and a JSON file with all numbers.
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user asked for."""

    task: str = "mnist"
    data: Path | None = None
    optimizers: tuple[str, ...] = ("adamw", "shampoo")
    batch_sizes: tuple[int, ...] = (128, 1000)
    steps: int | None = None
    seed: int = 0
    seeds: int = 3
    budget: float = 170.0
    out: Path | None = None

    def steps_of(self, batch_size: int) -> int:
        """More examples in a step, fewer steps: as one over the square root."""
        default = round(300 * math.sqrt(128 / batch_size), -1)
        return self.steps or int(min(max(default, 50), 1000))

    @property
    def name(self) -> str:
        """Of the task, for titles and folders."""
        return self.data.stem if self.data else self.task


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Reads the command line; a mistake in it ends the program with code 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.task and given.data:
        parser.error("`--task` and `--data` exclude each other; give one of them.")
    fields = {name: value for name, value in vars(given).items() if value is not None}
    for name in ("optimizers", "batch_sizes"):
        if name in fields:
            fields[name] = tuple(dict.fromkeys(fields[name]))  # each once, in order
    return Options(**fields)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` lists the options)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m jaxla", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--task",
        choices=TASKS,
        help="mnist: 5,000 digits of 28x28 pixels, the default; digits: 1,797 of 8x8",
    )
    add(
        "--data",
        type=Path,
        metavar="FILE.npz",
        help="your own data instead: `x` of shape (n, features), or with more axes, and "
        "`y`, n integer labels",
    )
    add(
        "--optimizers",
        nargs="+",
        choices=list(OPTIMIZERS),
        metavar="NAME",
        help=f"any of {', '.join(OPTIMIZERS)}; the others are compared with the first "
        "(default: adamw shampoo)",
    )
    add(
        "--batch-sizes",
        nargs="+",
        type=_positive_int,
        metavar="N",
        help="examples in a step (default: 128 1000)",
    )
    add(
        "--steps",
        type=_positive_int,
        metavar="N",
        help="steps of every run (default: 300 at batch 128, fewer at larger ones)",
    )
    add(
        "--seed",
        type=_seed,
        metavar="N",
        help="draws the split, the initial weights and the batches (default: 0)",
    )
    add(
        "--seeds",
        type=_positive_int,
        metavar="N",
        help="runs of each optimizer at its best learning rate (default: 3)",
    )
    add(
        "--budget",
        type=_positive_float,
        metavar="SECONDS",
        help="time to stay within, with fewer seeds if need be (default: 170)",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write (default: jaxla-results/<task>-<time>)",
    )
    return parser


def _positive_int(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 0 < number < 10**7:
        raise argparse.ArgumentTypeError(f"expected a positive integer; got {text!r}.")
    return number


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(
            f"expected an integer from 0 to 2147483647; got {text!r}."
        )
    return int(text)


def _positive_float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(
            f"expected a positive number of seconds; got {text!r}."
        )
    return number

"""One table of times: several methods on several inputs, relative to one of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ._harness import say, Settings
from ._report import Cell, Table
from ._timing import compile_interleaved, Compiled, ratio, summary, time_interleaved


COLUMNS = (
    "input", "method", "median ms", "quartile 1", "quartile 3", "CPU ms", "time / base",
    "compile s", "HLO instructions", "peak MiB", "samples",
)  # fmt: skip


def timing_table(
    title: str,
    inputs: Mapping[str, Sequence[Any]],
    methods: Mapping[str, Callable],
    base: str,
    settings: Settings,
    *,
    host: Mapping[str, Callable] | None = None,
    rounds: int = 25,
    budget: float = 6.0,
    note: str = "",
) -> tuple[Table, dict[tuple[str, str], float]]:
    """Times every method on every input, methods taking turns.

    Methods that compile to the same program are timed as one: what would differ between
    them is noise.

    **Arguments:**

    - `inputs`: arguments of the methods, by what to call them.
    - `methods`: the competitors.
    - `base`: the method that ratios are relative to.
    - `host`: competitors that are not compiled, and get NumPy arrays.
    - `rounds`, `budget`: at most so many rounds, and about so many seconds an input.

    **Returns:**

    The table, and the ratio of wall times for each input and method.
    """
    rows, ratios = [], {}
    for label, args in inputs.items():
        jobs = {name: (fn, args) for name, fn in methods.items()}
        made = compile_interleaved(jobs, rounds=1, warmup=0)
        thunks = {
            name: functools.partial(each[-1].call, *args) for name, each in made.items()
        }
        arrays = [np.asarray(arg) for arg in args] if host else []
        thunks |= {
            name: functools.partial(fn, *arrays) for name, fn in (host or {}).items()
        }
        programs = {name: each[-1].program for name, each in made.items()}
        first = {program: name for name, program in reversed(programs.items())}
        same = {name: first[programs[name]] if name in made else name for name in thunks}
        taken = time_interleaved(
            {name: thunks[name] for name in dict.fromkeys(same.values())},
            rounds=settings.num_rounds(rounds, 2),
            budget=budget,
        )
        for name, twin in same.items():
            samples = taken[twin]
            wall = summary(1e3 * samples.wall)
            ratios[label, name] = ratio(samples.wall, taken[same[base]].wall)
            row: tuple[Cell, ...] = (
                label, name, wall["median"], wall["q1"], wall["q3"],
                1e3 * float(np.median(samples.cpu)), ratios[label, name],
                *_compiled_cells(made.get(name)), int(wall["samples"]),
            )  # fmt: skip
            rows.append(row)
        say(f"{title}: {label}")
    told = f"The base is {base}; the ratio is the median of those within each round."
    return Table(title, COLUMNS, rows, " ".join([told, note]).strip()), ratios


def _compiled_cells(made: Sequence[Compiled] | None) -> tuple[Cell, ...]:
    if made is None:
        return None, None, None
    return made[-1].seconds, made[-1].instructions, made[-1].peak_bytes / 2**20


def worst_ratio(
    ratios: Mapping[tuple[str, str], float], method: str, labels: Sequence[str] = ()
) -> float:
    """The largest ratio of a method, over the inputs named or over all."""
    return max(
        value
        for (label, name), value in ratios.items()
        if name == method and (not labels or label in labels)
    )

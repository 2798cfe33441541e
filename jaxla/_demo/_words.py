"""What happened, in a paragraph: every word follows from the numbers of the table."""

import itertools
import math
from collections.abc import Sequence

from ._summary import Row


def paragraph(rows: Sequence[Row], targets: Sequence[float]) -> str:
    """Compares every optimizer with the first, at each batch size."""
    sentences, wins = [], {}
    for size, group in itertools.groupby(rows, key=lambda row: row.batch_size):
        base, *others = group
        for row in others:
            told = [_to_target(base, row, target) for target in targets]
            besides = _besides(base, row)
            sentences.append(" ".join([f"Batch {size}.", *told, besides]))
            for target in targets:
                wins.setdefault((row.optimizer, base.optimizer), []).append(
                    _firsts(base, row, target)
                )
    if not sentences:
        return "There is nothing to compare: fewer than two optimizers finished a run."
    total = [_all_in_all(name, base, firsts) for (name, base), firsts in wins.items()]
    return " ".join([*sentences, *total])


def _to_target(base: Row, row: Row, target: float) -> str:
    there = [r for r in (row, base) if math.isfinite(r.reached[target].steps)]
    loss = f"a validation loss of {target:.3g}"
    if not there:
        return f"{_missed(row, target)} {loss}, {_missed(base, target)} it either."
    first, *second = [
        f"{r.optimizer} took {_count(r.reached[target].steps, 'step')} and "
        f"{_seconds(r.reached[target].seconds)}{_in_some_seeds(r, target)}"
        for r in there
    ]
    if not second:
        other = base if there == [row] else row
        return f"To {loss} {first}; {_missed(other, target)} it."
    a, b = base.reached[target], row.reached[target]
    if not a.seconds or not b.seconds:  # below the target before the first step
        return f"To {loss} {first}, {second[0]}."
    return (
        f"To {loss} {first}, {second[0]}: {_number(b.steps / a.steps)} times the steps, "
        f"{_number(b.seconds / a.seconds)} times the seconds."
    )


def _in_some_seeds(row: Row, target: float) -> str:
    count = row.reached[target].count
    return "" if count == row.seeds else f" (in {count} of {row.seeds} seeds)"


def _missed(row: Row, target: float) -> str:
    count = row.reached[target].count
    if count:
        return f"{row.optimizer} in the median of {row.seeds} seeds did not reach"
    return f"{row.optimizer} never reached"


def _besides(base: Row, row: Row) -> str:
    return (
        f"The lowest loss was {row.best_loss:.3f} with {row.optimizer} and "
        f"{base.best_loss:.3f} with {base.optimizer}; compilation, which is not counted "
        f"in these times, took {_seconds(row.compile_seconds)} and "
        f"{_seconds(base.compile_seconds)}."
    )


def _firsts(base: Row, row: Row, target: float) -> tuple[bool, bool]:
    """Was `row` there first, in steps and in seconds?"""
    a, b = base.reached[target], row.reached[target]
    return b.steps < a.steps, b.seconds < a.seconds


def _all_in_all(name: str, base: str, firsts: Sequence[tuple[bool, bool]]) -> str:
    steps, seconds = map(sum, zip(*firsts, strict=True))
    return (
        f"All in all, of {_count(len(firsts), 'case')} {name} was ahead of {base} in "
        f"{steps} counted in steps, and in {seconds} counted in seconds."
    )


def _count(number: float | int, noun: str) -> str:
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def _seconds(seconds: float) -> str:
    return f"{_number(seconds)} s"


def _number(number: float) -> str:
    """With two digits, or as an integer."""
    return f"{number:.2g}" if number < 99 else f"{number:.0f}"

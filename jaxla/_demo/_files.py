"""The JSON file: everything that was measured, and with what."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ._data import Dataset
from ._optimizers import OPTIMIZERS
from ._options import Options
from ._summary import Row
from ._trials import CRITERION, LEARNING_RATES, Trials


_PACKAGES = ("jaxla", "jax", "jaxlib", "optax", "equinox", "numpy")

TIMING = (
    "time from the call of a step that was compiled ahead until its results are there; "
    "the first executed step is a warm-up on copies and does not count, nor does any "
    "evaluation; the data are on the device; the worst step and the median of each run, "
    "then the median over seeds"
)


def write_json(
    path: Path,
    options: Options,
    dataset: Dataset,
    trials: Trials,
    rows: Sequence[Row],
    words: str,
) -> None:
    """Writes all numbers; what is not finite becomes null."""
    record = {
        "task": options.name,
        "data": {"source": dataset.source, "shape": dataset.x.shape}
        | {"classes": dataset.classes},
        "options": dataclasses.asdict(options),
        "settings": {name: OPTIMIZERS[name].told for name in trials.optimizers},
        "stopped": trials.stopped,
        "versions": versions(),
        "device": device(),
        "timing": TIMING,
        "sweep": {
            "learning_rates": sorted(LEARNING_RATES),
            "criterion": CRITERION,
            "runs": [_run(run) for key in trials.keys for run in trials.sweep(key)],
        },
        "runs": [_run(run) for run in trials.runs if not run.sweep],
        "table": [_table_row(row) for row in rows],
        "words": words,
    }
    text = json.dumps(_plain(record), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of Python and the packages that matter."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | packages


def device() -> dict[str, Any]:
    """What the steps ran on."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def _run(run) -> dict[str, Any]:
    record = dataclasses.asdict(run) | {"best_loss": run.best_loss}
    if run.sweep:
        del record["step_seconds"]
    return record


def _table_row(row: Row) -> dict[str, Any]:
    reached = [
        {"loss": target} | dataclasses.asdict(value)
        for target, value in row.reached.items()
    ]
    return dataclasses.asdict(row) | {"reached": reached}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 7) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value

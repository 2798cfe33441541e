"""The whole job on small data: what is printed, and what is written."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxla._demo import _trials, main


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes far apart, as a file."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, x=rng.normal(size=(60, 2, 4)) + 3 * y[:, None, None], y=y)
    return path


def arguments(data, out, *more):
    return ["--data", str(data), "--out", str(out), "--steps", "5", *more]


def numbers(value):
    """All numbers of a JSON file."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for entry in value for number in numbers(entry)]
    return [value] if isinstance(value, float | int) else []


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """One job that was let finish, and what it wrote."""
    out = tmp_path_factory.mktemp("out") / "deep" / "folder"
    assert main(arguments(data, out, "--batch-sizes", "16", "--seeds", "2")) == 0
    return out, json.loads((out / "results.json").read_text())


def test_json_is_complete_and_finite(finished):
    _, record = finished
    assert record["task"] == "mine"
    assert record["stopped"] is None
    assert set(record["versions"]) >= {"jaxla", "jax", "optax", "python"}
    assert record["device"]["platform"]
    assert "damping 1e-4" in record["settings"]["shampoo"]
    assert len(record["sweep"]["runs"]) == 2 * len(_trials.LEARNING_RATES)
    assert len(record["runs"]) == 2 * 2
    assert [row["optimizer"] for row in record["table"]] == ["adamw", "shampoo"]
    for run in record["runs"]:
        assert run["steps"] == [0, 1, 2, 3, 4, 5]
        assert len(run["losses"]) == len(run["seconds"]) == 6
        assert np.all(np.diff(run["seconds"]) > 0)
        assert run["best_loss"] == min(run["losses"][1:])
        assert len(run["step_seconds"]) == 5
        assert sum(run["step_seconds"]) == pytest.approx(run["seconds"][-1], abs=1e-5)
    assert np.isfinite(numbers(record)).all()
    assert "All in all" in record["words"]


def test_chosen_learning_rate_is_the_best_of_the_sweep(finished):
    _, record = finished
    for row in record["table"]:
        sweep = [
            run for run in record["sweep"]["runs"] if run["optimizer"] == row["optimizer"]
        ]
        best = min(sweep, key=lambda run: run["best_loss"])
        assert row["learning_rate"] == best["learning_rate"]


def test_both_optimizers_see_the_same(finished):
    _, record = finished
    first = {(run["seed"], run["losses"][0]) for run in record["runs"]}
    assert len(first) == 2  # seeds: the start does not depend on the optimizer
    adamw = next(row for row in record["table"] if row["optimizer"] == "adamw")
    assert adamw["state_numbers"] == pytest.approx(2, abs=0.01)
    assert adamw["state_bytes"] == pytest.approx(8, abs=0.01)


def test_training_lowers_the_loss(finished):
    _, record = finished
    runs = record["sweep"]["runs"]  # of one split: that of the lowest rate is slowest
    lowest = [run for run in runs if run["learning_rate"] == min(_trials.LEARNING_RATES)]
    assert len(lowest) == 2
    for run in lowest:
        assert run["losses"][-1] < run["losses"][1] < run["losses"][0]


def test_picture_is_a_png(finished):
    out, _ = finished
    assert (out / "curves.png").read_bytes().startswith(PNG)


def test_screen(data, tmp_path, capsys):
    more = "--optimizers", "sgd", "muon", "--batch-sizes", "99", "--seeds", "1"
    assert main(arguments(data, tmp_path, *more)) == 0
    out, _ = capsys.readouterr()
    words = " ".join(out.split())
    assert "48 to train on, 12 to validate on" in words
    assert "trained by sgd and muon at batch 48 (5 steps)" in words
    assert "There are 48 examples to train on: no batch is larger" in words
    assert "ends within 170 s" in words
    assert "sgd is gradient descent with Nesterov momentum 0.9; muon is" in words
    assert "learning rates 0.002, 0.005, 0.01, 0.02, 0.05" in words
    assert "the lowest validation loss" in words
    rows = ("steps to loss", "step, worst", "compile time", "numbers a parameter")
    assert all(row in words for row in rows)
    assert "of 2 cases muon was ahead of sgd" in words
    assert str(tmp_path / "results.json") in out.replace("\n", "")


def test_ctrl_c_keeps_what_was_finished(data, tmp_path, capsys, monkeypatch):
    train, count = _trials.train, 0

    def interrupted(*args, watch, **kwargs):
        nonlocal count
        count += 1

        def watch_until(step, loss):
            if count == 3 and step == 2:
                raise KeyboardInterrupt
            watch(step, loss)

        return train(*args, watch=watch_until, **kwargs)

    monkeypatch.setattr(_trials, "train", interrupted)
    more = "--optimizers", "sgd", "--batch-sizes", "16"
    assert main(arguments(data, tmp_path, *more)) == 130
    out, _ = capsys.readouterr()
    assert "Interrupted: finished are 2 of 5 runs of the sweep" in " ".join(out.split())
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["stopped"] == "interrupted"
    assert len(record["sweep"]["runs"]) == 2
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_budget_that_allows_nothing(data, tmp_path, capsys):
    out = tmp_path / "new"
    assert main(arguments(data, out, "--budget", "1")) == 1
    words = " ".join(capsys.readouterr().out.split())
    assert "The budget of 1 s was used up: finished are 0 of" in words
    assert "nothing to show" in words
    assert not out.exists()


def test_bad_data_is_told_in_a_sentence(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "none.npz")]) == 2
    out, error = capsys.readouterr()
    assert error.endswith("none.npz does not exist.\n")
    assert error.count("\n") == 1
    assert not out


def test_folder_that_cannot_be_made(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(arguments(data, tmp_path / "file")) == 2
    assert "cannot write to the folder" in capsys.readouterr().err


def test_missing_extra(monkeypatch, capsys):
    find = importlib.util.find_spec

    def without(name, package=None):
        return None if name in ("rich", "mlxtend") else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert main([]) == 2
    error = capsys.readouterr().err
    assert "needs rich and mlxtend, not installed here" in error
    assert 'pip install "jaxla[demo]"' in error


def test_import_brings_in_nothing_of_the_demo():
    code = "import jaxla, sys; print([name for name in sys.modules if name.split('.')[0] "
    code += "in ('matplotlib', 'rich', 'sklearn', 'mlxtend') or '_demo' in name])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert told.stdout.strip() == b"[]"


def test_as_a_command(tmp_path):
    more = "--task digits --steps 5 --seeds 1 --batch-sizes 64 --optimizers adamw sgd"
    done = subprocess.run(
        [sys.executable, "-m", "jaxla", *more.split()],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "jaxla-results").iterdir()
    assert folder.name.startswith("digits-")
    assert {path.name for path in folder.iterdir()} == {"curves.png", "results.json"}
    assert "64-256-128-10" in done.stdout

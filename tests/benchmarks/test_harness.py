"""The harness measures what it says. No test here looks at how long anything took."""

import importlib
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import _environment, _harness, _peers, _per_tile, _timing
from benchmarks._report import Figure, format_cell, Report, Table
from jaxla.kron import Blocks
from jaxla.optim import scale_by_shampoo


TABLE = Table(
    "Times", ("name", "ms", "n", "ok", "none"), [("a|b", 1.2345, 12345, True, None)], "N."
)


@pytest.fixture
def calls():
    return []


def recorders(calls, names="ABC"):
    """Thunks that note down who was called; what they return is not an array."""
    return {name: lambda name=name: calls.append(name) for name in names}


class TestTiming:
    def test_competitors_take_turns_in_alternating_order(self, calls):
        _timing.time_interleaved(recorders(calls), rounds=3, warmup=0)
        assert "".join(calls) == "ABC" + "CBA" + "ABC"

    def test_warmup_is_called_and_not_counted(self, calls):
        taken = _timing.time_interleaved(recorders(calls), rounds=4, warmup=3)
        assert len(calls) == 3 * (3 + 4)
        assert {name: s.wall.shape for name, s in taken.items()} == dict.fromkeys(
            "ABC", (4,)
        )

    def test_waits_for_the_result_and_reads_both_clocks(self, monkeypatch):
        now = {"wall": 0.0, "cpu": 0.0}
        monkeypatch.setattr(_timing.time, "perf_counter", lambda: now["wall"])
        monkeypatch.setattr(_timing.time, "process_time", lambda: now["cpu"])

        def wait(array):  # the work is done while one waits for it
            now["wall"] += float(array)
            now["cpu"] += 2 * float(array)

        monkeypatch.setattr(_timing.jax, "block_until_ready", wait)
        durations = iter([100.0, 1.0, 2.0, 4.0])  # the first is the warm-up's
        taken = _timing.time_interleaved(
            {"A": lambda: next(durations)}, rounds=3, warmup=1
        )
        np.testing.assert_array_equal(taken["A"].wall, [1, 2, 4])
        np.testing.assert_array_equal(taken["A"].cpu, [2, 4, 8])

    def test_stops_on_budget_after_three_rounds(self, calls):
        taken = _timing.time_interleaved(
            recorders(calls), rounds=50, warmup=1, budget=0.0
        )
        assert taken["A"].wall.shape == (3,)

    def test_ratios_are_taken_within_a_round(self):
        # A machine that is busy in the second round, and interrupts the base in the
        # third: the ratio of the medians would be 0.4.
        assert _timing.ratio([2, 20, 4], [1, 10, 40]) == 2
        with pytest.raises(ValueError, match=r"one entry a round each; got \(1,\)"):
            _timing.ratio([1.0], [1.0, 2.0])

    def test_summary(self):
        numbers = _timing.summary(list(range(101)))
        assert numbers == {
            "median": 50, "q1": 25, "q3": 75, "min": 0, "max": 100, "p99": 99,
            "samples": 101,
        }  # fmt: skip


class TestCompiling:
    def test_the_executable_and_its_sizes(self):
        made = _timing.compile_ahead(
            lambda x, y: jnp.sin(x) @ y, jnp.ones((8, 4)), np.eye(4)
        )
        np.testing.assert_allclose(
            made.call(jnp.ones((8, 4)), np.eye(4)), np.sin(np.ones((8, 4))), rtol=1e-5
        )
        assert made.memory["arguments"] == 4 * (8 * 4 + 4 * 4)
        assert made.memory["outputs"] == 4 * 8 * 4
        assert made.peak_bytes >= 4 * (8 * 4 + 4 * 4 + 8 * 4)
        assert made.flops is None or made.flops >= 2 * 8 * 4 * 4
        # At least a sine and a product, and a line around each module.
        assert 3 <= made.instructions < made.lines
        assert made.seconds == made.lower_seconds + made.compile_seconds
        assert made.cpu_seconds == made.lower_cpu + made.compile_cpu

    def test_a_larger_program_has_more_instructions(self):
        def tower(height):
            def fn(x):
                for _ in range(height):
                    x = jnp.sin(x) @ x
                return x

            return _timing.compile_ahead(fn, jnp.ones((4, 4)))

        assert tower(6).instructions > tower(1).instructions

    def test_every_round_compiles_anew(self, calls):
        def job(name):
            return (lambda x: (calls.append(name), x + 1)[1], (jnp.zeros(2),))

        made = _timing.compile_interleaved(
            {name: job(name) for name in "AB"}, rounds=2, warmup=1
        )
        # One trace each in a warm-up round and in two that count.
        assert "".join(calls) == "BA" + "AB" + "BA"
        assert [len(all_) for all_ in made.values()] == [2, 2]

    def test_persistent_cache_is_off_inside_and_as_before_outside(self, monkeypatch):
        seen = []
        before = jax.config.jax_enable_compilation_cache

        def fn(x):
            seen.append(jax.config.jax_enable_compilation_cache)
            return x + 1

        _timing.compile_ahead(fn, 1.0)
        assert seen == [False]
        assert jax.config.jax_enable_compilation_cache == before


class TestReport:
    def report(self, **changes):
        fields = dict(
            name="some",
            question="How long?",
            command="python -m benchmarks.some",
            date="2026-01-01 00:00 UTC",
            environment=_environment.environment(["psgdax"]),
            load_average=(0.5, 1.25),
            tables=[TABLE],
            figures=[Figure("ratio", 2, 1.5), Figure("other", 2, float("inf"))],
            pictures=["some.png"],
        )
        return Report(**{**fields, **changes})

    def test_json_has_everything(self):
        report = self.report()
        content = json.loads(report.to_json())
        assert content["tables"][0]["rows"] == [["a|b", 1.2345, 12345, True, None]]
        assert content["figures"] == [
            {"what": "ratio", "limit": 2, "measured": 1.5, "reached": True},
            {"what": "other", "limit": 2, "measured": "inf", "reached": False},
        ]
        for name in ("name", "question", "command", "date", "environment", "pictures"):
            assert content[name] == getattr(report, name)
        assert content["load_average"] == [0.5, 1.25]

    def test_markdown_agrees_with_json(self):
        report = self.report()
        text, content = report.to_markdown(), json.loads(report.to_json())
        for table in content["tables"]:
            assert f"## {table['title']}" in text
            assert table["note"] in text
            assert "| " + " | ".join(table["columns"]) + " |" in text
            for row in table["rows"]:
                assert "| " + " | ".join(map(format_cell, row)) + " |" in text
        assert "| ratio | 2 | 1.5 | yes |" in text
        assert "| other | 2 | inf | no |" in text
        for name in ("question", "command", "date"):
            assert content[name] in text
        for name, value in content["environment"].items():
            assert f"| {name} | {value} |" in text
        assert "load average 0.5 at the start, 1.25 at the end" in text
        assert "![some](some.png)" in text

    def test_every_row_of_the_markdown_has_its_cells(self):
        for line in self.report().to_markdown().splitlines():
            if line.startswith("| a\\|b"):
                assert len(re.findall(r"(?<!\\)\|", line)) == len(TABLE.columns) + 1
                return
        pytest.fail("the row is missing")

    def test_rows_must_fit_their_columns(self):
        with pytest.raises(ValueError, match="must have 2 cells"):
            Table("t", ("a", "b"), [(1,)])

    @pytest.mark.parametrize(
        ("cell", "text"),
        [(0.0, "0"), (1234.5, "1234"), (0.012345, "0.0123"), (1.5e-7, "1.5e-07"),
         (2e6, "2.0e+06"), (1234567, "1,234,567"), (float("nan"), "nan")],
    )  # fmt: skip
    def test_format(self, cell, text):
        assert format_cell(cell) == text

    def test_environment_names_versions_and_no_host_or_path(self):
        told = _environment.environment(["no-such-distribution"])
        assert told["jax"] == jax.__version__
        assert told["no-such-distribution"] == "not installed"
        assert re.search(r"\d+ cores?\b", told["machine"])
        shown = " ".join(f"{v}" for k, v in told.items() if k != "XLA flags")
        assert importlib.import_module("socket").gethostname() not in shown.split()
        assert str(Path.home()) + "/" not in shown


class TestCommandLine:
    def run(self, *arguments):
        asked = []

        def measure(settings):
            asked.append(settings)
            return _harness.Findings([TABLE], [Figure("ratio", 2, 1.5)])

        return _harness.run_script(
            "some", "How  long?\nReally?", measure, arguments
        ), asked[0]

    def test_smoke_writes_nothing(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(_harness, "RESULTS", tmp_path / "results")
        report, settings = self.run("--smoke")
        assert settings.smoke
        assert settings.out is None
        assert settings.choose("full", "smoke") == "smoke"
        assert settings.num_rounds(100) == 1
        assert list(tmp_path.iterdir()) == []
        assert report.to_markdown() in capsys.readouterr().out

    def test_a_full_run_writes_both_files(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_harness, "RESULTS", tmp_path / "results")
        report, settings = self.run()
        assert settings.choose("full", "smoke") == "full"
        assert settings.num_rounds(100) == 100
        assert (tmp_path / "results" / "some.json").read_text() == report.to_json()
        assert (tmp_path / "results" / "some.md").read_text() == report.to_markdown()
        assert report.question == "How long? Really?"
        assert report.command == "python -m benchmarks.some"

    def test_rounds_and_out(self, tmp_path):
        report, settings = self.run("--rounds", "7", "--out", str(tmp_path / "there"))
        assert settings.num_rounds(100) == 7
        assert {p.name for p in (tmp_path / "there").iterdir()} == {
            "some.json",
            "some.md",
        }
        # The folder is nobody else's business.
        assert report.command == "python -m benchmarks.some --rounds 7"

    @pytest.mark.parametrize("option", ["--rounds", "--cores"])
    def test_numbers_must_be_positive(self, capsys, option):
        with pytest.raises(SystemExit):
            self.run(option, "0")
        assert f"{option} must be at least 1; got 0" in capsys.readouterr().err

    def test_cores(self, tmp_path, monkeypatch):
        used = []
        monkeypatch.setattr(_harness, "use_cores", used.append)
        out = ["--out", str(tmp_path)]
        report, _ = self.run("--cores", "3", *out)
        assert report.command == "python -m benchmarks.some --cores 3"
        _harness.run_script("some", "?", lambda _: _harness.Findings([]), out, cores=1)
        self.run(*out)
        self.run("--smoke", "--cores", "2")
        assert used == [3, 1, None]

    def test_use_cores(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 2, 7}, raising=False)
        asked = []
        monkeypatch.setattr(
            os, "sched_setaffinity", lambda *args: asked.append(args), raising=False
        )
        _environment.use_cores(None)
        _environment.use_cores(2)
        assert asked == [(0, [2, 4])]


class TestCompetitors:
    """The competitors that the scripts write themselves are what they are said to be."""

    def test_tiles_go_there_and_back(self):
        x = jnp.arange(30.0).reshape(5, 6)
        tiles = _per_tile.to_tiles(x, 8)
        assert tiles.shape == (1, 5, 1, 6)
        tiles = _per_tile.to_tiles(jnp.arange(21.0 * 9).reshape(21, 9), 8)
        assert tiles.shape == (3, 7, 2, 5)
        np.testing.assert_array_equal(
            _per_tile.from_tiles(tiles, jnp.zeros((21, 9))),
            np.arange(21.0 * 9).reshape(21, 9),
        )

    def test_per_tile_keeps_a_pair_a_tile(self):
        params = {"w": jnp.ones((16, 24)), "b": jnp.ones(3)}
        make = lambda blocks: scale_by_shampoo(blocks=blocks, graft="none")
        shared = make(Blocks(size=8)).init(params)
        tiled = _per_tile.per_tile(Blocks(size=8), make).init(params)
        assert shared.factors[8].shape[0] == 2 + 3
        assert tiled.factors[8].shape[0] == 2 * 2 * 3

    def test_per_tile_is_shampoo_on_each_tile(self):
        make = lambda blocks: scale_by_shampoo(blocks=blocks, graft="none")
        blocks = Blocks(size=8, refresh_every=1)
        grads = jax.random.normal(jax.random.key(0), (16, 24))
        opt = _per_tile.per_tile(blocks, make)
        actual, _ = opt.update(grads, opt.init(grads))
        for rows in (slice(0, 8), slice(8, 16)):
            for cols in (slice(0, 8), slice(8, 16), slice(16, 24)):
                tile = grads[rows, cols]
                expected, _ = make(blocks).update(tile, make(blocks).init(tile))
                np.testing.assert_allclose(actual[rows, cols], expected, atol=1e-3)

    def test_newton_and_exact_root_agree(self):
        roots = importlib.import_module("benchmarks.roots")
        a = roots.matrices(12, 1e2, 2)
        exact = roots.exact_root(a, 4, by_bound=True)
        damped = exact @ exact @ exact @ exact @ a
        np.testing.assert_allclose(
            damped, np.broadcast_to(np.eye(12), a.shape), atol=1e-3
        )
        newton = roots.newton_root(jnp.asarray(a, jnp.float32), 4)
        np.testing.assert_allclose(newton, exact, atol=1e-4)

    def test_the_mlp_has_its_427722_parameters(self):
        script = importlib.import_module("benchmarks.shampoo_mlp")
        params, x, labels = script.problem((256, 512, 512, 64, 10), 128)
        assert script.count(params) == 427_722
        assert x.shape == (128, 256)
        assert labels.shape == (128,)

    def test_distinct_shapes_are_distinct(self):
        script = importlib.import_module("benchmarks.distinct_shapes")
        different, one, single = script.shapes(48, 40, 134).values()
        assert len(set(different)) == len(one) == 48
        assert set(one) == set(single)
        assert len(single) == 1

    def test_a_peer_that_fails_is_told_with_its_error(self, monkeypatch):
        def broken(rate):
            raise ImportError("no such thing")

        peers = (
            _peers.Peer("jax", optax.sgd, "shim: none"),
            _peers.Peer("optax", broken),
            _peers.Peer("no-such-distribution", optax.sgd),
        )
        monkeypatch.setattr(_peers, "PEERS", peers)
        working, failing = _peers.optimizers(1e-3, {"w": jnp.ones(2)})
        assert list(working) == ["jax (shim: none)"]
        assert failing == [
            ("optax", "ImportError: no such thing"),
            ("no-such-distribution", "not installed"),
        ]

"""The comparison of optimizers is as fair as it says. Nothing here is trained."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import _tasks, _training, optimizers, ragged
from benchmarks._optimizers import ADAMW, OPTIMIZERS, Recipe, WEIGHT_DECAY
from benchmarks._training import Program, Run
from jaxla.kron import Layers


OTHER = "jaxla shampoo"


@pytest.fixture(scope="module")
def text():
    return _tasks.text(steps=3, batch=2, every=2, width=8, depth=1)


def a_run(losses, rate=1.0, seed=0, seconds=None):
    steps = tuple(range(5, 5 * len(losses) + 1, 5))
    return Run(rate, seed, steps, tuple(losses), seconds or steps, 0.5)


def a_program(task, recipe):
    compiled = SimpleNamespace(seconds=1.0, cpu_seconds=2.0)
    return Program(task, recipe, compiled, None, 2.0)


class TestTasks:
    def test_no_file_is_in_both_parts(self, text):
        (windows,), (held_out,) = text.split(0)
        assert windows.shape[1] == held_out.shape[1] == _tasks.CONTEXT + 1
        assert len(held_out) == 16 * text.batch
        assert windows.max() < _tasks.BYTES
        seen = {window.tobytes() for window in windows}
        # Licences and such stand in several files.
        assert sum(window.tobytes() in seen for window in held_out) <= 3

    def test_seeds_have_their_own_parts(self, text):
        first, again, other = (text.split(seed)[1][0] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_the_transformer_does_not_look_ahead(self, getkey):
        model = eqx.filter_jit(_tasks.Transformer(8, 1, key=getkey()))
        tokens = jnp.arange(12)
        moved = np.abs(model(tokens) - model(tokens.at[7].set(99))).max(1)
        assert (moved[:7] == 0).all()
        assert (moved[7:] > 0).all()

    def test_optax_muon_is_told_the_hidden_matrices(self, text):
        params = text.init(jax.random.key(0))
        state = OPTIMIZERS["optax.contrib.muon"].make(1.0).init(params)
        masked = optax.tree.get(
            state, "mu", filtering=lambda path, _: "muon" in str(path)
        )
        shapes = sorted(leaf.shape for leaf in jax.tree.leaves(masked))
        assert shapes == sorted([(8, 8)] * 4 + [(32, 8), (8, 32)])
        paths = jax.tree_util.tree_leaves_with_path(params)
        roles = [
            Layers().layer(jax.tree_util.keystr(p, simple=True, separator="/"), x).role
            for p, x in paths
        ]
        assert roles.count("hidden") == 6
        assert roles.count("embedding") == 2
        assert roles.count("head") == 1


class TestTraining:
    def test_the_schedule_rises_to_one_and_falls_to_zero(self):
        values = np.array([_training.schedule(40)(i) for i in range(41)])
        np.testing.assert_allclose(values[:5], [0.25, 0.4375, 0.625, 0.8125, 1])
        assert (np.diff(values[4:]) < 0).all()
        np.testing.assert_allclose(values[22], 0.5, atol=1e-6)
        np.testing.assert_allclose(values[40], 0, atol=1e-7)

    def test_batches_are_whole_passes_in_random_order(self, text):
        batches = _training._batches(text, 5, seed=0)
        assert batches.shape == (3, 2)
        assert len(set(batches[:2].ravel())) == 4
        np.testing.assert_array_equal(batches, _training._batches(text, 5, seed=0))
        assert (batches != _training._batches(text, 5, seed=1)).any()

    def test_a_run_is_gradient_descent_with_the_schedule(self):
        """On a loss that is linear in the parameter, whose gradient is the batch."""
        examples = np.float32([[1.0], [2.0], [4.0]])
        task = _tasks.Task(
            "toy", "", 4, 1, 2,
            lambda key: {"w": jnp.ones([])},
            lambda params, x: params["w"] * jnp.mean(x),
            lambda seed: ((examples,), (examples,)),
        )  # fmt: skip
        program = _training.compile_program(task, Recipe(optax.sgd, 1.0))
        run = _training.train(program, 0.1, seed=3)
        chosen = examples[_training._batches(task, 3, 3).ravel(), 0]
        shape = [float(_training.schedule(4)(i)) for i in range(4)]
        w = 1 - 0.1 * np.cumsum(shape * chosen)
        assert run.steps == (2, 4)
        np.testing.assert_allclose(run.losses, w[[1, 3]] * 7 / 3, rtol=1e-5)
        before = [w[1], w[2]] * chosen[2:]
        np.testing.assert_allclose(run.training_loss, before.mean(), rtol=1e-5)
        assert program.state_numbers == optax.tree.size(program.init(0)[1])

    def test_reach_and_final_loss(self):
        run = a_run([3.0, 2.0, 2.5], seconds=(0.1, 0.2, 0.3))
        assert run.reach(2.0) == (10, 0.2)
        assert run.reach(1.9) == (np.inf, np.inf)
        assert run.final_loss == 2.5
        assert run.step_seconds == 0.3 / 15
        assert a_run([3.0, float("nan")]).final_loss == np.inf


class TestComparison:
    def test_every_optimizer_has_as_many_trials_on_the_same_seeds(self, monkeypatch):
        asked = []

        def train(program, rate, seed):
            factor = round(rate / program.recipe.centre, 6)
            asked.append((program.recipe, factor, seed))
            return a_run([abs(np.log(factor / 3))], rate, seed)

        monkeypatch.setattr(optimizers, "compile_program", a_program)
        monkeypatch.setattr(optimizers, "train", train)
        task = SimpleNamespace(name="toy")
        optimizers.run_all(task, tuple(OPTIMIZERS), optimizers.FACTORS, (0, 1))
        for recipe in OPTIMIZERS.values():
            ours = [(factor, seed) for who, factor, seed in asked if who is recipe]
            sweep = [(factor, optimizers.TUNING_SEED) for factor in optimizers.FACTORS]
            assert ours == [*sweep, (3.0, 0), (3.0, 1)]

    def rows(self, rate):
        """Of AdamW and of another one, whose best learning rate is the given one."""
        sweep = [a_run([2.0], 1.0), a_run([float("nan")], 3.0), a_run([1.0], rate)]
        final = {
            ADAMW: [a_run([3.0, 2.0]), a_run([3.0, 1.0])],
            OTHER: [a_run([2.0, loss], rate, 0, (10, 20)) for loss in (1.5, 1.1)],
        }
        table = optimizers.results_table(
            optimizers.Trials(
                SimpleNamespace(name="toy", told="nothing"),
                dict.fromkeys(final, a_program(None, None)),
                dict.fromkeys(final, sweep),
                final,
            )
        )
        return [dict(zip(table.columns, row, strict=True)) for row in table.rows]

    def test_results_are_compared_seed_by_seed(self):
        adamw, other = self.rows(9.0)
        assert adamw["steps to AdamW's loss"] == 10
        assert adamw["time / AdamW"] == 1
        assert other["better"] == "1 of 2"
        np.testing.assert_allclose(other["minus AdamW's"], (-0.5 + 0.1) / 2)
        assert (other["loss"], other["least"], other["largest"]) == (1.3, 1.1, 1.5)
        # One of the two never gets there, and the median with it.
        assert other["steps to AdamW's loss"] == other["seconds to it"] == "never"

    def test_an_end_of_the_grid_is_told(self):
        assert self.rows(9.0)[1]["learning rate"] == "9, an END of the grid"
        assert self.rows(2.0)[1]["learning rate"] == "2"

    def test_a_run_that_diverges_is_not_the_best(self):
        sweep = [a_run([2.0], 1.0), a_run([1.0], 3.0), a_run([float("nan")], 9.0)]
        assert optimizers.best_rate(sweep) == 3.0

    def test_all_decay_weights_alike(self):
        """With gradients of zero the step is the decay."""
        for name, recipe in OPTIMIZERS.items():
            params = {"bias": jnp.ones(3)}
            if name == "optax.contrib.muon":  # which has a decay of its own for the rest
                params["weight"] = jnp.eye(3)
            zero, opt = jax.tree.map(jnp.zeros_like, params), recipe.make(0.5)
            updates, _ = jax.jit(opt.update)(zero, opt.init(params), params)
            for key, value in params.items():
                expected = -0.5 * WEIGHT_DECAY * value
                np.testing.assert_allclose(updates[key], expected, 1e-6, err_msg=name)


def test_the_ragged_model_has_forty_leaves_of_many_shapes():
    params = jax.eval_shape(lambda: ragged.problem()[0])
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert len(shapes) == 40
    assert len(set(shapes)) >= 30

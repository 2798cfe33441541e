"""Training runs of one optimizer on one task.

They share an executable: only the seed and the peak of the learning rate differ.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._optimizers import Recipe
from ._tasks import Task
from ._timing import compile_ahead, Compiled


WARMUP = 10  # the steps of a run over those in which the learning rate rises


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled training step, and the state that it begins with."""

    task: Task
    recipe: Recipe
    compiled: Compiled
    evaluate: Callable[..., jax.Array]
    state_numbers: float  # a parameter

    def init(self, seed: int) -> tuple[Any, Any]:
        params = self.task.init(jax.random.key(seed))
        return params, self.recipe.make(schedule(self.task.steps)).init(params)


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of training once.

    - `steps`, `losses`, `seconds`: at each look at the validation loss, the steps made,
        that loss, and the CPU time of all these steps.
    - `training_loss`: the mean over the batches since the last look but one.
    """

    rate: float
    seed: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    training_loss: float

    @property
    def final_loss(self) -> float:
        return self.losses[-1] if np.isfinite(self.losses[-1]) else np.inf

    @property
    def step_seconds(self) -> float:
        return self.seconds[-1] / self.steps[-1]

    def reach(self, target: float) -> tuple[float, float]:
        """Steps and seconds to the first loss of at most `target`; infinite if none."""
        for step, loss, second in zip(self.steps, self.losses, self.seconds, strict=True):
            if loss <= target:
                return step, second
        return np.inf, np.inf


def compile_program(task: Task, recipe: Recipe) -> Program:
    """Compiles the step; the peak of the schedule is one of its arguments."""
    shape = schedule(task.steps)

    def step(params, state, peak, *batch):
        opt = recipe.make(lambda count: peak * shape(count))
        loss, grads = jax.value_and_grad(task.loss)(params, *batch)
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = task.init(jax.random.key(0))
    state = recipe.make(shape).init(params)
    examples, _ = task.split(0)
    batch = [part[: task.batch] for part in examples]
    compiled = compile_ahead(step, params, state, jnp.float32(0), *batch)
    return Program(
        task,
        recipe,
        compiled,
        jax.jit(task.loss),
        optax.tree.size(state) / optax.tree.size(params),
    )


def schedule(steps: int) -> optax.Schedule:
    """A linear rise to 1, and a cosine down to 0 at the last step."""
    rise = max(1, steps // WARMUP)
    return optax.warmup_cosine_decay_schedule(1 / rise, 1.0, rise, steps)


def train(program: Program, rate: float, seed: int) -> Run:
    """Trains once. Seconds are CPU time: neighbours on the machine disturb that least."""
    task = program.task
    examples, valid = task.split(seed)
    params, state = program.init(seed)
    peak, spent, losses, looks = jnp.float32(rate), 0.0, [], []
    for number, chosen in enumerate(_batches(task, len(examples[0]), seed), start=1):
        batch = [part[chosen] for part in examples]
        start = time.process_time()
        params, state, loss = jax.block_until_ready(
            program.compiled.call(params, state, peak, *batch)
        )
        spent += time.process_time() - start
        losses.append(float(loss))
        if number % task.every == 0 or number == task.steps:
            looks.append((number, float(program.evaluate(params, *valid)), spent))
    return Run(
        rate, seed, *zip(*looks, strict=True), float(np.mean(losses[-task.every :]))
    )


def _batches(task: Task, examples: int, seed: int) -> np.ndarray:
    """Passes over the examples in random order, without an incomplete batch."""
    rng = np.random.default_rng([seed, 1])
    passes = -(-task.steps // (examples // task.batch))
    orders = [
        rng.permutation(examples)[: examples // task.batch * task.batch]
        for _ in range(passes)
    ]
    return np.concatenate(orders).reshape(-1, task.batch)[: task.steps]

"""One training loop for every optimizer, and how its time is taken.

A step is compiled ahead, and its time is from the call until all its results are
there. The data are on the device, and the batch is gathered within the step. The
first step that is executed works on copies and does not count; the evaluations
between steps do not count either.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._data import Dataset, Split
from ._optimizers import OPTIMIZERS


HIDDEN = (256, 128)
LOOK_AFTER = 640  # examples: every 5 steps at batch 128, every step at batch 1000


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled step of one optimizer at one batch size, for any learning rate."""

    optimizer: str
    batch_size: int
    steps: int
    sizes: tuple[int, ...]
    init: Callable[[Any], Any]
    step: Callable[..., tuple[Any, Any]]
    compile_seconds: float
    state_bytes_per_parameter: float
    state_numbers_per_parameter: float

    @property
    def every(self) -> int:
        """The steps from one evaluation to the next."""
        return max(1, min(LOOK_AFTER // self.batch_size, self.steps // 20))


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of training once."""

    optimizer: str
    batch_size: int
    learning_rate: float
    seed: int
    sweep: bool
    steps: tuple[int, ...]  # at each evaluation: the steps made,
    seconds: tuple[float, ...]  # the time of all of these steps,
    losses: tuple[float, ...]  # and the validation loss
    accuracy: float  # on the validation part, at the end
    step_seconds: tuple[float, ...]  # of every step

    @property
    def best_loss(self) -> float:
        """The lowest validation loss after a step; infinite if there was no number."""
        losses = filter(np.isfinite, self.losses[1:])
        return min(losses, default=np.inf)

    def first_below(self, target: float) -> tuple[float, float]:
        """Steps and seconds to the first validation loss of at most `target`."""
        for step, second, loss in zip(self.steps, self.seconds, self.losses, strict=True):
            if loss <= target:
                return float(step), second
        return np.inf, np.inf


def layer_sizes(dataset: Dataset) -> tuple[int, ...]:
    """From the features over the hidden layers to the classes."""
    return (dataset.x.shape[1], *HIDDEN, dataset.classes)


def compile_program(
    optimizer: str, batch_size: int, steps: int, sizes: tuple[int, ...], part: Split
) -> Program:
    """Compiles the step ahead; the peak of the schedule is one of its arguments."""
    make = OPTIMIZERS[optimizer].make
    shape = optax.cosine_decay_schedule(1.0, steps)

    def step(params, state, peak, x, y, batch):
        opt = make(lambda count: peak * shape(count))
        grads = jax.grad(_loss)(params, x[batch], y[batch])
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = _init(jax.random.key(0), sizes)
    init = jax.jit(make(shape).init)
    state = init(params)
    batch = jnp.zeros([batch_size], jnp.int32)
    arguments = (params, state, jnp.float32(0), *_on_device(part.x, part.y), batch)
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    held, count = jax.tree.leaves(state), optax.tree.size(params)
    return Program(
        optimizer,
        batch_size,
        steps,
        sizes,
        init,
        compiled,
        compile_seconds,
        sum(leaf.nbytes for leaf in held) / count,
        sum(leaf.size for leaf in held) / count,
    )


def train(
    program: Program,
    part: Split,
    *,
    learning_rate: float,
    seed: int,
    sweep: bool,
    watch: Callable[[int, float], None] = lambda step, loss: None,
) -> Run:
    """Trains once. `watch` is told the step and the loss at each evaluation."""
    x, y = _on_device(part.x, part.y)
    valid = _on_device(part.x_valid, part.y_valid)
    params = _init(jax.random.key(seed), program.sizes)
    state = program.init(params)
    peak = jnp.float32(learning_rate)
    batches = [jnp.asarray(batch) for batch in _batches(program, len(part.x), seed)]
    copies = jax.tree.map(jnp.copy, (params, state))
    jax.block_until_ready(program.step(*copies, peak, x, y, batches[0]))

    loss, accuracy = map(float, _evaluate(params, *valid))
    curve, step_seconds = [(0, 0.0, loss)], []
    for number, batch in enumerate(batches, start=1):
        start = time.perf_counter()
        params, state = program.step(params, state, peak, x, y, batch)
        jax.block_until_ready((params, state))
        step_seconds.append(time.perf_counter() - start)
        if number % program.every == 0 or number == program.steps:
            loss, accuracy = map(float, _evaluate(params, *valid))
            curve.append((number, sum(step_seconds), loss))
            watch(number, loss)
    made, seconds, losses = zip(*curve, strict=True)
    return Run(
        program.optimizer,
        program.batch_size,
        learning_rate,
        seed,
        sweep,
        made,
        seconds,
        losses,
        accuracy,
        tuple(step_seconds),
    )


def _init(key, sizes: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {
            "weight": jax.random.normal(k, (m, n), jnp.float32) / np.sqrt(m, dtype="f4"),
            "bias": jnp.zeros([n], jnp.float32),
        }
        for k, (m, n) in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def _logits(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["weight"] + layer["bias"])
    return x @ last["weight"] + last["bias"]


def _loss(params, x, y):
    logits = _logits(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def _evaluate(params, x, y):
    return _loss(params, x, y), jnp.mean(_logits(params, x).argmax(-1) == y)


def _on_device(x: np.ndarray, y: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)


def _batches(program: Program, examples: int, seed: int) -> list[np.ndarray]:
    """Passes over the examples in random order, without an incomplete batch."""
    rng = np.random.default_rng([seed, 1])
    batches: list[np.ndarray] = []
    while len(batches) < program.steps:
        order = rng.permutation(examples).astype(np.int32)
        whole = len(order) // program.batch_size * program.batch_size
        batches += list(order[:whole].reshape(-1, program.batch_size))
    return batches[: program.steps]

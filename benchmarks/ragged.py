"""Every optimizer on an Equinox model of 40 parameters, hardly two of one shape."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._harness import Findings, run_script, say, Settings
from ._mlp import count, training_step, update_step
from ._optimizers import OPTIMIZERS
from ._report import Figure, Table
from ._timing import (
    compile_interleaved,
    Compiled,
    ratio,
    Samples,
    Stepper,
    time_interleaved,
)


QUESTION = """What do optimizers cost to compile, to run and to hold for a model of 40
parameters of ragged shapes: linear layers of many odd sizes, convolutions, norms, biases
and an embedding? Speed only: tokens and labels are random, from a fixed key."""

ADAM = "optax.adam"
TOKENS, LENGTH, BATCH = 101, 24, 32
CHANNELS = (37, 53, 61)
WIDTHS = (61, 149, 83, 127, 45, 90, 33, 141, 77, 105, 58, 119, 71, 39, 97)
NORMED = (1, 5, 9)  # the layers before a norm
CLASSES = 10

Made = dict[str, list[Compiled]]


def main(arguments=None):
    return run_script("ragged", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    names = settings.choose(tuple(OPTIMIZERS), ("jaxla shampoo",))
    competitors = {ADAM: optax.adam(1e-3)}
    competitors |= {name: OPTIMIZERS[name].make(1e-3) for name in names}
    params, loss, batch = problem(settings.choose(WIDTHS, WIDTHS[:2]))
    state = {name: opt.init(params) for name, opt in competitors.items()}
    steps = {
        name: (training_step(opt, loss), (params, state[name], *batch))
        for name, opt in competitors.items()
    }
    updates = {
        name: (update_step(opt), (params, state[name], params))
        for name, opt in competitors.items()
    }
    made = _compile(steps, settings)
    alone = _compile(updates, settings)
    thunks = {
        name: Stepper(made[name][-1].call, *args) for name, (_, args) in steps.items()
    }
    taken = time_interleaved(thunks, rounds=settings.choose(61, 3), warmup=0)
    numbers = {name: count(state[name]) / count(params) for name in competitors}
    tables = [
        _compile_table("Compiling the training step", made),
        _compile_table("Compiling the update alone, gradients given", alone),
        _run_table(taken, numbers, count(params)),
    ]
    return Findings(tables, figures(made, taken), ["equinox"])


def problem(widths: Sequence[int] = WIDTHS) -> tuple[Any, Any, tuple[jax.Array, ...]]:
    """Parameters, the loss, and a batch of tokens and labels."""
    keys = jax.random.split(jax.random.key(0), 3)
    model = Ragged(widths, key=keys[0])
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    tokens = jax.random.randint(keys[1], (BATCH, LENGTH), 0, TOKENS)
    labels = jax.random.randint(keys[2], (BATCH,), 0, CLASSES)

    def loss(params, tokens, labels):
        logits = jax.vmap(eqx.combine(params, rest))(tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return params, loss, (tokens, labels)


class Ragged(eqx.Module):
    """From tokens over convolutions and linear layers to the logits of classes."""

    embedding: eqx.nn.Embedding
    convolutions: list[eqx.nn.Conv1d]
    layers: list[eqx.nn.Linear]
    norms: list[eqx.nn.LayerNorm]
    head: eqx.nn.Linear

    def __init__(self, widths: Sequence[int], *, key: jax.Array):
        keys = iter(jax.random.split(key, 2 + len(CHANNELS) + len(widths)))
        self.embedding = eqx.nn.Embedding(TOKENS, CHANNELS[0], key=next(keys))
        self.convolutions = [
            eqx.nn.Conv1d(m, n, kernel_size=5 - 2 * i, key=next(keys))
            for i, (m, n) in enumerate(itertools.pairwise(CHANNELS))
        ]
        self.layers = [
            eqx.nn.Linear(m, n, key=next(keys)) for m, n in itertools.pairwise(widths)
        ]
        self.norms = [
            eqx.nn.LayerNorm(n) for i, n in enumerate(widths[1:]) if i in NORMED
        ]
        self.head = eqx.nn.Linear(widths[-1], CLASSES, use_bias=False, key=next(keys))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding.weight[tokens].T
        for convolution in self.convolutions:
            x = jnp.tanh(convolution(x))
        x = x.mean(-1)
        norms = iter(self.norms)
        for i, layer in enumerate(self.layers):
            x = jnp.tanh(layer(x))
            x = next(norms)(x) if i in NORMED else x
        return self.head(x)


def _compile(jobs: Mapping[str, Any], settings: Settings) -> Made:
    return compile_interleaved(
        jobs, rounds=settings.num_rounds(3), warmup=settings.choose(1, 0), progress=say
    )


def _cpu_ratio(made: Made, name: str) -> float:
    cpu = lambda name: [compiled.cpu_seconds for compiled in made[name]]
    return ratio(cpu(name), cpu(ADAM))


def _compile_table(title: str, made: Made) -> Table:
    rows = [
        (
            name,
            float(np.median([compiled.cpu_seconds for compiled in all_])),
            float(np.median([compiled.lower_cpu for compiled in all_])),
            _cpu_ratio(made, name),
            all_[-1].instructions,
            all_[-1].lines,
            len(all_),
        )
        for name, all_ in made.items()
    ]
    columns = (
        "optimizer", "CPU seconds", "of which lowering", "time / Adam",
        "HLO instructions", "HLO lines", "samples",
    )  # fmt: skip
    return Table(title, columns, rows, "Without the persistent cache.")


def _run_table(
    taken: dict[str, Samples], numbers: dict[str, float], params: int
) -> Table:
    rows = []
    for name, samples in taken.items():
        cpu = 1e3 * samples.cpu
        rows.append((
            name, float(cpu[0]), float(np.median(cpu[1:])), float(cpu[1:].max()),
            _worst(samples.cpu), _worst(samples.wall),
            ratio(samples.cpu[1:], taken[ADAM].cpu[1:]), numbers[name], len(cpu) - 1,
        ))  # fmt: skip
    columns = (
        "optimizer", "first ms", "median ms", "worst ms", "worst / median",
        "the same, wall time", "time / Adam", "state numbers a parameter", "steps",
    )  # fmt: skip
    note = (
        f"For {params:,} parameters and batches of {BATCH}. Milliseconds of CPU time on "
        "one core; the median and the worst are of all steps but the first. Wall time "
        "has in it what else ran on the machine: Adam's own tells how much."
    )
    return Table("Running the training step, and its state", columns, rows, note)


def _worst(seconds: np.ndarray) -> float:
    """The worst step after the first, relative to the median."""
    return float(seconds[1:].max() / np.median(seconds[1:]))


def figures(made: Made, taken: dict[str, Samples]) -> list[Figure]:
    ours = [name for name in made if name.startswith("jaxla")]
    compiling = [
        Figure(f"{name}: compile time of the step / Adam's", 3, _cpu_ratio(made, name))
        for name in ours
    ]
    running = [
        Figure(
            f"{name}: CPU time of the worst step but the first / median",
            2,
            _worst(taken[name].cpu),
        )
        for name in ours
    ]
    return compiling + running


if __name__ == "__main__":
    main()

"""What Shampoo and SOAP cost on a multilayer perceptron: to compile, run and hold."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

import jaxla
from jaxla.kron import Blocks

from ._harness import Findings, run_script, say, Settings
from ._mlp import count, init, training_step, update_step
from ._peers import optimizers as peer_optimizers, PEERS
from ._per_tile import per_tile
from ._report import Figure, Table
from ._timing import (
    compile_interleaved,
    Compiled,
    ratio,
    Samples,
    Stepper,
    summary,
    time_interleaved,
)


QUESTION = """What do Shampoo, SOAP, Adam, Muon and PSGD cost on a multilayer perceptron
of 427,722 parameters (256-512-512-64-10, with biases, tanh) at batch 128? Speed only:
inputs are Gaussian and labels random, from a fixed key."""

RATE = 1e-3
OURS, SOAP, ADAM = "jaxla shampoo", "jaxla soap", "optax.adam"
WARMUP = 20

Optimizers = Mapping[str, optax.GradientTransformation]


def main(arguments=None):
    return run_script("shampoo_mlp", QUESTION, measure, arguments)


def measure(settings: Settings) -> Findings:
    sizes = settings.choose((256, 512, 512, 64, 10), (32, 48, 10))
    params, *batch = problem(sizes, settings.choose(128, 16))
    competitors, failing = optimizers(params, settings)
    whole = _measure_kind("whole step", competitors, params, batch, settings)
    update = _measure_kind("update alone", competitors, params, None, settings)
    tables = [
        _compile_table("Compiling the whole training step", whole[0]),
        _compile_table("Compiling the update alone", update[0]),
        _run_table("Running the whole training step", whole[1]),
        _run_table("Running the update alone, gradients given", update[1]),
        _state_table(competitors, params),
    ]
    if failing:
        note = "To include one, install it beside jaxla and run the script again."
        tables.append(Table("Not measured", ("peer", "why"), failing, note))
    peers = [peer.distribution for peer in PEERS]
    figures = _figures(*whole, competitors, params)
    figures += _against_peers(whole[1], [name for name in competitors if name in peers])
    return Findings(tables, figures, peers)


def problem(sizes, batch: int):
    """Parameters, inputs and labels from a fixed key."""
    pkey, xkey, ykey = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(xkey, (batch, sizes[0]))
    return init(pkey, sizes), x, jax.random.randint(ykey, (batch,), 0, sizes[-1])


def optimizers(params, settings: Settings) -> tuple[Optimizers, list[tuple[str, str]]]:
    size = settings.choose(128, 16)
    blocks = Blocks(size=size, refresh_every=10)
    eigh = Blocks(size=size, refresh_every=10, root="eigh")
    shampoo = lambda blocks: jaxla.optim.shampoo(RATE, blocks=blocks)
    competitors = {
        ADAM: optax.adam(RATE),
        OURS: shampoo(blocks),
        SOAP: jaxla.optim.soap(RATE, blocks=blocks),
        "jaxla kl_shampoo": jaxla.optim.kl_shampoo(RATE, blocks=blocks),
        "jaxla shampoo, root='eigh'": shampoo(eigh),
        "jaxla shampoo, factors per tile": per_tile(blocks, shampoo),
        "optax.contrib.muon": optax.contrib.muon(RATE),
    }
    # In smoke mode no other package is needed.
    peers, failing = peer_optimizers(RATE, params, settings.choose(None, ()))
    return {**competitors, **peers}, failing


def _measure_kind(
    kind: str, competitors: Optimizers, params, batch, settings: Settings
) -> tuple[dict[str, list[Compiled]], dict[str, Samples]]:
    """Compiles and times the whole step, or the update alone if `batch` is `None`."""
    make = update_step if batch is None else training_step
    rest = (_like(params),) if batch is None else tuple(batch)
    jobs = {
        name: (make(opt), (params, opt.init(params), *rest))
        for name, opt in competitors.items()
    }
    say(f"{kind}: compiling")
    made = compile_interleaved(
        jobs, rounds=settings.num_rounds(5), warmup=settings.choose(1, 0), progress=say
    )
    thunks = {name: Stepper(made[name][-1].call, *jobs[name][1]) for name in jobs}
    steps, warmup = settings.choose((200, WARMUP), (4, 1))
    say(f"{kind}: {steps} steps of each")
    return made, time_interleaved(thunks, rounds=steps, warmup=warmup)


def _like(params) -> Any:
    """Gradients of the shapes of the parameters."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten(
        [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def _compile_table(title: str, made: dict[str, list[Compiled]]) -> Table:
    wall = {name: [c.seconds for c in all_] for name, all_ in made.items()}
    cpu = {name: [c.cpu_seconds for c in all_] for name, all_ in made.items()}
    rows = []
    for name, all_ in made.items():
        last = all_[-1]
        rows.append((
            name, float(np.median(wall[name])), float(np.median(cpu[name])),
            float(np.median([c.lower_cpu for c in all_])),
            ratio(wall[name], wall[ADAM]), ratio(cpu[name], cpu[ADAM]),
            last.instructions, last.lines, last.peak_bytes / 2**20, len(all_),
        ))  # fmt: skip
    columns = (
        "optimizer", "seconds", "CPU seconds", "of which lowering", "time / Adam",
        "CPU time / Adam", "HLO instructions", "HLO lines", "peak MiB", "samples",
    )  # fmt: skip
    note = "From the Python function to the executable, without the persistent cache."
    return Table(title, columns, rows, note)


def _run_table(title: str, taken: dict[str, Samples]) -> Table:
    rows = []
    for name, samples in taken.items():
        wall = summary(1e3 * samples.wall)
        rows.append((
            name, wall["median"], wall["q1"], wall["q3"], wall["p99"], wall["max"],
            wall["max"] / wall["median"], wall["p99"] / wall["median"],
            1e3 * float(samples.cpu.mean()),
            ratio(samples.wall, taken[ADAM].wall), wall["samples"],
        ))  # fmt: skip
    columns = (
        "optimizer", "median ms", "quartile 1", "quartile 3", "p99 ms", "worst ms",
        "worst / median", "p99 / median", "CPU ms a step", "time / Adam", "steps",
    )  # fmt: skip
    note = (
        f"After {WARMUP} steps that do not count: the first executions of any program "
        "are slow. Adam's own worst step tells what the rest of the machine adds. CPU "
        "ms are a mean and count all threads."
    )
    return Table(title, columns, rows, note)


def _state_table(competitors: Optimizers, params) -> Table:
    rows = []
    for name, opt in competitors.items():
        state = jax.eval_shape(opt.init, params)
        leaves = jax.tree.leaves(state)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        rows.append((name, count(state) / count(params), size / 2**20))
    columns = ("optimizer", "numbers a parameter", "MiB")
    return Table(f"State, for {count(params):,} parameters", columns, rows)


def _figures(made, taken, competitors, params) -> list[Figure]:
    ours, adam = made[OURS], made[ADAM]
    cpu = ratio([c.cpu_seconds for c in ours], [c.cpu_seconds for c in adam])
    wall = ratio([c.seconds for c in ours], [c.seconds for c in adam])
    worst = {name: float(s.wall.max() / np.median(s.wall)) for name, s in taken.items()}
    state = jax.eval_shape(competitors[OURS].init, params)
    return [
        Figure("compile time of the training step / Adam's", 2, wall),
        Figure("the same, CPU time", 2, cpu),
        Figure(
            f"worst step / median step (Adam's own: {worst[ADAM]:.2f})", 2, worst[OURS]
        ),
        Figure("numbers of state a parameter", 8, count(state) / count(params)),
    ]


def _against_peers(taken: dict[str, Samples], peers: list[str]) -> list[Figure]:
    """What a step with SOAP costs, next to the peers that are preconditioned, too."""
    cpu = {name: float(samples.cpu.mean()) for name, samples in taken.items()}
    return [
        Figure(f"CPU time of a step, {SOAP} / {name}", 0.5, cpu[SOAP] / cpu[name])
        for name in peers
    ]


if __name__ == "__main__":
    main()

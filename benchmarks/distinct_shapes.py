"""Does compile time grow with the number of different shapes of the parameters?"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxla

from ._harness import Findings, run_script, say, Settings
from ._mlp import update_step
from ._report import Figure, Table
from ._timing import compile_interleaved, ratio, summary, time_interleaved


QUESTION = """How long does the update compile for a model of 48 matrices of different
shapes, sides between 40 and 134, against 48 matrices of one shape, and against a
single matrix?"""

RATE = 1e-3
MODELS = ("different shapes", "one shape", "one matrix")
OURS = "jaxla shampoo"

Shapes = Sequence[tuple[int, int]]


def main(arguments=None):
    return run_script("distinct_shapes", QUESTION, measure, arguments)


def measure(settings: Settings) -> Findings:
    models = shapes(*settings.choose((48, 40, 134), (3, 8, 20)))
    names = settings.choose((OURS, "optax.adam", "optax.contrib.muon"), (OURS,))
    jobs = {
        (name, model): _job(name, models[model]) for name in names for model in MODELS
    }
    flat = {f"{name}, {model}": job for (name, model), job in jobs.items()}
    made = compile_interleaved(
        flat, rounds=settings.num_rounds(3), warmup=settings.choose(1, 0), progress=say
    )
    thunks = {
        name: functools.partial(made[name][-1].call, *args)
        for name, (_, args) in flat.items()
    }
    rounds = settings.choose(60, 2)
    taken = time_interleaved(
        thunks, rounds=rounds, warmup=settings.choose(10, 1), budget=90
    )
    rows, ratios = [], {}
    for name, model in jobs:
        key, base = f"{name}, {model}", f"{name}, one shape"
        cpu = [c.cpu_seconds for c in made[key]]
        wall = [c.seconds for c in made[key]]
        ratios[key] = ratio(wall, [c.seconds for c in made[base]])
        run = summary(1e3 * taken[key].wall)
        rows.append((
            name, model, float(np.median(wall)), float(np.median(cpu)), ratios[key],
            ratio(cpu, [c.cpu_seconds for c in made[base]]),
            made[key][-1].instructions, run["median"], run["q1"], run["q3"],
        ))  # fmt: skip
    columns = (
        "optimizer", "model", "compile s", "compile CPU s", "compile / one shape",
        "CPU / one shape", "HLO instructions", "update ms", "quartile 1", "quartile 3",
    )  # fmt: skip
    figure = Figure(
        "compile time for different shapes / for one shape",
        3,
        ratios[f"{OURS}, different shapes"],
    )
    return Findings([Table("Compiling and running the update", columns, rows)], [figure])


def shapes(number: int, low: int, high: int) -> dict[str, Shapes]:
    """The shapes of the three models, from a fixed seed."""
    rng = np.random.default_rng(0)
    different: dict[tuple[int, int], None] = {}
    while len(different) < number:
        m, n = rng.integers(low, high, size=2, endpoint=True)
        different[int(m), int(n)] = None
    side = (low + high) // 2
    return dict(
        zip(
            MODELS,
            (list(different), [(side, side)] * number, [(side, side)]),
            strict=True,
        )
    )


def _job(name: str, model: Shapes):
    """The update of an optimizer for a model, and its arguments."""
    opt = {
        OURS: lambda: jaxla.optim.shampoo(RATE),
        "optax.adam": lambda: optax.adam(RATE),
        "optax.contrib.muon": lambda: optax.contrib.muon(RATE),
    }[name]()
    params = [jnp.ones(shape) for shape in model]
    keys = jax.random.split(jax.random.key(0), len(model))
    grads = [jax.random.normal(k, shape) for k, shape in zip(keys, model, strict=True)]
    return update_step(opt), (params, opt.init(params), grads)


if __name__ == "__main__":
    main()

"""Block-diagonal factors shared along rows and columns, against a pair for each tile."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxla
from jaxla._demo._data import load, Split, split
from jaxla.kron import Blocks

from ._harness import Findings, run_script, say, Settings
from ._mlp import count, init, loss
from ._per_tile import per_tile
from ._report import Table
from ._timing import compile_ahead


QUESTION = """Blocked Shampoo can keep one left factor for each row of blocks and one
right factor for each column (as jaxla does), or a pair for each tile. Which trains
better, on 5,000 MNIST digits (4,000 to train on) with a tanh perceptron of sizes
784-256-128-10?"""

TARGETS = (0.30, 0.25)
RATES = (5e-3, 1e-2, 2e-2)
UNBLOCKED = 1024  # above the longest side


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to precondition: `kind` is `shared`, `per tile` or `adam`."""

    kind: str
    size: int

    @property
    def label(self) -> str:
        if self.kind == "adam":
            return "Adam"
        return "unblocked" if self.size == UNBLOCKED else f"{self.kind}, {self.size}"

    def transformation(self) -> optax.GradientTransformation:
        if self.kind == "adam":
            return optax.scale_by_adam(b2=0.99)
        blocks = Blocks(size=self.size, eager_steps=4)
        make = lambda blocks: jaxla.optim.scale_by_shampoo(blocks=blocks)
        return make(blocks) if self.kind == "shared" else per_tile(blocks, make)


@dataclasses.dataclass(frozen=True)
class Curve:
    """The validation loss of one run, at some of its steps."""

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.losses)

    def reach(self, target: float) -> float:
        """The first step at which the target was met; infinite if it never was."""
        met = [
            s for s, value in zip(self.steps, self.losses, strict=True) if value <= target
        ]
        return met[0] if met else float("inf")


def main(arguments=None):
    return run_script("blocks", QUESTION, measure, arguments)


def measure(settings: Settings) -> Findings:
    sizes = settings.choose((64, 128, 256, 400), (256,))
    variants = [Variant("adam", 0), Variant("shared", UNBLOCKED)]
    variants += [Variant(kind, size) for size in sizes for kind in ("shared", "per tile")]
    if settings.smoke:
        variants = variants[2:]
    dataset, tables, pictures = load("mnist"), [], []
    batches = settings.choose(((1000, 80, 2), (128, 160, 10)), ((1000, 2, 1),))
    for batch, steps, every in batches:
        runs = _run_all(dataset, variants, batch, steps, every, settings)
        tables.append(_table(batch, runs))
        if settings.out is not None:
            pictures.append(f"blocks-{batch}.png")
            draw(runs, batch, settings.out / pictures[-1])
    return Findings(tables, pictures=pictures)


Runs = dict[Variant, dict[float, list[Curve]]]


def _run_all(
    dataset,
    variants: list[Variant],
    batch: int,
    steps: int,
    every: int,
    settings: Settings,
) -> Runs:
    """Every variant at every learning rate and seed, with one compilation each."""
    rates, seeds = settings.choose(
        (RATES, range(settings.rounds or 3)), (RATES[:1], (0,))
    )
    runs: Runs = {}
    for variant in variants:
        begin = time.perf_counter()
        step = _compile(variant, batch)
        runs[variant] = {
            rate: [
                train(
                    step, variant, split(dataset, seed), rate, batch, steps, every, seed
                )
                for seed in seeds
            ]
            for rate in rates
        }
        best = min(_median(c, "best") for c in runs[variant].values())
        took = time.perf_counter() - begin
        say(f"batch {batch}, {variant.label}: best {best:.3f}, {took:.0f} s")
    return runs


def _compile(variant: Variant, batch: int) -> Callable:
    """One training step; the learning rate is an argument, to compile only once."""
    transformation = variant.transformation()

    def step(params, state, x, labels, rate):
        grads = jax.grad(loss)(params, x, labels)
        updates, state = transformation.update(grads, state, params)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        return optax.apply_updates(params, updates), state

    params = _initial(0)
    x, labels = jnp.zeros((batch, 784)), jnp.zeros(batch, jnp.int32)
    rate = jnp.zeros([])
    return compile_ahead(step, params, transformation.init(params), x, labels, rate).call


def _initial(seed: int):
    return init(jax.random.key(seed), (784, 256, 128, 10))


_validation_loss = jax.jit(loss)


def train(
    step: Callable,
    variant: Variant,
    data: Split,
    rate: float,
    batch: int,
    steps: int,
    every: int,
    seed: int,
) -> Curve:
    """Trains with a cosine schedule, and looks at the validation loss now and then."""
    rng = np.random.default_rng(seed)
    params = _initial(seed)
    state = variant.transformation().init(params)
    order, seen, seconds = np.array([], int), [], []
    for number in range(steps):
        if len(order) < batch:
            order = rng.permutation(len(data.x))
        chosen, order = order[:batch], order[batch:]
        now = jnp.asarray(rate * 0.5 * (1 + np.cos(np.pi * number / steps)), jnp.float32)
        x, labels = data.x[chosen], data.y[chosen]
        begin = time.perf_counter()
        params, state = jax.block_until_ready(step(params, state, x, labels, now))
        seconds.append(time.perf_counter() - begin)
        if (number + 1) % every == 0:
            value = float(_validation_loss(params, data.x_valid, data.y_valid))
            seen.append((number + 1, value))
    at, losses = zip(*seen, strict=True)
    return Curve(at, losses, tuple(seconds))


def _best_rate(by_rate: dict[float, list[Curve]]) -> float:
    return min(by_rate, key=lambda rate: _median(by_rate[rate], "best"))


def _median(curves: list[Curve], field: str) -> float:
    return float(np.median([getattr(curve, field) for curve in curves]))


def _table(batch: int, runs: Runs) -> Table:
    rows = []
    params = _initial(0)
    for variant, by_rate in runs.items():
        rate = _best_rate(by_rate)
        curves = by_rate[rate]
        steps = [float(np.median([c.reach(t) for c in curves])) for t in TARGETS]
        state = jax.eval_shape(variant.transformation().init, params)
        took = np.median(np.concatenate([curve.seconds for curve in curves]))
        losses = [curve.best for curve in curves]
        rows.append((
            variant.label, rate, _median(curves, "best"), min(losses), max(losses),
            *(int(s) if np.isfinite(s) else "never" for s in steps),
            count(state) / count(params), 1e3 * float(took), len(curves),
        ))  # fmt: skip
    columns = (
        "factors", "learning rate", "best loss", "least", "largest",
        *(f"steps to {target:.2f}" for target in TARGETS),
        "state numbers a parameter", "median step ms", "seeds",
    )  # fmt: skip
    note = (
        "Validation loss: the best of a run, medians over seeds, at the learning rate of "
        f"{', '.join(map(str, RATES))} that is best for each. Cosine schedule."
    )
    return Table(f"Batch {batch}", columns, rows, note)


def draw(runs: Runs, batch: int, path: Path) -> None:
    """Loss against steps, and best loss against the size of the state."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    params = _initial(0)
    for variant, by_rate in runs.items():
        curves = by_rate[_best_rate(by_rate)]
        style = {"per tile": "--", "adam": ":"}.get(variant.kind, "-")
        losses = np.median([curve.losses for curve in curves], axis=0)
        (line,) = left.plot(curves[0].steps, losses, style, label=variant.label)
        state = jax.eval_shape(variant.transformation().init, params)
        bests = [curve.best for curve in curves]
        marker = "s" if variant.kind == "per tile" else "o"
        numbers = [count(state) / count(params)] * len(bests)
        right.plot(numbers, bests, marker, color=line.get_color(), label=variant.label)
    left.set(xlabel="steps", ylabel="validation loss", yscale="log")
    right.set(xlabel="numbers of state a parameter", ylabel="best validation loss")
    left.set_title(f"batch {batch}: median over seeds")
    right.set_title("one mark a seed")
    left.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

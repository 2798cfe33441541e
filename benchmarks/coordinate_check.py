r"""Does one learning rate serve every width?

Multilayer perceptrons on real digits: by how much the outputs of each layer change in
the first steps, and which learning rate is the best. In the standard parametrization
weights have the variance 1 / n_in, and all layers one learning rate; under the spectral
condition (Yang, Simon and Bernstein, *A Spectral Condition for Feature Learning*, 2023)
both depend on n_out / n_in as well.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from jaxla.kron import Layers, power_iteration, spectral_init
from jaxla.optim import scale_by_spectral_condition, scale_by_width
from jaxla.testing import coordinate_check, CoordinateCheck

from . import _mlp
from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table


QUESTION = """How do the changes of features in the first steps, and the best learning
rate, depend on the width of a network on real digits: in the standard parametrization,
and under the spectral condition?"""

STANDARD, SPECTRAL = "standard", "spectral condition"
LAYOUT = Layers(layout="flax")  # weights are (in, out)
NARROW = 64  # the width at which learning rates are those of the plain optimizer
STEPS, BATCH = 50, 64  # of training, to find the best learning rate


class Way(NamedTuple):
    """A way to train: how weights are drawn, an optimizer, and a rate to start from."""

    name: str
    condition: str
    init: Callable
    optimizer: optax.GradientTransformation
    rate: float

    def __str__(self):
        return f"{self.name}, {self.condition}"


def main(arguments=None):
    return run_script("coordinate_check", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    changes, losses = {}, {}
    for way in settings.choose(ways(), ways()[-1:]):
        for steps in settings.choose((1, 4), (1,)):
            changes[way, steps] = changes_of_features(way, steps, settings)
            say(f"{way}, {steps} steps:\n{changes[way, steps]}")
        for width in settings.choose((64, 256, 1024), (16,)):
            factors = 2.0 ** settings.choose(np.arange(-3, 6), np.arange(2))
            losses[way, width] = losses_of_rates(way, width, way.rate * factors)
        say(f"{way}: trained")
    tables = [changes_table(changes), rates_table(losses), estimates_table(settings)]
    pictures = []
    if settings.out is not None:
        pictures.append("coordinate_check.png")
        draw(changes, losses, settings.out / pictures[0])
    return Findings(tables, figures(changes, losses), ["scikit-learn"], pictures)


def ways() -> list[Way]:
    base = jax.eval_shape(lambda: standard_init(jax.random.key(0), NARROW))
    by_width = lambda kind: scale_by_width(kind, base=base, layers=LAYOUT)
    adam = optax.scale_by_adam()
    adam_by_width = optax.chain(adam, by_width("adam"))
    own = scale_by_spectral_condition(layers=LAYOUT)
    normalized = optax.chain(optax.ema(0.9), own)
    return [
        Way("SGD", STANDARD, standard_init, optax.identity(), 0.1),
        Way("SGD", SPECTRAL, init, by_width("sgd"), 0.1),
        Way("Adam", STANDARD, standard_init, adam, 1e-3),
        Way("Adam", SPECTRAL, init, adam_by_width, 1e-3),
        Way("normalized", SPECTRAL, init, normalized, 0.05),
    ]


def standard_init(key: jax.Array, width: int) -> _mlp.Params:
    return _mlp.init(key, (64, width, width, 10))


def init(key: jax.Array, width: int) -> _mlp.Params:
    return spectral_init(key, standard_init(key, width), LAYOUT)


def changes_of_features(way: Way, steps: int, settings: Settings) -> CoordinateCheck:
    x, labels = digits(BATCH)
    opt = optax.chain(way.optimizer, optax.scale_by_learning_rate(way.rate))
    return coordinate_check(
        way.init,
        lambda params: outputs(params, x),
        lambda params: _mlp.loss(params, x, labels),
        lambda width: opt,
        settings.choose([2**k for k in range(6, 13)], (16, 32)),
        steps=steps,
        seeds=settings.num_rounds(2),
    )


def losses_of_rates(way: Way, width: int, rates: np.ndarray) -> dict[float, float]:
    """The loss on all examples after some steps, for each learning rate."""
    x, labels = digits(None)

    @jax.jit
    def train(key, rate):
        opt = optax.chain(way.optimizer, optax.scale(-rate))
        step, params = _mlp.training_step(opt), way.init(key, width)
        batches = jax.random.randint(key, (STEPS, BATCH), 0, len(x))
        go = lambda carry, own: (step(*carry, x[own], labels[own]), None)
        (params, _), _ = jax.lax.scan(go, (params, opt.init(params)), batches)
        return _mlp.loss(params, x, labels)

    return {float(rate): float(train(jax.random.key(0), rate)) for rate in rates}


def digits(number: int | None) -> tuple[jax.Array, jax.Array]:
    """Handwritten digits of 8 x 8 pixels, each pixel standardized."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images - images.mean(0)) / images.std(0).clip(1e-6)
    return jnp.asarray(pixels[:number], jnp.float32), jnp.asarray(labels[:number])


def outputs(params: _mlp.Params, x: jax.Array) -> dict[str, jax.Array]:
    """Of each layer, before tanh."""
    first = x @ params[0]["w"] + params[0]["b"]
    second = jnp.tanh(first) @ params[1]["w"] + params[1]["b"]
    return {"1 first": first, "2 hidden": second, "3 logits": _mlp.logits(params, x)}


def changes_table(changes: dict) -> Table:
    rows = []
    for (way, steps), check in changes.items():
        for layer, change in check.changes.items():
            ends = (float(change[0].mean()), float(change[-1].mean()))
            names = (way.name, way.condition, steps, layer[2:])
            rows.append((*names, *ends, check.slopes[layer]))
    widths = next(iter(changes.values())).widths
    columns = ("optimizer", "parametrization", "steps", "layer")
    columns += (f"width {widths[0]}", f"width {widths[-1]}", "slope")
    note = (
        "The root of the mean square of the change of a layer's outputs before tanh, and "
        f"its slope over widths {', '.join(map(str, widths))}, both as logarithms: 0 if "
        "the width does not matter."
    )
    return Table("Changes of features", columns, rows, note)


def rates_table(losses: dict) -> Table:
    rows = []
    for (way, width), found in losses.items():
        rate = best(found)
        carried = found[best(first(losses, way))]
        rows.append((way.name, way.condition, width, rate, found[rate], carried))
    columns = ("optimizer", "parametrization", "width", "best rate", "loss with it")
    columns += ("with the best of the narrowest",)
    note = (
        f"The loss on all digits after {STEPS} steps with batches of {BATCH}, for rates "
        "in steps of 2; the best is the one with the smallest loss."
    )
    return Table("Learning rates", columns, rows, note)


def estimates_table(settings: Settings) -> Table:
    """How far power iterations stay behind the norms of gradients in training."""
    width, number = settings.choose((256, 40), (16, 3))
    x, labels = digits(None)
    params = jax.jit(init, static_argnums=1)(jax.random.key(0), width)
    opt = optax.adam(3e-3)
    gradient, update = jax.jit(jax.grad(_mlp.loss)), jax.jit(opt.update)
    state, average = opt.init(params), optax.ema(0.9)
    take_in, apply = jax.jit(average.update), jax.jit(optax.apply_updates)
    batches = jax.random.randint(jax.random.key(1), (number, 32), 0, len(x))
    single, averaged = [], []
    memory = average.init(params)
    for own in batches:
        grads = gradient(params, x[own], labels[own])
        mean, memory = take_in(grads, memory)
        updates, state = update(grads, state, params)
        params = apply(params, updates)
        single.append([layer["w"] for layer in grads])
        averaged.append([layer["w"] for layer in mean])
    rows = []
    for name, sequence in (("gradient", single), ("its average", averaged)):
        exact = np.array([[np.linalg.norm(g, 2) for g in gs] for gs in sequence])
        for steps in settings.choose((0, 1, 2, 4), (1,)):
            error = 1 - estimates(sequence, steps) / exact
            rows.append((name, steps, float(error.mean()), float(error.max())))
    note = (
        f"Relative errors of spectral norms of all weights' gradients, width {width}, in "
        f"the first {number} steps of Adam with batches of 32; decay of averages 0.9."
    )
    columns = ("of", "power steps", "mean error", "largest error")
    return Table("Estimates of spectral norms", columns, rows, note)


def estimates(sequence: list[list[jax.Array]], steps: int) -> np.ndarray:
    update = jax.jit(lambda gs, vs: power_iteration(gs, vs, steps=steps))
    vectors = [jnp.zeros(min(g.shape)) for g in sequence[0]]
    found = []
    for gs in sequence:
        norms, vectors = update(gs, vectors)
        found.append(norms)
    return np.array(found, "float64")


def first(losses: dict, way: Way) -> dict[float, float]:
    return next(found for (own, _), found in losses.items() if own is way)


def best(found: dict[float, float]) -> float:
    finite = {rate: loss for rate, loss in found.items() if np.isfinite(loss)}
    return min(finite, key=finite.__getitem__)


def figures(changes: dict, losses: dict) -> list[Figure]:
    slopes = [
        abs(slope)
        for (way, _), check in changes.items()
        if way.condition == SPECTRAL
        for slope in check.slopes.values()
    ]
    shifts = [
        2 ** abs(np.log2(best(found) / best(first(losses, way))))
        for (way, _), found in losses.items()
        if way.condition == SPECTRAL
    ]
    return [
        Figure("largest slope under the spectral condition", 0.05, max(slopes)),
        Figure("factor between the best rates of two widths", 2.0, float(max(shifts))),
    ]


def draw(changes: dict, losses: dict, path) -> None:
    import matplotlib.pyplot as plt

    chosen = ways()
    figure, axes = plt.subplots(2, len(chosen), figsize=(15, 6), sharey="row")
    steps = max(number for _, number in changes)
    for i, name in enumerate(map(str, chosen)):
        upper, lower = axes[:, i]
        upper.set_title(name, fontsize=10)
        for (way, number), check in changes.items():
            if str(way) == name and number == steps:
                for layer, change in check.changes.items():
                    upper.loglog(check.widths, change.mean(1), ".-", label=layer[2:])
        for (way, width), found in losses.items():
            if str(way) == name:
                label = f"width {width}"
                lower.loglog(list(found), list(found.values()), ".-", label=label)
        upper.set_xlabel("width")
        lower.set_xlabel("learning rate")
    axes[0, 0].set_ylabel(f"change of outputs in {steps} steps")
    axes[1, 0].set_ylabel(f"loss after {STEPS} steps")
    axes[0, 0].legend()
    axes[1, 0].legend()
    axes[1, 0].set_ylim(0.03, 3)
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

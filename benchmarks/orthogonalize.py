"""Muon on many matrices of one shape, and how long it compiles for many shapes."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxla.matfun import polar_express
from jaxla.optim import muon, steepest_descent

from ._compare import timing_table, worst_ratio
from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table
from ._timing import compile_interleaved, ratio


QUESTION = """How fast is Muon's update of 64 matrices of 256 x 256, stacked, against leaf
by leaf in Optax; how orthogonal is it; and how long does it compile for an Equinox model
of 40 leaves, all of different shapes, against Adam?"""

OURS, THEIRS = "jaxla muon", "optax.contrib.muon"
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    OURS: muon,
    "jaxla muon, 4 steps": functools.partial(muon, engine=polar_express(4)),
    "jaxla muon, quintic": functools.partial(muon, engine="quintic"),
    "jaxla muon, exact": functools.partial(muon, engine="exact"),
    THEIRS: optax.contrib.muon,
}


def main(arguments=None):
    return run_script("orthogonalize", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    count, n = settings.choose((64, 256), (3, 8))
    rng = np.random.default_rng(0)
    grads = [jnp.asarray(rng.standard_normal((n, n)), jnp.float32) for _ in range(count)]
    label = f"{count} of {n} x {n}"
    # The state is that of `init`: zeros, whose share in the time is small in both.
    times, ratios = timing_table(
        "Time of one update",
        {label: (grads,)},
        {name: _update(make(1.0)) for name, make in OPTIMIZERS.items()},
        THEIRS,
        settings,
        rounds=15,
        budget=60,
        note="Both make five steps of products; jaxla makes three more products to find "
        "the scale, unless a row says otherwise.",
    )
    compiled, slowest = _compile_times(settings)
    figures = [
        Figure(f"time of muon / optax.contrib.muon, {label}", 1 / 3,
               worst_ratio(ratios, OURS)),
        Figure("compile time / Adam's, 40 leaves of different shapes", 3, slowest),
    ]  # fmt: skip
    return Findings([times, _orthogonality(grads[:4]), compiled], figures)


def _update(opt: optax.GradientTransformation) -> Callable:
    return lambda grads: opt.update(grads, opt.init(grads), grads)[0]


def _orthogonality(grads: list[jax.Array]) -> Table:
    """How far the updates are from orthogonal ones, for spectra of different width."""
    n = grads[0].shape[0]
    u, _, vt = np.linalg.svd(np.asarray(grads[0], np.float64))
    spectra = {"normal": np.asarray(grads[0], np.float64)}
    for decades in (1, 3):
        spectra[f"condition 1e{decades}"] = (u * np.geomspace(1, 10.0**-decades, n)) @ vt
    rows = []
    for name, make in OPTIMIZERS.items():
        for label, a in spectra.items():
            update = jax.jit(_update(make(-1.0)))([jnp.asarray(a, jnp.float32)])
            values = np.linalg.svd(np.asarray(update[0], np.float64), compute_uv=False)
            error = float(np.sqrt(np.mean((values - 1) ** 2)))
            rows.append((name, label, float(values[-1]), float(values[0]), error))
    columns = ("method", "spectrum", "smallest", "largest", "error")
    note = "Singular values of the update; the error is the root of their mean squared "
    return Table("Orthogonality, float32", columns, rows, note + "distance from 1.")


def _compile_times(settings: Settings) -> tuple[Table, float]:
    """The update for a model with as many shapes as it has leaves."""
    low, high, layers = settings.choose((40, 134, 20), (4, 9, 3))
    sizes = np.random.default_rng(0).integers(low, high, size=layers + 1)
    keys = jax.random.split(jax.random.key(0), layers)
    model = [
        eqx.nn.Linear(int(m), int(k), key=key)
        for m, k, key in zip(sizes[:-1], sizes[1:], keys, strict=True)
    ]
    params = eqx.filter(model, eqx.is_inexact_array)
    makers = {"optax.adam": optax.adam, "jaxla steepest_descent": steepest_descent}
    jobs = {}
    for name, make in (makers | OPTIMIZERS).items():
        opt = make(1.0)
        jobs[name] = opt.update, (params, opt.init(params), params)
    made = compile_interleaved(
        jobs, rounds=settings.num_rounds(3), warmup=settings.choose(1, 0), progress=say
    )
    base, rows, ratios = made["optax.adam"], [], {}
    for name, each in made.items():
        wall = [c.seconds for c in each]
        ratios[name] = ratio(wall, [c.seconds for c in base])
        cpu = ratio([c.cpu_seconds for c in each], [c.cpu_seconds for c in base])
        rows.append((
            name, float(np.median(wall)), ratios[name], cpu, each[-1].instructions,
        ))  # fmt: skip
    columns = ("method", "compile s", "compile / Adam", "CPU / Adam", "HLO instructions")
    slowest = max(value for name, value in ratios.items() if name.startswith("jaxla"))
    return Table("Compiling the update for 40 leaves", columns, rows), slowest


if __name__ == "__main__":
    main()

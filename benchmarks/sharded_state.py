"""Does the state for each device fall as one over their number, with the same result?"""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxla
from jaxla.kron import Blocks

from ._harness import Findings, run_script, say, Settings
from ._mlp import count, init
from ._report import Figure, Table


QUESTION = """How many bytes of the state of each blocked optimizer lie on each of 1 to 8
simulated devices, and do the updates equal those of one device? The parameters, of a
multilayer perceptron, are replicated, and so are moments of their shape; the stacks of
factors, roots, bases and second moments in these are spread."""

OPTIMIZERS = {
    "shampoo": jaxla.optim.shampoo,
    "soap": jaxla.optim.soap,
    "kl_shampoo": jaxla.optim.kl_shampoo,
}
STEPS = 3


def main(arguments=None):
    return run_script("sharded_state", QUESTION, measure, arguments)


def measure(settings: Settings) -> Findings:
    available = jax.device_count()
    numbers = [n for n in settings.choose((1, 2, 4, 8), (1, 2)) if n <= available]
    sizes = settings.choose((256, 512, 512, 64, 10), (32, 16, 10))
    params = init(jax.random.key(0), sizes)
    grads = [_normal_like(params, i) for i in range(STEPS)]
    rows, figures = [], []
    for name, make in OPTIMIZERS.items():
        blocks = Blocks(size=settings.choose(64, 8), refresh_every=2)
        needed, _ = _bytes(make(0.1, blocks=blocks).init(params))
        # The same blocks have their turn whatever the number of devices.
        opt = make(0.1, blocks=dataclasses.replace(blocks, shards=numbers[-1]))
        expected = None
        for devices in numbers:
            state, updates = _run(opt, params, grads, devices)
            expected = expected or updates
            spread, whole = _bytes(state)
            rows.append((
                name, devices, spread / 2**20, whole / 2**20, devices * spread / needed,
                _difference(updates, expected),
            ))  # fmt: skip
            say(f"{name} on {devices}")
        told = f"{name} on {numbers[-1]} devices"
        figures += [
            Figure(f"{told}: stacks on each, times devices / needed", 1.1, rows[-1][4]),
            Figure(f"{told}: difference of the updates", 1e-4, rows[-1][5]),
        ]
    columns = (
        "optimizer", "devices", "MiB of stacks on each", "MiB of moments on each",
        "stacks x devices / needed", "difference",
    )  # fmt: skip
    note = (
        f"{count(params):,} parameters. Needed are the stacks without the spare factors "
        "that make them a multiple of the devices. The difference is the largest, of "
        f"{STEPS} updates, from those of one device, relative to their norm."
    )
    return Findings([Table("State on each device", columns, rows, note)], figures)


def _normal_like(params: Any, seed: int) -> Any:
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draws = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return tree.unflatten(draws)


def _run(opt: optax.GradientTransformation, params: Any, grads: list, devices: int):
    """The state after some updates on a mesh, and the updates."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("x",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params, grads = jax.device_put((params, grads), everywhere)
    where = jaxla.optim.shardings(opt, params, mesh, "x")
    state = jax.jit(opt.init, out_shardings=where)(params)
    update = jax.jit(opt.update, out_shardings=(everywhere, where))
    updates = []
    for grad in grads:
        out, state = update(grad, state, params)
        updates.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(out)]))
    return state, updates


def _bytes(state: Any) -> tuple[int, int]:
    """What the first device holds: of what is spread, or would be, and of the rest."""
    stacks = [
        optax.tree.get(state, field, {})
        for field in ("factors", "roots", "residuals", "bases", "spectra", "variances")
    ]
    spread = sum(_held(x) for x in jax.tree.leaves(stacks))
    return spread, sum(_held(x) for x in jax.tree.leaves(state)) - spread


def _held(x: jax.Array) -> int:
    return x.addressable_shards[0].data.nbytes


def _difference(updates: list, expected: list) -> float:
    norm = np.linalg.norm
    return max(
        float(norm(x - y) / norm(y)) for x, y in zip(updates, expected, strict=True)
    )


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main()

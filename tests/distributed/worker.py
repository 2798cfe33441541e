"""One process of several: Shampoo on a mesh over all of them.

Run as `python worker.py ADDRESS NUM_PROCESSES PROCESS_ID OUTPUT`. With one process
there is no coordinator, and the same numbers must come out.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxla.optim import Blocks, shampoo, shardings


DEVICES = 4  # in all
SHAPES = {"bias": (5,), "cols": (8, 16), "rows": (16, 8)}
SPECS = {"bias": P(), "cols": P(None, "x"), "rows": P("x", None)}


def main(address: str, num_processes: str, process_id: str, output: str) -> None:
    jax.config.update("jax_num_cpu_devices", DEVICES // int(num_processes))
    if int(num_processes) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, int(num_processes), int(process_id))
    assert jax.device_count() == DEVICES
    mesh = jax.make_mesh((DEVICES,), ("x",), axis_types=(AxisType.Explicit,))
    opt = shampoo(
        0.1, weight_decay=0.1, blocks=Blocks(size=8, refresh_every=2, shards=DEVICES)
    )
    params = spread(random_tree(0), mesh)
    where = shardings(opt, params, mesh, "x")
    state = jax.jit(opt.init, out_shardings=where)(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for seed in range(1, 6):
        params, state = step(params, state, spread(random_tree(seed), mesh))
    mine = [
        shard.data.shape for shard in optax.tree.get(state, "roots")[8].addressable_shards
    ]
    # Three factors of each matrix, rounded up to two a device; each process has its own.
    assert mine == [(2, 8, 8)] * jax.local_device_count(), mine
    gather = jax.jit(
        lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=_whole(mesh)
    )
    everything = gather({**params, "roots": optax.tree.get(state, "roots")[8]})
    if jax.process_index() == 0:
        np.savez(output, **jax.tree.map(np.asarray, everything))


def random_tree(seed):
    rng = np.random.default_rng(seed)
    return {name: np.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()}


def spread(tree, mesh):
    """Each process gives of an array the parts that lie on its own devices."""
    return {
        name: jax.make_array_from_callback(
            x.shape, NamedSharding(mesh, SPECS[name]), x.__getitem__
        )
        for name, x in tree.items()
    }


def _whole(mesh):
    return NamedSharding(mesh, P())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Other packages' preconditioned optimizers, as far as they can be imported.

A peer that needs help to run is told with the help that it got; one that cannot be
imported is told with its error.
"""

import dataclasses
import importlib
import sys
import types
from collections.abc import Callable

import optax

from ._environment import version


@dataclasses.dataclass(frozen=True)
class Peer:
    """An optimizer of another package.

    - `distribution`: the name to install it by.
    - `make`: from a learning rate to the optimizer; imports the package.
    - `shim`: what was done to make it run, or nothing.
    """

    distribution: str
    make: Callable[[float], optax.GradientTransformation]
    shim: str = ""

    @property
    def label(self) -> str:
        return f"{self.distribution} ({self.shim})" if self.shim else self.distribution


def _psgdax(rate: float) -> optax.GradientTransformation:
    return importlib.import_module("psgdax").kron(rate)


def _psgd_jax(rate: float) -> optax.GradientTransformation:
    # It looks in a module that Optax no longer has for a function that it still has.
    missing = types.ModuleType("optax._src.clipping")
    missing.__dict__["clip_by_block_rms"] = optax.clip_by_block_rms
    sys.modules.setdefault(missing.__name__, missing)
    return importlib.import_module("psgd_jax.kron").kron(rate)


def _distributed_kron(rate: float) -> optax.GradientTransformation:
    return importlib.import_module("distributed_kron").kron(rate)


def _precondition(rate: float) -> optax.GradientTransformation:
    module = importlib.import_module("precondition.distributed_shampoo")
    return module.distributed_shampoo(
        rate, block_size=128, preconditioning_compute_steps=10, batch_axis_name=None
    )


PEERS = (
    Peer("psgdax", _psgdax),
    Peer("psgd-jax", _psgd_jax, "shim: stand-in for a removed module of Optax"),
    Peer("distributed-kron", _distributed_kron),
    Peer("precondition-opt", _precondition),
)


def optimizers(
    rate: float, params, names: tuple[str, ...] | None = None
) -> tuple[dict[str, optax.GradientTransformation], list[tuple[str, str]]]:
    """The peers that work here, and for each of the others why it does not.

    **Arguments:**

    - `rate`: the learning rate.
    - `params`: parameters on which each is tried, without compiling anything.
    - `names`: of the distributions to consider, by default all.
    """
    working, failing = {}, []
    for peer in PEERS:
        if names is not None and peer.distribution not in names:
            continue
        if version(peer.distribution) is None:
            failing.append((peer.distribution, "not installed"))
            continue
        try:
            opt = peer.make(rate)
            opt.update(params, opt.init(params), params)
        except Exception as error:
            failing.append((peer.label, f"{type(error).__name__}: {error}"))
        else:
            working[peer.label] = opt
    return working, failing

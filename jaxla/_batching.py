"""Functions that see the batch axes of `jax.vmap` as their own."""

from collections.abc import Callable

import jax
from jax import custom_batching


def native_vmap(fn: Callable) -> Callable:
    """`fn`, which takes leading batch axes, and gets one more in place of being mapped.

    So it can choose a method by the number of matrices; and a `cond` on all of them
    stays one, which mapped becomes a `select` that computes both branches. Arguments
    without the axis of `jax.vmap` come with an axis of length 1.
    """
    mapped = custom_batching.custom_vmap(fn)

    @mapped.def_vmap
    def _(_, in_batched, *args):
        expand = lambda x, batched: x if batched else x[None]
        out = mapped(*jax.tree.map(expand, args, tuple(in_batched)))
        return out, jax.tree.map(lambda _: True, out)

    return mapped

"""A table of what an optimizer does with each parameter."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import optax

from jaxla import kron


_Recorded = tuple[kron.Plan, kron.Blocks, str, Callable[[int], int]]
_recorded: contextvars.ContextVar[list[_Recorded] | None] = contextvars.ContextVar(
    "_recorded", default=None
)


def describe(opt: optax.GradientTransformation, params: Any) -> str:
    """Tells which parameter gets what, and what it costs.

    Works on any Optax transformation that has a blocked optimizer of jaxla
    somewhere inside: chained, masked, partitioned or with injected
    hyperparameters. Nothing is computed and nothing allocated.

    **Arguments:**

    - `opt`: the transformation.
    - `params`: the parameters, or a tree of `jax.ShapeDtypeStruct`.

    **Returns:**

    A text for `print`: for each parameter its path and shape, how it is treated, and
    its left and right blocks; then for each block size the number of factors and of
    roots (or bases) a step, the cost of these, and the bytes of the state; a byte that
    holds two entries of four bits counts as a number. Rules that match no parameter are
    named.

    !!! example

        >>> import jax, jaxla
        >>> params = {"b": jax.ShapeDtypeStruct((256,), "float32"),
        ...           "w": jax.ShapeDtypeStruct((784, 256), "float32")}
        >>> print(jaxla.optim.describe(jaxla.optim.shampoo(1e-3), params))
        parameter  shape    treated as  left blocks  right blocks
        b          256      diagonal    -            -
        w          784x256  784x256     7 of 128     2 of 128
        <BLANKLINE>
        block size  factors  roots a step  MFLOP a step
        128         9        1             155
        <BLANKLINE>
        state: 2.66 MiB, 3.47 numbers a parameter
    """
    with _listening() as plans:
        state = jax.eval_shape(opt.init, params)
    plans = [recorded for recorded in plans if recorded[0].leaves]  # not all masked
    if not plans:
        raise ValueError(
            "`opt` has no blocked optimizer of jaxla in it, or none of its parameters."
        )
    tables = [table for plan in plans for table in _tables(*plan)]
    leaves, held = jax.tree.leaves(params), jax.tree.leaves(state)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in held)
    numbers = sum(leaf.size for leaf in held) / sum(leaf.size for leaf in leaves)
    total = f"state: {size / 2**20:.2f} MiB, {numbers:.2f} numbers a parameter"
    return "\n\n".join([*tables, total])


def record_plan(
    plan: kron.Plan, blocks: kron.Blocks, renewed: str, flops: Callable[[int], int]
) -> None:
    """Tells `describe`, if it is listening, how `init` cuts its parameters.

    `renewed` is what is computed anew of each factor, "roots" or "bases", and `flops`
    what that costs for a size.
    """
    plans = _recorded.get()
    if plans is not None:
        plans.append((plan, blocks, renewed, flops))


@contextlib.contextmanager
def _listening() -> Iterator[list[_Recorded]]:
    plans: list[_Recorded] = []
    token = _recorded.set(plans)
    try:
        yield plans
    finally:
        _recorded.reset(token)


def _tables(
    plan: kron.Plan, blocks: kron.Blocks, renewed: str, flops: Callable[[int], int]
) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [
        ("parameter", "shape", "treated as", "left blocks", "right blocks")
    ]
    for leaf in plan.leaves:
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        if leaf.axes is None:
            rows.append((leaf.path, shape, "diagonal", "-", "-"))
            continue
        batch, m, n = leaf.matrix_shape
        matrix = f"{m}x{n}" if batch == 1 else f"{batch} of {m}x{n}"
        left, right = leaf.num_factors
        left_blocks = f"{left} of {leaf.tile[0]}" if left else "-"
        right_blocks = f"{right} of {leaf.tile[1]}" if right else "-"
        rows.append((leaf.path, shape, matrix, left_blocks, right_blocks))
    yield _align(rows)
    unused = blocks.unused_rules([leaf.path for leaf in plan.leaves])
    if unused:
        yield f"rules that match no parameter: {', '.join(map(repr, unused))}"
    rows = [("block size", "factors", f"{renewed} a step", "MFLOP a step")]
    for size, count in plan.num_factors.items():
        roots = kron.roots_per_step(count, blocks)
        mflop = roots * flops(size) / 1e6
        rows.append((str(size), str(count), str(roots), f"{mflop:.0f}"))
    if len(rows) > 1:
        yield _align(rows)


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )

"""Checks that a state can be saved, restored, and given away."""

import io
import pathlib
import tempfile
import unittest
import warnings
from typing import Any

import equinox as eqx
import jax

from ._toy import (
    assert_close,
    assert_identical,
    contract,
    Factory,
    named_leaves,
    plain_run,
    Run,
    toy_params,
)


def check_orbax(factory: Factory) -> None:
    """A state survives Orbax, and training goes on as if nothing had happened.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if the state cannot be saved or restored, or if it, or the next
    update, differs in one bit. Raises `unittest.SkipTest` without Orbax
    (`pip install orbax-checkpoint`).

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_orbax(optax.adam)
    """
    try:
        import orbax.checkpoint
    except ImportError:
        reason = "needs `pip install orbax-checkpoint`"
        raise unittest.SkipTest(reason) from None

    run = plain_run(factory)
    with (
        contract(
            "Orbax saves states. It refuses arrays without entries, and keeps the names "
            "of fields, which are a file format."
        ),
        tempfile.TemporaryDirectory() as folder,
        orbax.checkpoint.StandardCheckpointer() as checkpointer,
    ):
        path = pathlib.Path(folder).resolve() / "state"
        checkpointer.save(path, run.states[1])
        checkpointer.wait_until_finished()
        like = jax.eval_shape(lambda: run.states[1])
        _check_restored(run, checkpointer.restore(path, like))


def check_serialisation(factory: Factory) -> None:
    """A state survives Equinox, and training goes on as if nothing had happened.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `eqx.tree_serialise_leaves` or its counterpart fails, or if
    the state or the next update differs in one bit.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_serialisation(optax.adam)
    """
    run, file = plain_run(factory), io.BytesIO()
    with contract("Equinox saves states: arrays and numbers, and no typed random keys."):
        eqx.tree_serialise_leaves(file, run.states[1])
        file.seek(0)
        like = jax.eval_shape(run.opt.init, run.params)
        _check_restored(run, eqx.tree_deserialise_leaves(file, like))


def check_donation(factory: Factory) -> None:
    """A step may reuse the memory of the old state.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation.

    **Returns:**

    Nothing; raises if `jax.jit(update, donate_argnums=1)` fails, because two fields
    of the state are one array, or warns that some of the state cannot be reused.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_donation(optax.adam)
    """
    run, params = plain_run(factory), toy_params()
    update = jax.jit(run.opt.update, donate_argnums=1)
    with contract(
        "the state is a set of separate arrays of lasting type. Make each field by a "
        "`jnp.zeros_like` of its own, keep no array of `init` for another use, and copy "
        "parameters that you store."
    ):
        for _ in range(2):  # an array that `init` hands out twice is gone by then
            state = run.opt.init(params)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # JAX warns where donation is in vain
                updates, _ = update(run.grads[0], state, params)
            assert_close(updates, run.updates[0], "The updates with a donated state")
            gone = [path for path, x in named_leaves(params) if x.is_deleted()]
            assert not gone, f"The state shares memory with the parameters {gone}."


def _check_restored(run: Run, restored: Any) -> None:
    assert_identical(restored, run.states[1], "The restored state")
    updates, state = run.update(run.grads[1], restored, run.params)
    assert_identical(updates, run.updates[1], "The update after restoring")
    assert_identical(state, run.states[2], "The state after restoring")

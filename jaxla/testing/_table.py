"""The table of checks, and the function that runs them all."""

import unittest
from collections.abc import Callable, Collection

from ._checkpoints import check_donation, check_orbax, check_serialisation
from ._hyperparameters import check_injection, check_schedule
from ._meshes import check_auto_mesh, check_explicit_mesh
from ._state import (
    check_abstract_init,
    check_compiles_once,
    check_count,
    check_dtypes,
    check_extra_args,
    check_hidden_state,
    check_state_leaves,
    check_state_type,
)
from ._toy import Factory
from ._transforms import check_differentiable, check_jit, check_scan, check_vmap
from ._trees import check_empty_tree, check_equinox, check_odd_leaves, check_tree_type
from ._values import check_descends, check_zero_gradient
from ._wrappers import (
    check_apply_if_finite,
    check_map_params,
    check_masked,
    check_multi_steps,
    check_partition,
)


Check = Callable[[Factory], None]

TRANSFORMATION_CHECKS: tuple[Check, ...] = (
    check_abstract_init,
    check_state_type,
    check_state_leaves,
    check_count,
    check_compiles_once,
    check_dtypes,
    check_extra_args,
    check_hidden_state,
    check_injection,
    check_schedule,
    check_masked,
    check_partition,
    check_multi_steps,
    check_apply_if_finite,
    check_map_params,
    check_jit,
    check_scan,
    check_vmap,
    check_differentiable,
    check_tree_type,
    check_odd_leaves,
    check_empty_tree,
    check_equinox,
    check_orbax,
    check_serialisation,
    check_donation,
    check_auto_mesh,
    check_explicit_mesh,
    check_descends,
    check_zero_gradient,
)
"""Every check that must hold for any Optax optimizer, for `pytest.mark.parametrize`."""


def check_transformation(
    factory: Factory,
    *,
    checks: Collection[Check] = TRANSFORMATION_CHECKS,
    skip: Collection[Check] = (),
) -> dict[str, str]:
    """Runs the contract checks on an Optax transformation of your own.

    **Arguments:**

    - `factory`: a function from a learning rate to a transformation, such as
        `optax.adam`; a `functools.partial` fixes static choices. Its other numeric
        arguments are the hyperparameters that [`jaxla.testing.check_injection`][]
        injects.
    - `checks`: which checks, all by default.
    - `skip`: those of them to leave out.

    **Returns:**

    The checks that could not run here, with the reason: no Orbax, or one device
    only. If a check fails, the others still run; then an `ExceptionGroup` with all
    failures is raised. Each says which part of the contract is broken and what to do.

    !!! example

        >>> import jaxla.testing, optax
        >>> jaxla.testing.check_transformation(
        ...     optax.sgd, checks=[jaxla.testing.check_scan, jaxla.testing.check_vmap])
        {}
    """
    skipped, failures = {}, []
    for check in checks:
        if check in skip:
            continue
        try:
            check(factory)
        except unittest.SkipTest as reason:
            skipped[check.__name__] = str(reason)
        except Exception as error:
            error.add_note(f"Raised by `jaxla.testing.{check.__name__}`.")
            failures.append(error)
    if failures:
        raise ExceptionGroup(
            f"{len(failures)} of {len(checks)} contract checks failed", failures
        )
    return skipped

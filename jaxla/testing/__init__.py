"""Contract checks that you can run on Optax transformations and operators of your own.

    >>> import jaxla.testing, optax
    >>> checks = [jaxla.testing.check_masked, jaxla.testing.check_scan]
    >>> jaxla.testing.check_transformation(optax.adam, checks=checks)
    {}

In a test suite, one test a check:

```python
@pytest.mark.parametrize("check", jaxla.testing.TRANSFORMATION_CHECKS)
def test_my_optimizer(check):
    check(my_optimizer)  # a function from a learning rate to a transformation
```

A check that fails says which part of the contract is broken and what to do. One
that cannot run here raises `unittest.SkipTest`, which test runners show as skipped:
those on meshes need two devices, for instance simulated ones, by
`jax.config.update("jax_num_cpu_devices", 8)` before anything else; that of Orbax needs
`orbax-checkpoint`.

`coordinate_check` is another kind: it measures if the features of your model change alike
at every width.
"""

from ._checkpoints import (
    check_donation as check_donation,
    check_orbax as check_orbax,
    check_serialisation as check_serialisation,
)
from ._coordinates import (
    coordinate_check as coordinate_check,
    CoordinateCheck as CoordinateCheck,
)
from ._hyperparameters import (
    check_injection as check_injection,
    check_schedule as check_schedule,
)
from ._meshes import (
    check_auto_mesh as check_auto_mesh,
    check_explicit_mesh as check_explicit_mesh,
)
from ._operators import check_operator as check_operator
from ._state import (
    check_abstract_init as check_abstract_init,
    check_compiles_once as check_compiles_once,
    check_count as check_count,
    check_dtypes as check_dtypes,
    check_extra_args as check_extra_args,
    check_hidden_state as check_hidden_state,
    check_state_leaves as check_state_leaves,
    check_state_type as check_state_type,
)
from ._table import (
    check_transformation as check_transformation,
    TRANSFORMATION_CHECKS as TRANSFORMATION_CHECKS,
)
from ._transforms import (
    check_differentiable as check_differentiable,
    check_jit as check_jit,
    check_scan as check_scan,
    check_vmap as check_vmap,
)
from ._trees import (
    check_empty_tree as check_empty_tree,
    check_equinox as check_equinox,
    check_odd_leaves as check_odd_leaves,
    check_tree_type as check_tree_type,
)
from ._values import (
    check_descends as check_descends,
    check_nonfinite as check_nonfinite,
    check_zero_gradient as check_zero_gradient,
)
from ._wrappers import (
    check_apply_if_finite as check_apply_if_finite,
    check_map_params as check_map_params,
    check_masked as check_masked,
    check_multi_steps as check_multi_steps,
    check_partition as check_partition,
)

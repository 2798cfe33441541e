r"""Grafting: the direction of one method with the size of another's step."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxla._dtypes import safe_sqrt

from ._plan import Plan
from ._stacks import Stacks


def graft(stacks: Stacks, sizes: Float[Array, " leaves"], plan: Plan) -> Stacks:
    r"""Rescales the tiles of each parameter so that its norm is as given.

    $D \, s / \|D\|$ with the Frobenius norm over the whole of a parameter; zero where
    $D$ is zero.

    **Arguments:**

    - `stacks`: $D$, in the form of [`jaxla.kron.to_stacks`][]. A norm beyond
        about 1e-19 or 1e19 in `float32` under- or overflows, and gives zero.
    - `sizes`: $s$, one number a parameter of the plan.
    - `plan`: the plan.

    **Returns:**

    Stacks like `stacks`.

    **Differentiation:** both modes; the derivative at $D = 0$ is zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.array([[3.0, 0.0], [0.0, 4.0]])
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks())
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> out = jaxla.kron.graft(stacks, jnp.array([10.0]), plan)
        >>> print(jaxla.kron.from_stacks(out, plan)[0])
        [[6. 0.]
         [0. 8.]]

    ??? cite "Reference"

        Agarwal, Anil, Hazan, Koren and Zhang, *Disentangling Adaptive Gradient
        Methods from Learning Rates*, 2020.
    """
    norms = parameter_norms(stacks, plan)
    ratio = jnp.where(norms == 0, 0, sizes / jnp.where(norms == 0, 1, norms))
    owners = {size: plan.owners_of_tiles(size) for size in stacks}
    return {
        size: x * ratio[owners[size]][:, None, None].astype(x.dtype)
        for size, x in stacks.items()
    }


def parameter_norms(stacks: Stacks, plan: Plan) -> Float[Array, " leaves"]:
    """The Frobenius norm over all tiles of each parameter.

    **Arguments:**

    - `stacks`: in the form of [`jaxla.kron.to_stacks`][].
    - `plan`: the plan.

    **Returns:**

    One number a parameter of the plan; zero for those without tiles.

    **Differentiation:** both modes; the derivative at zero is zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.array([[3.0, 0.0], [0.0, 4.0]])
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks())
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> print(jaxla.kron.parameter_norms(stacks, plan))
        [5.]
    """
    totals = jax.ops.segment_sum(
        jnp.concatenate([jnp.sum(x * x, (1, 2)) for x in stacks.values()]),
        np.concatenate([plan.owners_of_tiles(size) for size in stacks]),
        len(plan.leaves),
    )
    return safe_sqrt(totals)

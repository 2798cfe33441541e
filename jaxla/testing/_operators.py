"""What a linear operator says of itself, against its matrix in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxla._dtypes import matmul
from jaxla.operators import Operator


Results = dict[str, Any]

# Sums, which may cancel: their errors are compared with 1, too.
_SUMS = ("slogdet", "trace", "derivative of logdet")


def check_operator(operator: Operator, *, factor: float = 100.0) -> None:
    """Everything that an operator computes fits the matrix that it says it is.

    Products, also with the transpose, solves, the determinant, the trace, the diagonal,
    eigenvectors and `plus_identity` are compared with NumPy's, in `float64`, for
    `as_matrix()`; the derivatives of products, solves and the log-determinant in both
    modes with those that the derivative of `as_matrix()` gives. All of it is computed
    under `jax.jit`, with the operator as an argument. What the operator refuses by
    `NotImplementedError` is not checked.

    **Arguments:**

    - `operator`: to be checked. A batch is fine; its matrices should not be large, and
        regular if they are square.
    - `factor`: how many times the rounding error of one operation, times the size and
        where it applies the condition number, an error may be.

    **Raises:** `AssertionError`, with what does not fit.

    !!! example

        >>> import jax.numpy as jnp, jaxla.testing
        >>> a = jaxla.operators.Kronecker(jnp.eye(2), 2 * jnp.ones((1, 1)))
        >>> jaxla.testing.check_operator(a)
    """
    x, tangent = _directions(operator)
    found, slopes, modes = jax.jit(_everything)(operator, tangent, x)
    a, da = (np.asarray(part["as_matrix"], "float64") for part in (found, slopes))
    expected, derivatives = _expected(a, da, np.asarray(x, "float64"))
    scale = factor * float(jnp.finfo(operator.dtype).eps) * max(operator.shape[-2:])
    square = a.shape[-1] == a.shape[-2]
    condition = np.linalg.cond(a).max(initial=1) if square else 1.0
    kind = type(operator).__name__
    for name, value in found.items():
        power = 1 if name in ("solve_mm", "slogdet") else 0
        _compare(name, kind, value, expected[name], scale * condition**power)
    for name, value in slopes.items():
        power = {"solve_mm": 2, "logdet": 1}.get(name, 0)
        tolerance = scale * condition**power
        _compare(f"derivative of {name}", kind, value, derivatives[name], tolerance)
    total = sum(np.abs(np.asarray(slope, "float64")).sum() for slope in slopes.values())
    forward, backward = (float(mode) for mode in modes)
    if not abs(forward - backward) <= scale * condition**2 * total:
        raise AssertionError(
            f"Forward and reverse mode differ for {kind}: {forward} and {backward}."
        )


def _directions(operator: Operator) -> tuple[jax.Array, Operator]:
    """Vectors to multiply, and a direction to derive in."""
    key = jax.random.key(0)
    *batch, _, n = operator.shape
    x = jax.random.normal(key, (*batch, n, 2), operator.dtype)
    leaves, tree = jax.tree.flatten(operator)
    keys = jax.random.split(key, len(leaves))
    tangents = [
        leaf * jax.random.uniform(key, leaf.shape, leaf.dtype, 0.1, 0.5)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return x, jax.tree.unflatten(tree, tangents)


def _everything(
    operator: Operator, tangent: Operator, x: jax.Array
) -> tuple[Results, Results, tuple[jax.Array, jax.Array]]:
    """What the operator computes, its derivatives, and their sum in both modes."""
    tasks = {"as_matrix": lambda a: a.as_matrix(), "mm": lambda a: a.mm(x)}
    plain = {
        "mv": lambda a: a.mv(x[..., 0]),
        "T": lambda a: a.T.as_matrix(),
        "T.mm": lambda a: a.T.mm(a.mm(x)),
    }
    if operator.shape[-1] == operator.shape[-2]:
        tasks |= {"solve_mm": lambda a: a.solve_mm(x), "logdet": lambda a: a.logdet()}
        plain |= {
            "slogdet": lambda a: tuple(a.slogdet()),
            "trace": lambda a: a.trace(),
            "diagonal": lambda a: a.diagonal(),
            "eigh": _rebuilt,
            "plus_identity": lambda a: a.plus_identity(0.5).as_matrix(),
        }
    tasks = {name: task for name, task in tasks.items() if _can(task, operator)}
    run = lambda a: {name: task(a) for name, task in tasks.items()}
    values, slopes = jax.jvp(run, (operator,), (tangent,))
    _, pull = jax.vjp(run, operator)
    (gradient,) = pull(jax.tree.map(jnp.ones_like, values))
    parts = jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, tangent))
    forward = jnp.stack([slope.sum() for slope in slopes.values()]).sum()
    modes = forward, jnp.stack(parts).sum()
    values |= {
        name: task(operator) for name, task in plain.items() if _can(task, operator)
    }
    values.pop("logdet", None)  # `slogdet` has it
    return values, slopes, modes


def _can(task: Callable, operator: Operator) -> bool:
    """Whether the operator does not refuse a task."""
    try:
        jax.eval_shape(task, operator)
    except NotImplementedError:
        return False
    return True


def _rebuilt(operator: Operator) -> tuple[jax.Array, jax.Array]:
    """`V diag(w) V^T`, and `V V^T`."""
    values, vectors = operator.eigh()
    v = vectors.as_matrix()
    a = matmul(v * values[..., None, :], v.mT)
    return a, jnp.broadcast_to(matmul(v, v.mT), a.shape)


def _expected(a: np.ndarray, da: np.ndarray, x: np.ndarray) -> tuple[Results, Results]:
    """The same from the matrix and its derivative."""
    transposed = np.swapaxes(a, -1, -2)
    out: Results = {"as_matrix": a, "mm": a @ x, "mv": (a @ x)[..., 0]}
    out |= {"T": transposed, "T.mm": transposed @ (a @ x)}
    slopes: Results = {"as_matrix": da, "mm": da @ x}
    if a.shape[-1] == a.shape[-2]:
        eye = np.broadcast_to(np.eye(a.shape[-1]), a.shape)
        solution, inside = np.linalg.solve(a, x), np.linalg.solve(a, da)
        slopes["solve_mm"] = -(inside @ solution)
        slopes["logdet"] = np.trace(inside, axis1=-2, axis2=-1)
        out |= {
            "solve_mm": solution,
            "slogdet": tuple(np.linalg.slogdet(a)),
            "trace": np.trace(a, axis1=-2, axis2=-1),
            "diagonal": np.diagonal(a, axis1=-2, axis2=-1),
            "eigh": ((a + transposed) / 2, eye),
            "plus_identity": a + 0.5 * eye,
        }
    return out, slopes


def _compare(name: str, kind: str, actual: Any, desired: Any, tolerance: float) -> None:
    leaves = jax.tree.leaves(actual), jax.tree.leaves(desired)
    for one, other in zip(*leaves, strict=True):
        one = np.asarray(one, "float64")
        if one.shape != other.shape:
            raise AssertionError(
                f"`{name}` of {kind} has shape {one.shape}; its matrix gives "
                f"{other.shape}."
            )
        size = np.abs(other).max(initial=1.0 if name in _SUMS else 0.0)
        error = np.abs(one - other).max(initial=0)
        # By negation: a comparison with NaN is false.
        if not error <= tolerance * size:
            raise AssertionError(
                f"`{name}` of {kind} does not fit its matrix: the error is {error:.2e}, "
                f"of entries up to {size:.2e}."
            )

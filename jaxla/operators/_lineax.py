"""Operators to lineax and back. lineax is imported when one of these is called."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ._dense import Dense
from ._diagonal import Diagonal
from ._operator import Operator


def to_lineax(operator: Operator, *, tags: Any = ()) -> Any:
    """Makes an operator of lineax, for its iterative solvers and its algebra.

    `Dense` and `Diagonal` become what lineax has for them; other kinds keep their
    structure in a subclass of `lineax.AbstractLinearOperator`, whose products are
    those of `mv`. Needs lineax, which `pip install "jaxla[lineax]"` brings.

    **Arguments:**

    - `operator`: without batch axes; batches go through `jax.vmap`.
    - `tags`: one or several tags of lineax, such as
        `lineax.positive_semidefinite_tag`, which nothing here can see. Symmetry is
        tagged by itself where the structure has it.

    **Returns:**

    A `lineax.AbstractLinearOperator` on vectors.

    !!! example

        >>> import jax.numpy as jnp, lineax
        >>> a = jaxla.operators.DampedKronecker(jnp.eye(2), jnp.eye(3), shift=1.0)
        >>> a = jaxla.operators.to_lineax(a, tags=lineax.positive_semidefinite_tag)
        >>> print(lineax.linear_solve(a, jnp.ones(6), lineax.CG(1e-6, 1e-6)).value)
        [0.5 0.5 0.5 0.5 0.5 0.5]
    """
    lx, kinds = _import("to_lineax")
    if len(operator.shape) != 2:
        raise ValueError(
            "`operator` must have no batch axes, use `jax.vmap` for those; got shape "
            f"{operator.shape}."
        )
    several = isinstance(tags, Iterable) and not isinstance(tags, str)
    tags = frozenset(tags) if several else frozenset([tags])
    if operator._symmetric_part() is operator:
        tags |= {lx.symmetric_tag}
    if isinstance(operator, Dense):
        return lx.MatrixLinearOperator(operator.matrix, tags)
    if isinstance(operator, Diagonal):
        diagonal = lx.DiagonalLinearOperator(operator.entries)
        extra = tags - {lx.symmetric_tag, lx.diagonal_tag}
        return lx.TaggedLinearOperator(diagonal, extra) if extra else diagonal
    return kinds.StructuredLinearOperator(operator, tags)


def from_lineax(operator: Any) -> Operator:
    """Makes an operator from one of lineax.

    **Arguments:**

    - `operator`: a matrix, a diagonal, the identity, a PyTree of matrices, or what
        [`jaxla.operators.to_lineax`][] made. Tags are dropped.

    **Returns:**

    [`jaxla.operators.Dense`][], [`jaxla.operators.Diagonal`][], or the operator that
    went to lineax. It acts on vectors, PyTrees being ravelled. What else lineax has,
    such as a function or a sum, raises `TypeError`.

    !!! example

        >>> import jax.numpy as jnp, lineax
        >>> d = lineax.DiagonalLinearOperator(jnp.array([1.0, 2.0]))
        >>> jaxla.operators.from_lineax(d).trace()
        Array(3., dtype=float32)
    """
    lx, kinds = _import("from_lineax")
    while isinstance(operator, lx.TaggedLinearOperator):
        operator = operator.operator
    if isinstance(operator, kinds.StructuredLinearOperator):
        return operator.operator
    if isinstance(operator, lx.IdentityLinearOperator):
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(operator.in_structure())]
        return Diagonal(jnp.ones(operator.in_size(), jnp.result_type(*dtypes)))
    if isinstance(operator, lx.DiagonalLinearOperator):
        return Diagonal(lx.diagonal(operator))
    if isinstance(operator, (lx.MatrixLinearOperator, lx.PyTreeLinearOperator)):
        return Dense(operator.as_matrix())
    raise TypeError(
        f"`operator` of type {type(operator).__name__} has no structure that is known "
        "here. Form the matrix if it is small: `Dense(operator.as_matrix())`."
    )


def lineax_solver() -> Any:
    """The solver for `lineax.linear_solve` that uses the structure of an operator.

    It calls `solve` of the operator that went through [`jaxla.operators.to_lineax`][],
    and takes square, regular operators only.

    **Returns:**

    A `lineax.AbstractLinearSolver`.

    !!! example

        >>> import jax.numpy as jnp, lineax
        >>> a = jaxla.operators.Kronecker(2 * jnp.eye(2), jnp.eye(3))
        >>> a, solver = jaxla.operators.to_lineax(a), jaxla.operators.lineax_solver()
        >>> print(lineax.linear_solve(a, jnp.ones(6), solver).value)
        [0.5 0.5 0.5 0.5 0.5 0.5]
    """
    _, kinds = _import("lineax_solver")
    return kinds.StructuredSolver()


def _import(name: str) -> tuple[Any, Any]:
    try:
        import lineax

        from . import _lineax_kinds
    except ModuleNotFoundError as error:
        if error.name != "lineax":
            raise
        raise ModuleNotFoundError(
            f'`{name}` needs lineax: `pip install "jaxla[lineax]"`.', name="lineax"
        ) from error
    return lineax, _lineax_kinds

"""An operator and a solver of lineax that keep a structure. This imports lineax."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from ._operator import Operator


class StructuredLinearOperator(lx.AbstractLinearOperator):
    """An operator of this package as lineax sees it.

    - `operator`: acts on vectors, without batch axes.
    - `tags`: those of lineax.
    """

    operator: Operator
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Array) -> Array:
        return self.operator.mv(vector)

    def as_matrix(self) -> Array:
        return self.operator.as_matrix()

    def transpose(self) -> "StructuredLinearOperator":
        if lx.symmetric_tag in self.tags:
            return self
        return StructuredLinearOperator(self.operator.T, lx.transpose_tags(self.tags))

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.operator.shape[-1:], self.operator.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.operator.shape[-2:-1], self.operator.dtype)


class StructuredSolver(lx.AbstractLinearSolver):
    """Calls `solve` of the operator."""

    def init(self, operator: Any, options: dict[str, Any]) -> Operator:
        while isinstance(operator, lx.TaggedLinearOperator):
            operator = operator.operator
        if not isinstance(operator, StructuredLinearOperator):
            raise TypeError(
                "`lineax_solver` solves with what `to_lineax` made of an operator with "
                f"structure; got {type(operator).__name__}."
            )
        operator.operator._check_square("solve")
        return operator.operator

    def compute(self, state: Operator, vector: Array, options: dict[str, Any]) -> Any:
        return state.solve(vector), lx.RESULTS.successful, {}

    def transpose(self, state: Operator, options: dict[str, Any]) -> Any:
        return state.T, {}

    def conj(self, state: Operator, options: dict[str, Any]) -> Any:
        return state, {}

    def assume_full_rank(self) -> bool:
        return True


def _same(operator):
    return operator


def _tagged(*tags: object):
    return lambda operator: any(tag in operator.tags for tag in tags)


def _bands(operator):
    matrix = operator.as_matrix()
    return tuple(jnp.diagonal(matrix, offset) for offset in (0, -1, 1))


_SEMIDEFINITE = (lx.positive_semidefinite_tag, lx.negative_semidefinite_tag)
_RULES: dict[Any, Any] = {
    lx.linearise: _same,
    lx.conj: _same,
    lx.materialise: lambda operator: lx.MatrixLinearOperator(
        operator.as_matrix(), operator.tags
    ),
    lx.diagonal: lambda operator: operator.operator.diagonal(),
    lx.tridiagonal: _bands,
    lx.is_symmetric: _tagged(lx.symmetric_tag, lx.diagonal_tag, *_SEMIDEFINITE),
    lx.is_diagonal: _tagged(lx.diagonal_tag),
    lx.is_tridiagonal: _tagged(lx.tridiagonal_tag, lx.diagonal_tag),
    lx.has_unit_diagonal: _tagged(lx.unit_diagonal_tag),
    lx.is_lower_triangular: _tagged(lx.lower_triangular_tag, lx.diagonal_tag),
    lx.is_upper_triangular: _tagged(lx.upper_triangular_tag, lx.diagonal_tag),
    lx.is_positive_semidefinite: _tagged(lx.positive_semidefinite_tag),
    lx.is_negative_semidefinite: _tagged(lx.negative_semidefinite_tag),
}
for _function, _rule in _RULES.items():
    _function.register(StructuredLinearOperator)(_rule)

"""Factorizations of several operators: one call for the matrices of one shape.

One batched call costs less than several, in time to compile and to run. Calls for
different shapes are made to wait for each other: all of JAX 0.10 can wait forever on
CPU where one program holds several independent batched factorizations. The derivative
of `slogdet` makes calls of its own, one for each shape, which do not wait.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxla.factor import eigh

from ._dense import Dense, FullMatrix, lu, lu_solvers, slogdet
from ._operator import Operator, Solver


def solvers_of_each(operators: Sequence[Operator]) -> list[tuple[Solver, Solver]]:
    """Solves with each operator, and with each transpose."""
    return _each(operators, lu, lu_solvers, lambda operator: operator._solvers())


def slogdet_of_each(operators: Sequence[Operator]) -> list[tuple[Array, Array]]:
    """The sign and the logarithm of each determinant."""
    both = lambda sign, logabsdet: (sign, logabsdet)
    return _each(operators, slogdet, both, lambda operator: operator._slogdet())


def eigh_of_each(operators: Sequence[Operator]) -> list[tuple[Array, Operator]]:
    """The eigenvalues and eigenvectors of each operator."""
    wrap = lambda w, v: (w, Dense(v))
    return _each(operators, eigh, wrap, lambda operator: operator._eigh())


def in_one_call(fn: Callable, matrices: Sequence[Array]) -> list[tuple[Array, ...]]:
    """`fn` of each matrix, in one call for all of one shape."""
    shapes = dict.fromkeys(matrix.shape for matrix in matrices)
    found, last = {}, None
    for shape in shapes:
        same = [i for i, matrix in enumerate(matrices) if matrix.shape == shape]
        stacked = jnp.stack([matrices[i] for i in same])
        if last is not None:
            stacked = stacked + _zero_after(last).astype(stacked.dtype)
        out = fn(stacked)
        last = out[0]
        found |= {i: [part[k] for part in out] for k, i in enumerate(same)}
    return [tuple(found[i]) for i in range(len(matrices))]


def _each(operators, factorize: Callable, finish: Callable, own: Callable) -> list:
    """`own` of structured operators; of others what `finish` makes of their factors."""
    full = [i for i, operator in enumerate(operators) if isinstance(operator, FullMatrix)]
    matrices = [operators[i]._as_matrix() for i in full]
    factors = dict(zip(full, in_one_call(factorize, matrices), strict=True))
    return [
        finish(*factors[i]) if i in factors else own(operator)
        for i, operator in enumerate(operators)
    ]


def _zero_after(x: Array) -> Array:
    """Zero, but only once `x` is there."""
    first = jax.lax.stop_gradient(x).ravel()[:1].sum()
    return 0 * jnp.nan_to_num(first)

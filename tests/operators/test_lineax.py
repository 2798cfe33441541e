import re
import sys

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxla.operators import (
    DampedKronecker,
    Dense,
    Diagonal,
    from_lineax,
    Kronecker,
    lineax_solver,
    to_lineax,
    Toeplitz,
)
from tests.helpers import assert_close

from .cases import A, B, kron, S, T


SPD = lx.positive_semidefinite_tag
X = np.linspace(1, 2, 6)


def damped(a=S):
    return DampedKronecker(jnp.asarray(a, jnp.float32), jnp.float32(T), shift=0.5)


MATRIX = np.kron(S, T) + 0.5 * np.eye(6)


@pytest.mark.parametrize("solver", [lx.CG(1e-6, 1e-6), lx.Cholesky(), None])
def test_solvers_of_lineax_take_an_operator(solver):
    solver = lineax_solver() if solver is None else solver
    operator = to_lineax(damped(), tags=SPD)
    assert lx.is_symmetric(operator)
    assert lx.is_positive_semidefinite(operator)
    solution = lx.linear_solve(operator, jnp.float32(X), solver).value
    assert_close(solution, np.linalg.solve(MATRIX, X), amplification=100)


def test_unsymmetric_operators():
    kronecker = Kronecker(jnp.float32(A), jnp.float32(B))
    operator = to_lineax(kronecker)
    assert not lx.is_symmetric(operator)
    assert_close(operator.as_matrix(), kron(A, B))
    assert_close(operator.T.as_matrix(), kron(A, B).T)
    assert_close(lx.materialise(operator).as_matrix(), kron(A, B))
    assert_close(lx.diagonal(operator), np.diag(kron(A, B)))
    for solver in (lineax_solver(), lx.GMRES(1e-6, 1e-6), lx.LU()):
        solution = lx.linear_solve(operator.T, jnp.float32(X), solver).value
        assert_close(solution, np.linalg.solve(kron(A, B).T, X), amplification=300)


def test_the_algebra_of_lineax():
    kronecker = Kronecker(jnp.float32(A), jnp.float32(B))
    both = to_lineax(kronecker) + 2 * to_lineax(Dense(jnp.eye(6, dtype="float32")))
    assert_close(both.mv(jnp.float32(X)), kron(A, B) @ X + 2 * X, amplification=20)
    wide = to_lineax(Kronecker(jnp.ones((1, 2)), jnp.ones((2, 3))))
    assert (wide.in_size(), wide.out_size()) == (6, 2)


def test_derivatives_agree():
    def loss(a, solver):
        operator = to_lineax(damped(a), tags=SPD)
        return jnp.sum(lx.linear_solve(operator, jnp.float32(X), solver).value ** 2)

    ours = jax.jit(jax.grad(lambda a: jnp.sum(damped(a).solve(jnp.float32(X)) ** 2)))
    desired = np.asarray(ours(jnp.float32(S)))
    for solver in (lineax_solver(), lx.CG(1e-7, 1e-7)):
        actual = jax.jit(jax.grad(lambda a, s=solver: loss(a, s)))(jnp.float32(S))
        assert_close(actual, desired, amplification=300)


def test_batches_by_vmap():
    scales = jnp.array([1.0, 2.0])
    solve = lambda s: (
        lx.linear_solve(
            to_lineax(damped(s * jnp.float32(S))), jnp.float32(X), lineax_solver()
        ).value
    )
    out = jax.vmap(solve)(scales)
    assert_close(out[1], damped(2 * S).solve(jnp.float32(X)), amplification=50)
    with pytest.raises(ValueError, match="`operator` must have no batch axes"):
        to_lineax(Dense(jnp.ones((2, 3, 3))))


def test_there_and_back():
    for operator in (damped(), Toeplitz(jnp.arange(1.0, 4.0)), Dense(jnp.float32(A))):
        back = from_lineax(to_lineax(operator, tags=SPD))
        assert type(back) is type(operator)
        assert_close(back.as_matrix(), operator.as_matrix())
    diagonal = Diagonal(jnp.arange(1.0, 4.0))
    for tags in ((), SPD):
        theirs = to_lineax(diagonal, tags=tags)
        assert lx.is_diagonal(theirs)
        assert_close(from_lineax(theirs).entries, diagonal.entries)
    identity = lx.IdentityLinearOperator(jax.ShapeDtypeStruct((3,), jnp.float32))
    assert isinstance(from_lineax(identity), Diagonal)
    assert_close(from_lineax(identity).as_matrix(), np.eye(3))


def test_what_has_no_structure_is_told():
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    function = lx.FunctionLinearOperator(lambda x: 2 * x, shape)
    with pytest.raises(TypeError, match=re.escape("`Dense(operator.as_matrix())`")):
        from_lineax(function)
    with pytest.raises(TypeError, match="`lineax_solver` solves with what `to_lineax`"):
        lx.linear_solve(function, jnp.ones(3, "float32"), lineax_solver())


def test_without_lineax(monkeypatch):
    monkeypatch.setitem(sys.modules, "lineax", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape('"jaxla[lineax]"')):
        to_lineax(damped())

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.operators import (
    DampedKronecker,
    Dense,
    Diagonal,
    Kronecker,
    Operator,
    Toeplitz,
)
from jaxla.testing import check_operator
from tests.helpers import assert_close

from .cases import BATCHES, CASES, D, S, T


SINGLE = functools.partial(jnp.asarray, dtype=jnp.float32)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_fits_its_matrix(name):
    make, matrix = CASES[name]
    operator = make(lambda a: jnp.asarray(a, "float64"))
    assert operator.shape == matrix.shape
    assert operator.dtype == "float64"
    assert_close(operator.as_matrix(), matrix)
    check_operator(operator)


@pytest.mark.parametrize("name", BATCHES)
def test_batches_in_float32(name):
    make, matrix = BATCHES[name]
    operator = make(SINGLE)
    assert operator.shape == matrix.shape
    assert operator.dtype == "float32"
    assert_close(operator.as_matrix(), matrix, amplification=10)
    check_operator(operator)


@jax.jit
def products_and_solves(operator, x):
    return operator.mv(x), operator.solve(x), operator.logdet()


@pytest.mark.parametrize("name", BATCHES)
def test_one_of_a_batch_by_vmap(name):
    """Native batches, `vmap` and a loop agree; a NaN stays in its member."""
    make, matrix = BATCHES[name]
    operator = make(SINGLE)
    x = SINGLE(np.random.default_rng(0).standard_normal((3, matrix.shape[-1])))
    native = products_and_solves(operator, x)
    spoiled = products_and_solves(operator, x.at[1].set(jnp.nan))
    for plain, other in zip(native[:2], spoiled[:2], strict=True):
        assert jnp.isnan(other[1]).any()
        assert (other[::2] == plain[::2]).all()
    desired = (matrix @ np.asarray(x, "float64")[..., None])[..., 0]
    assert_close(native[0], desired, amplification=20)


def test_operators_can_be_mapped_and_stacked():
    a = SINGLE(np.stack([S, 2 * S, 3 * S]))
    make = lambda a: DampedKronecker(a, T.astype("float32"), shift=0.5)
    x = jnp.ones((3, 6))
    mapped = jax.jit(jax.vmap(lambda a, x: make(a).solve(x)))(a, x)
    stacked = jax.jit(jax.vmap(lambda operator, x: operator.solve(x)))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(make, a)), x
    )
    assert_close(mapped, make(a).solve(x), amplification=50)
    assert_close(stacked, mapped, amplification=50)


def test_vectors_broadcast_with_operators():
    """By NumPy's rules, on either side."""
    matrix = np.asarray(S)
    one, many = Dense(SINGLE(matrix)), Dense(SINGLE(np.stack([matrix, 2 * matrix])))
    x = np.random.default_rng(0).standard_normal((5, 2, 2))
    for operator in (one, many):
        dense = np.asarray(operator.matrix, "float64")
        expected = (dense @ x[..., None])[..., 0]
        assert_close(operator.mv(SINGLE(x)), expected, amplification=10)
        solution = np.linalg.solve(np.broadcast_to(dense, (5, 2, 2, 2)), x[..., None])
        assert_close(operator.solve(SINGLE(x)), solution[..., 0], amplification=50)
    assert many.mv(jnp.ones(2)).shape == (2, 2)
    assert_close(
        many.solve(SINGLE(np.ones(2)))[1], np.linalg.solve(2 * matrix, np.ones(2))
    )


@pytest.mark.parametrize("name", ["low rank", "Toeplitz", "damped", "Kronecker"])
def test_half_precision_is_computed_in_float32(name):
    operator = BATCHES[name][0](lambda a: jnp.asarray(a, jnp.bfloat16))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), operator)
    x = jnp.ones((3, operator.shape[-1]), jnp.bfloat16)
    assert operator.dtype == jnp.bfloat16
    for half, full in zip(
        products_and_solves(operator, x),
        products_and_solves(wide, x.astype(jnp.float32)),
        strict=True,
    ):
        assert half.dtype == jnp.bfloat16
        assert (half == full.astype(jnp.bfloat16)).all()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", BATCHES)
def test_promotes_nothing_silently(name):
    operator = BATCHES[name][0](SINGLE)
    for x in (jnp.ones(4), jnp.ones((2, 3, 4))):
        x = jnp.ones((*x.shape[:-1], operator.shape[-1]), jnp.float32)
        loss = lambda a, x: a.solve(a.mv(x)).sum() + a.logdet().sum() + a.trace().sum()
        jax.eval_shape(jax.grad(loss), operator, x)
        jax.eval_shape(lambda a: a.diagonal(), operator)
        if name != "Kronecker":
            jax.eval_shape(lambda a: a.plus_identity(jnp.ones(3)), operator)


@pytest.mark.parametrize("name", BATCHES)
def test_lowers_for_accelerators(name):
    operator = BATCHES[name][0](SINGLE)
    leaves, tree = jax.tree.flatten(operator)

    def loss(leaves, x):
        a = jax.tree.unflatten(tree, leaves)
        return a.solve(a.mv(x)).sum() + a.logdet().sum()

    x = jnp.ones(operator.shape[-1])
    both = jax.jit(jax.value_and_grad(loss))
    jax.export.export(both, platforms=["cuda", "tpu"])(leaves, x)


def test_what_does_not_multiply_is_told():
    a, d = Dense(jnp.eye(4)), Diagonal(jnp.ones(4))
    assert isinstance(a @ a, Dense)
    assert isinstance(d @ d, Diagonal)
    assert_close((d @ a).as_matrix(), np.eye(4))
    with pytest.raises(NotImplementedError, match=re.escape("a.mm(b.as_matrix())")):
        Toeplitz(jnp.ones(4)) @ a
    with pytest.raises(TypeError, match="use `mv` for vectors and `mm` for matrices"):
        a @ jnp.ones(4)
    with pytest.raises(ValueError, match=re.escape("`other` must have 4 rows")):
        a @ Dense(jnp.eye(3))


class Identity(Operator):
    """An operator that knows products only."""

    scale: jax.Array

    @property
    def shape(self):
        return (2, 2)

    @property
    def T(self):
        return self

    def cost(self):
        raise NotImplementedError

    def _mm(self, x):
        return self.scale * x

    def _as_matrix(self):
        return self.scale * jnp.eye(2)


def test_what_is_not_cheap_is_refused():
    operator = Identity(jnp.ones(()))
    check_operator(operator)
    for method in ("slogdet", "diagonal", "trace", "eigh"):
        with pytest.raises(NotImplementedError, match="Identity has no cheap"):
            getattr(operator, method)()
    message = "Form the matrix if it is small: `Dense(operator.as_matrix()).solve`."
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        operator.solve(jnp.ones(2))
    with pytest.raises(NotImplementedError, match="plus_identity"):
        operator.plus_identity(1.0)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    a, wide = Dense(jnp.eye(3)), Dense(jnp.ones((2, 3)))
    for call, message in [
        (lambda: a.mv(jnp.ones(2)), "`x` must have shape (..., 3); got (2,)."),
        (lambda: a.mm(jnp.ones(3)), "`x` must have shape (..., 3, k); got (3,)."),
        (lambda: a.solve(jnp.ones(2)), "`b` must have shape (..., 3); got (2,)."),
        (lambda: a.solve_mm(jnp.ones(3)), "`b` must have shape (..., 3, k); got (3,)."),
        (
            lambda: wide.solve(jnp.ones(2)),
            "`solve` needs a square operator; this one is 2 x 3.",
        ),
        (lambda: wide.logdet(), "`slogdet` needs a square operator; this one is 2 x 3."),
        (lambda: Kronecker(), "`factors` must hold at least one operator or matrix"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    for bad in ("int32", "complex64"):
        message = f"must have a real floating-point dtype; got {bad}."
        for call in (lambda x: a.mv(x), Diagonal, lambda x: Dense(x[None])):
            with pytest.raises(TypeError, match=re.escape(message)):
                call(jnp.ones(3, bad))


def test_cost_is_counted_in_python():
    kron = Kronecker(jnp.ones((64, 64)), jnp.ones((64, 64)))
    assert kron.cost().mv == 2 * 2 * 64**3
    # The factor that shrinks comes first: 2 * 1 * 8 * 8, and then 2 * 8 * 8 * 1.
    assert Kronecker(jnp.ones((8, 8)), jnp.ones((1, 8))).cost().mv == 256
    assert Dense(jnp.ones((2, 3))).cost() == (12, None)
    for make, matrix in CASES.values():
        cost = make(SINGLE).cost()
        assert isinstance(cost.mv, int)
        assert cost.solve is None or matrix.shape[0] == matrix.shape[1]


def test_a_wrong_operator_is_found():
    class Wrong(Diagonal):
        def _diagonal(self):
            return 2 * self.entries

    with pytest.raises(AssertionError, match="of Wrong does not fit"):
        check_operator(Wrong(SINGLE(D)))

    class WrongSolve(Diagonal):
        def _solvers(self):
            solve, _ = super()._solvers()
            return solve, lambda b: 2 * solve(b)

    with pytest.raises(AssertionError, match="Forward and reverse mode differ"):
        check_operator(WrongSolve(SINGLE(D)))

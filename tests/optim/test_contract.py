"""The contract of an Optax transformation, for every optimizer of jaxla.

A new optimizer joins by one line in `EVERY_CHECK`, and by one in one of the other tables
for each variant of it that goes another way through the code.
"""

import functools

import jax
import optax
import pytest

from jaxla import testing
from jaxla.optim import (
    Blocks,
    four_bit_shampoo,
    kl_shampoo,
    muon,
    scale_by_spectral_condition,
    scale_by_width,
    shampoo,
    soap,
    steepest_descent,
    Storage,
)


def spectral_condition(learning_rate):
    scale = scale_by_spectral_condition(power_steps=1)
    return optax.chain(scale, optax.scale_by_learning_rate(learning_rate))


def by_width(learning_rate):
    scale = scale_by_spectral_condition(norm="frobenius")
    width = scale_by_width("sgd")
    return optax.chain(scale, width, optax.scale_by_learning_rate(learning_rate))


# Checks make a few steps: with the default period they would see hardly any root.
SMALL = Blocks(size=8, refresh_every=1)
SOME = Blocks(size=8, refresh_every=2)
EAGER = Blocks(size=8, eager_steps=1)
SQUARE = Blocks(
    size=8, refresh_every=2, eager_steps=1, exponent=1 / 2, normalize_trace=True
)

# In four bits although blocks are small.
FOUR_BIT = functools.partial(
    four_bit_shampoo,
    blocks=SOME,
    storage=Storage(smallest=8, turns_per_root=1),
    inner=optax.identity(),
)

EVERY_CHECK = {
    "optax.adamw": optax.adamw,  # the control
    # Several blocks a matrix, as any model has.
    "shampoo": functools.partial(shampoo, blocks=SOME),
    # The few parameters of the checks are to move as fast as its matrices.
    "muon": functools.partial(muon, adam_scale=1.0),
}
# Derivatives take their bases for constants, which the finite difference does not.
CONSTANT_BASES = {
    "soap": functools.partial(soap, blocks=SOME),
    # A start that is not slower than the others.
    "kl-shampoo": functools.partial(kl_shampoo, blocks=SOME, initial_eigenvalue=None),
}
MOST_CHECKS = {
    "small-after": functools.partial(shampoo, blocks=SMALL, momentum="after"),
    "square-none": functools.partial(shampoo, blocks=SQUARE, graft="none"),
}
CHEAP_CHECKS = {
    "defaults": shampoo,
    "sgd": functools.partial(shampoo, graft="sgd", blocks=EAGER),
    "after-none": functools.partial(
        shampoo, momentum="after", graft="none", blocks=EAGER
    ),
    "eigh": functools.partial(
        shampoo, blocks=Blocks(size=8, refresh_every=1, root="eigh")
    ),
    # Without momentum, by which a parameter moves on after a gradient that is refused.
    "four-bit": FOUR_BIT,
    "bfloat16": functools.partial(shampoo, mu_dtype="bfloat16"),
    "one-sided": functools.partial(
        shampoo, blocks=Blocks(size=8, refresh_every=2, one_sided_above=0)
    ),
    "kl-defaults": kl_shampoo,
    "steepest-descent": steepest_descent,
    "muon-exact": functools.partial(
        muon, adam_scale=1.0, engine="exact", scale="adam", nesterov=False
    ),
    "spectral-condition": spectral_condition,
    "width-frobenius": by_width,
}
# Those that compile nothing, or share what the first of them compiles.
CHEAP = (
    testing.check_abstract_init,
    testing.check_state_leaves,
    testing.check_count,
    testing.check_compiles_once,
    testing.check_extra_args,
    testing.check_map_params,
    testing.check_empty_tree,
    testing.check_serialisation,
    testing.check_zero_gradient,
    testing.check_nonfinite,
    testing.check_descends,
)
# Those that compile for eight devices, or every operation by itself.
SLOW = (
    testing.check_auto_mesh,
    testing.check_explicit_mesh,
    testing.check_jit,
    testing.check_differentiable,
)


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
    # Each program is small and runs a few times: to optimize it would take most time.
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# All checks of a factory together: they share one run of it.
def _cases(factories, checks):
    return pytest.mark.parametrize(
        ("factory", "check"),
        [
            pytest.param(factory, check, id=f"{name}-{check.__name__[6:]}")
            for name, factory in factories.items()
            for check in checks
        ],
    )


@_cases(EVERY_CHECK, testing.TRANSFORMATION_CHECKS)
def test_every_check(factory, check):
    check(factory)


@_cases(
    CONSTANT_BASES,
    [c for c in testing.TRANSFORMATION_CHECKS if c is not testing.check_differentiable],
)
def test_every_check_but_the_derivative(factory, check):
    check(factory)


@_cases(MOST_CHECKS, [c for c in testing.TRANSFORMATION_CHECKS if c not in SLOW])
def test_most_checks(factory, check):
    check(factory)


@_cases(CHEAP_CHECKS, CHEAP)
def test_cheap_checks(factory, check):
    check(factory)


# Its stacks are trees, and integers; for the rest it is like SOAP.
@_cases(
    {"four-bit": FOUR_BIT},
    [testing.check_injection, testing.check_orbax, testing.check_vmap],
)
def test_some_checks(factory, check):
    check(factory)


def test_a_bad_gradient_stays_where_it_is():
    for factory in (EVERY_CHECK["shampoo"], CONSTANT_BASES["soap"]):
        testing.check_nonfinite(factory)

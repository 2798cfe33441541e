"""Steps as users run them: without the settings by which the tests avoid hangs.

On JAX 0.10 and few cores, a program with several batched LAPACK calls of some hundred
matrices can wait forever, and never fails. The default roots are made of products; those
by `eigh`, and SOAP's bases, are computed one stack after the other.
"""

import os
import subprocess
import sys

import pytest


STEPS = """
import jax, jax.numpy as jnp, optax
from jaxla.optim import Axes, Blocks, shampoo, soap

axes = Axes(rows=(1,), cols=(2,), batch=(0,))
blocks = Blocks(size=16, refresh_every=1, root={root!r}, rules={{"*": axes}})
opt = {name}(1e-3, blocks=blocks)
params = jax.random.normal(jax.random.key(0), (512, 16, 8))
state = opt.init(params)
stacks = {{size: len(stack) for size, stack in optax.tree.get(state, "factors").items()}}
assert stacks == {{8: 512, 16: 512}}, stacks

@jax.jit
def step(params, state):
    grads = jax.grad(lambda w: jnp.sum(jnp.tanh(w @ w.mT) ** 2))(params)
    updates, state = opt.update(grads, state, params)
    return optax.apply_updates(params, updates), state

for _ in range(3):
    params, state = step(params, state)
assert jnp.isfinite(params).all()
assert optax.tree.get(state, "rejected") == 0
"""


@pytest.mark.parametrize(
    ("name", "root"), [("shampoo", "auto"), ("shampoo", "eigh"), ("soap", "auto")]
)
def test_many_factors_do_not_hang(name, root):
    env = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    # A hang raises `TimeoutExpired`, and the process is killed.
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(name=name, root=root)],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr

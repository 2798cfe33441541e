"""A multilayer perceptron with tanh, as plain arrays, and its training step."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax


Params = list[dict[str, jax.Array]]


def init(key: jax.Array, sizes: Sequence[int]) -> Params:
    """Weights `w` of shape `(in, out)` with variance `1 / in`, and biases `b`."""
    layers = list(itertools.pairwise(sizes))
    keys = jax.random.split(key, len(layers))
    return [
        {"w": jax.random.normal(k, (m, n)) / m**0.5, "b": jnp.zeros(n)}
        for k, (m, n) in zip(keys, layers, strict=True)
    ]


def logits(params: Params, x: jax.Array) -> jax.Array:
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def loss(params: Params, x: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross entropy."""
    values = logits(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(values, labels).mean()


def training_step(
    opt: optax.GradientTransformation, loss: Callable[..., jax.Array] = loss
) -> Callable[..., Any]:
    """From parameters, state and batch to new parameters and state."""

    def step(params, state, *batch):
        grads = jax.grad(loss)(params, *batch)
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def update_step(opt: optax.GradientTransformation) -> Callable[..., Any]:
    """The optimizer's part of it: the gradients are given."""

    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def count(tree: Any) -> int:
    """The numbers in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

"""Two tasks to train on, with real data that is on the machine already.

Digits: a perceptron on few examples, seen again and again. Text: a transformer that
predicts the next byte of Python's own sources, of which it sees nothing twice.
"""

import dataclasses
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxla._demo._data import load, split

from . import _mlp


Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """What to train.

    - `name`, `told`: in a word, and in a sentence.
    - `steps`, `batch`: how long, and on how many examples a step.
    - `every`: the steps from one look at the validation loss to the next.
    - `init`: from a key to the parameters.
    - `loss`: of parameters and a batch.
    - `split`: from a seed to the examples to train on, and those to validate on.
    """

    name: str
    told: str
    steps: int
    batch: int
    every: int
    init: Callable[[jax.Array], Any]
    loss: Callable[..., jax.Array]
    split: Callable[[int], tuple[Arrays, Arrays]]


def digits(steps: int = 100, batch: int = 256, every: int = 5) -> Task:
    """5,000 MNIST digits and a tanh perceptron."""
    dataset, sizes = load("mnist"), (784, 256, 128, 10)

    def init(key: jax.Array) -> Any:
        *hidden, head = _mlp.init(key, sizes)
        return {"hidden": hidden, "head": head}

    def loss(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        return _mlp.loss([*params["hidden"], params["head"]], x, labels)

    def parts(seed: int) -> tuple[Arrays, Arrays]:
        part = split(dataset, seed)
        return (part.x, part.y), (part.x_valid, part.y_valid)

    told = (
        f"{dataset.source}, four fifths to train on; tanh perceptron "
        f"{'-'.join(map(str, sizes))}; {steps} steps at batch {batch}"
    )
    return Task("digits", told, steps, batch, every, init, loss, parts)


CONTEXT = 64
BYTES = 128  # those of ASCII; all others count as the first


def text(
    steps: int = 600, batch: int = 8, every: int = 20, width: int = 32, depth: int = 2
) -> Task:
    """The top-level modules of Python's standard library and a small transformer."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    sources = [np.frombuffer(path.read_bytes(), np.uint8) for path in files]

    def init(key: jax.Array) -> Any:
        return eqx.filter(Transformer(width, depth, key=key), eqx.is_inexact_array)

    rest = Transformer(width, depth, key=jax.random.key(0))
    rest = eqx.filter(rest, eqx.is_inexact_array, inverse=True)

    def loss(params: Any, windows: jax.Array) -> jax.Array:
        logits = jax.vmap(eqx.combine(params, rest))(windows[:, :-1])
        targets = windows[:, 1:]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def parts(seed: int) -> tuple[Arrays, Arrays]:
        order = np.random.default_rng(seed).permutation(len(sources))
        train, valid = np.split(order, [len(order) * 4 // 5])
        examples = _windows([sources[i] for i in train])
        held_out = _windows([sources[i] for i in valid])
        chosen = np.random.default_rng(seed).permutation(len(held_out))[: 16 * batch]
        return (examples,), (held_out[chosen],)

    told = (
        f"the {len(files)} top-level modules of Python's standard library, four fifths "
        f"to train on; transformer of width {width} with {depth} blocks and a context "
        f"of {CONTEXT} bytes; {steps} steps at batch {batch}"
    )
    return Task("text", told, steps, batch, every, init, loss, parts)


def _windows(sources: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(sources).astype(np.int32)
    joined[joined >= BYTES] = 0
    length = CONTEXT + 1
    return joined[: len(joined) // length * length].reshape(-1, length)


class Transformer(eqx.Module):
    """Logits of the next byte for each byte of a context."""

    embedding: eqx.nn.Embedding
    position_embedding: eqx.nn.Embedding
    blocks: list["_Block"]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, width: int, depth: int, *, key: jax.Array):
        keys = jax.random.split(key, depth + 3)
        # Equinox begins with a deviation of 1, from which all learn more slowly.
        small = lambda key, number: eqx.nn.Embedding(
            weight=0.1 * jax.random.normal(key, (number, width))
        )
        self.embedding = small(keys[0], BYTES)
        self.position_embedding = small(keys[1], CONTEXT)
        self.blocks = [_Block(width, key=key) for key in keys[3:]]
        self.norm = eqx.nn.LayerNorm(width)
        self.head = eqx.nn.Linear(width, BYTES, key=keys[2])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding.weight[tokens] + self.position_embedding.weight[: len(tokens)]
        for block in self.blocks:
            x = block(x)
        return jax.vmap(lambda x: self.head(self.norm(x)))(x)


class _Block(eqx.Module):
    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    expand: eqx.nn.Linear
    contract: eqx.nn.Linear

    def __init__(self, width: int, *, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.attention_norm = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(4, width, key=keys[0])
        self.norm = eqx.nn.LayerNorm(width)
        self.expand = eqx.nn.Linear(width, 4 * width, key=keys[1])
        self.contract = eqx.nn.Linear(4 * width, width, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(y, y, y, mask=jnp.tri(len(x), dtype=bool))
        feed = lambda x: self.contract(jax.nn.gelu(self.expand(self.norm(x))))
        return x + jax.vmap(feed)(x)

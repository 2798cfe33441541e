"""Shampoo as the papers have it, on one matrix, in NumPy and float64.

Gupta, Koren and Singer (2018), Algorithm 1, with the averages, the grafting and the
decoupled weight decay of Anil et al. (2020). There are no blocks, stacks or turns:
those are what `jaxla.optim` must be right about.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tests.helpers import power_oracle


@dataclasses.dataclass
class Average:
    """An exponential average from zero, corrected for its start."""

    decay: float
    total: float | np.ndarray = 0.0
    steps: int = 0

    def add(self, new: np.ndarray) -> np.ndarray:
        self.steps += 1
        self.total = self.decay * self.total + (1 - self.decay) * new
        return self.total / (1 - self.decay**self.steps)


@dataclasses.dataclass
class Shampoo:
    """One matrix; `rows` and `cols` say where its blocks end, if there are several."""

    learning_rate: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    damping: float = 1e-6
    weight_decay: float = 0.0
    exponent: float = 0.25
    normalize_trace: bool = False
    graft: str = "adam"
    momentum: str = "before"
    rows: Sequence[int] = ()
    cols: Sequence[int] = ()

    def run(self, param, grads) -> list[np.ndarray]:
        """The parameter after each step."""
        left, right = Average(self.b2), Average(self.b2)
        first, second = Average(self.b1), Average(self.b2)
        w, params = np.asarray(param, "float64"), []
        for grad in grads:
            g = np.asarray(grad, "float64")
            left_root = self.root(left.add(g @ g.T), self.rows)
            right_root = self.root(right.add(g.T @ g), self.cols)
            source = first.add(g) if self.momentum == "before" else g
            adam = source / (np.sqrt(second.add(g * g)) + self.eps)
            step = left_root @ source @ right_root
            size = {"adam": adam, "sgd": source, "none": step}[self.graft]
            step = step * (np.linalg.norm(size) / np.linalg.norm(step))
            if self.momentum == "after":
                step = first.add(step)
            w = w - self.learning_rate * (step + self.weight_decay * w)
            params.append(w)
        return params

    def root(self, factor: np.ndarray, ends: Sequence[int]) -> np.ndarray:
        """The root of a factor, or of its diagonal blocks."""
        out = np.zeros_like(factor)
        ends = (*ends, len(factor))
        for begin, end in zip((0, *ends), ends, strict=False):
            block = factor[begin:end, begin:end]
            if self.normalize_trace:
                block = block / np.sqrt(np.trace(block))
            out[begin:end, begin:end] = power_oracle(block, -self.exponent, self.damping)
        return out

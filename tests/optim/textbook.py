"""Shampoo and what came of it, as the papers have it, on one matrix, in float64.

Gupta, Koren and Singer (2018), Algorithm 1, with the averages, the grafting and the
decoupled weight decay of Anil et al. (2020); Vyas et al. (2024), Algorithms 3 and 4;
Wang et al. (2024), Algorithms 1 to 3; Lin et al. (2025). There are no blocks, stacks or
turns: those are what `jaxla.optim` must be right about.
"""

import dataclasses
from collections.abc import Callable, Sequence

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
    """One matrix; `rows` and `cols` say where its blocks end, if there are several.

    `sides` are "both", or one that alone has factors: "left" or "right".
    """

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
    sides: str = "both"

    def run(self, param, grads) -> list[np.ndarray]:
        """The parameter after each step."""
        left, right = Average(self.b2), Average(self.b2)
        first, second = Average(self.b1), Average(self.b2)
        w, params = np.asarray(param, "float64"), []
        for grad in grads:
            g = np.asarray(grad, "float64")
            left_root = self.root(left.add(g @ g.T), self.rows, "left")
            right_root = self.root(right.add(g.T @ g), self.cols, "right")
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

    def root(self, factor: np.ndarray, ends: Sequence[int], side: str) -> np.ndarray:
        """The root of a factor, or of its diagonal blocks."""
        if self.sides not in (side, "both"):
            return np.eye(len(factor))
        alone = self.sides != "both" and not self.normalize_trace
        exponent = self.exponent * (1 + alone)
        out = np.zeros_like(factor)
        ends = (*ends, len(factor))
        for begin, end in zip((0, *ends), ends, strict=False):
            block = factor[begin:end, begin:end]
            if self.normalize_trace:
                block = block / np.sqrt(np.trace(block))
            out[begin:end, begin:end] = power_oracle(block, -exponent, self.damping)
        return out


@dataclasses.dataclass
class Soap:
    """One matrix; `turns` says in which steps the left and the right basis move.

    But for the first step, which the paper's code leaves out.
    """

    b1: float = 0.95
    b2: float = 0.95
    shampoo_beta: float = 0.95
    eps: float = 1e-8
    turns: Callable[[int], tuple[bool, bool]] = lambda step: (True, True)
    one_sided: bool = False  # on the left

    def run(self, grads) -> list[np.ndarray]:
        """The direction of each step."""
        factors = [Average(self.shampoo_beta), Average(self.shampoo_beta)]
        momentum, bases, out = Average(self.b1), [], []
        variance, weight = 0.0, 0.0
        for step, grad in enumerate(grads):
            g = np.asarray(grad, "float64")
            m = momentum.add(g)
            left, right = factors[0].add(g @ g.T), factors[1].add(g.T @ g)
            if step == 0:
                bases = [np.linalg.eigh(x)[1][:, ::-1] for x in (left, right)]
                if self.one_sided:
                    bases[1] = np.eye(len(right))
            ql, qr = bases
            variance = self.b2 * variance + (1 - self.b2) * (ql.T @ g @ qr) ** 2
            weight = self.b2 * weight + 1 - self.b2
            scale = np.sqrt(variance / weight) + self.eps
            direction = ql @ ((ql.T @ m @ qr) / scale) @ qr.T
            if step == 0:
                direction = g / (np.sqrt(np.mean(g**2)) + self.eps)
            out.append(direction)
            moves = self.turns(step) if step else (False, False)
            if moves[0]:
                bases[0], order = self.iterate(left, ql)
                variance = variance[order]
            if moves[1] and not self.one_sided:
                bases[1], order = self.iterate(right, qr)
                variance = variance[:, order]
        return out

    @staticmethod
    def iterate(factor, basis):
        """Algorithm 4, and where the columns were before they were sorted."""
        order = np.argsort(-np.diag(basis.T @ factor @ basis), kind="stable")
        return np.linalg.qr(factor @ basis[:, order])[0], order


@dataclasses.dataclass
class KlShampoo:
    """One matrix, as the authors' code has it, but for the first step that it leaves out.

    With the columns of each basis in the order of their eigenvalues, as of `Soap`.
    """

    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    initial_eigenvalue: float = 0.1
    turns: Callable[[int], tuple[bool, bool]] = lambda step: (True, True)

    def run(self, grads) -> list[np.ndarray]:
        """The direction of each step."""
        m, n = np.shape(grads[0])
        momentum, left, right, out = 0.0, 0.0, 0.0, []
        ql, qr = np.eye(m), np.eye(n)
        dl, dr = (np.full(k, self.initial_eigenvalue) for k in (m, n))
        for step, grad in enumerate(grads):
            g = np.asarray(grad, "float64")
            momentum = self.b1 * momentum + (1 - self.b1) * g
            scale = np.sqrt(np.outer(dl, dr)) + self.eps
            out.append(ql @ ((ql.T @ momentum @ qr) / scale) @ qr.T)
            by_right = g @ (qr / dr) @ qr.T @ g.T / n
            by_left = g.T @ (ql / dl) @ ql.T @ g / m
            left = self.b2 * left + (1 - self.b2) * by_right
            right = self.b2 * right + (1 - self.b2) * by_left
            if step == 0:
                ql, qr = (np.linalg.eigh(x)[1][:, ::-1] for x in (left, right))
                continue
            dl = self.b2 * dl + (1 - self.b2) * np.diag(ql.T @ by_right @ ql)
            dr = self.b2 * dr + (1 - self.b2) * np.diag(qr.T @ by_left @ qr)
            dl, dr = (np.maximum(d, 1 / max(10, len(d)) ** 2) for d in (dl, dr))
            moves = self.turns(step)
            if moves[0]:
                ql, order = Soap.iterate(left, ql)
                dl = dl[order]
            if moves[1]:
                qr, order = Soap.iterate(right, qr)
                dr = dr[order]
        return out


@dataclasses.dataclass
class FourBitShampoo:
    """One matrix; `turns` says in which steps the left and the right basis, and the left
    and the right root, are renewed, and `rounded` what is left of a row of numbers.

    But for the start: averages are corrected for it.
    """

    beta: float = 0.95
    damping: float = 1e-6
    turns: Callable[[int], Sequence[bool]] = lambda step: (True,) * 4
    rounded: Callable[[np.ndarray], np.ndarray] = lambda x: x

    def run(self, grads) -> list[np.ndarray]:
        """The preconditioned gradient of each step."""
        shape = np.shape(grads[0])
        bases = [(np.zeros(n), np.eye(n), 0) for n in shape]
        roots, out = [None, None], []
        for step, grad in enumerate(grads):
            g = np.asarray(grad, "float64")
            turns = self.turns(step)
            for i, gram in enumerate((g @ g.T, g.T @ g)):
                if turns[i]:
                    bases[i] = self.statistics(gram, *bases[i])
                if turns[2 + i]:
                    roots[i] = self.root(*bases[i])
            if any(root is None for root in roots):
                out.append(g)
                continue
            d = roots[0] @ g @ roots[1]
            out.append(d * np.linalg.norm(g) / np.linalg.norm(d))
        return out

    def statistics(self, gram, values, stored, steps):
        v = self.orthogonal(stored, 1)
        weight = (1 - self.beta) / (1 - self.beta ** (steps + 1))
        a = (1 - weight) * (v * values) @ v.T + weight * gram
        order = np.argsort(-np.diag(v.T @ a @ v), kind="stable")
        p = np.linalg.qr((a @ v)[:, order])[0][:, np.argsort(order)]
        return np.diag(p.T @ a @ p).clip(0), self.rounded(p.T).T, steps + 1

    def root(self, values, stored, _):
        v = self.orthogonal(stored, 4)
        x = (v * (values + self.damping * values.max()) ** -0.25) @ v.T
        return np.diag(np.diag(x)) + self.rounded(x - np.diag(np.diag(x)))

    def orthogonal(self, v, steps):
        # In 32 bits nothing has to be made orthogonal, and nothing changes.
        for _ in range(steps):
            v = 1.5 * v - 0.5 * v @ v.T @ v
        return v

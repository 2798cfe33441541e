"""Muon as its reference has it, on one weight (out, in), in NumPy and float64.

Jordan et al. (2024): heavy-ball momentum, Nesterov's look-ahead, the orthogonal factor,
the scale by shape, and decoupled weight decay. No averages are corrected for their start.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Muon:
    """One matrix. `rows` are coefficients of an odd polynomial each; none means exact."""

    learning_rate: float = 0.1
    b1: float = 0.95
    weight_decay: float = 0.0
    nesterov: bool = True
    scale: str = "muon"
    rows: tuple = ()

    def run(self, param, grads) -> list[np.ndarray]:
        """The parameter after each step."""
        w, params = np.asarray(param, "float64"), []
        buffer = np.zeros_like(w)
        for grad in grads:
            g = np.asarray(grad, "float64")
            buffer = self.b1 * buffer + g
            source = g + self.b1 * buffer if self.nesterov else buffer
            step = self.size(*w.shape) * self.orthogonal(source)
            w = w - self.learning_rate * (step + self.weight_decay * w)
            params.append(w)
        return params

    def orthogonal(self, matrix):
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
        if not self.rows:
            return u @ vt
        s = s / np.sum(s**16) ** (1 / 16)  # the bound that jaxla scales by
        for a, b, c in self.rows:
            s = a * s + b * s**3 + c * s**5
        return (u * s) @ vt

    def size(self, m, n):
        sizes = {
            "muon": np.sqrt(max(1, m / n)),
            "rms": np.sqrt(m / n),
            "adam": 0.2 * np.sqrt(max(m, n)),
            "none": 1.0,
        }
        return sizes[self.scale]

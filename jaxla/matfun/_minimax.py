r"""Composed minimax polynomials for $m^{-1/p}$, as tables of numbers.

One stage multiplies by a polynomial $t(m)$ that minimises
$\max |m^{1/p} t(m) - 1|$ over the interval in which the eigenvalues lie; the
eigenvalues then lie in a smaller interval, for which the next stage is found.
$p = 2$ with $m = x^2$ is the polar decomposition, where the construction is
known as Polar Express (Amsel, Persson, Musco and Gower, 2025).

Everything here is NumPy in float64 on static numbers: no array is traced.
"""

import functools
import math
from typing import NamedTuple

import numpy as np


Coefficients = tuple[tuple[float, ...], ...]

# Chosen by measurement: 0.03 costs no more products than 0.003, and on well-conditioned
# float32 matrices has a fifth to three quarters of its error (benchmarks/roots.py).
CUSHION = 0.03


class Stages(NamedTuple):
    r"""The stages of an iteration, all as Python numbers.

    - `rows`: coefficients $(c_0, c_1, \dots)$, one row a stage.
    - `intervals`: those that they are made for: in them lie the eigenvalues by then.
    - `delta`: in the end they lie in $[1 - \delta, 1 + \delta]$.
    """

    rows: Coefficients
    intervals: tuple[tuple[float, float], ...]
    delta: float


@functools.cache
def inverse_root_stages(p: int, floor: float, tolerance: float) -> Stages:
    r"""Stages of a coupled iteration for $A^{-1/p}$.

    **Arguments:**

    - `p`: the root, a positive integer.
    - `floor`: the smallest eigenvalue to serve, the largest being 1.
    - `tolerance`: stop when every $m$ lies in $[1 - \delta, 1 + \delta]$ with
        $\delta$ at most this.
    """
    low, high, rows, intervals = floor, 1.0 + 1e-6, [], []
    while True:
        delta = max(1 - low, high - 1)
        if delta <= tolerance:
            return Stages(tuple(rows), tuple(intervals), delta)
        intervals.append((low, high))
        # The best polynomial for a long interval takes some large eigenvalues
        # to nearly zero, which loses digits by cancellation: make it for an
        # interval that is at most 1/CUSHION long. Smaller eigenvalues still rise.
        coefficients, error = minimax_stage(max(low, CUSHION * high), high, p, 2)
        error *= 1.001  # the grid misses the peaks by less than that
        at_low = low ** (1 / p) * np.polynomial.polynomial.polyval(low, coefficients)
        least, most = min(1 - error, at_low), 1 + error
        # Scale so that the new interval is centred on 1: solve for s in
        # (s least)^p + (s most)^p = 2.
        scale = (2 / (least**p + most**p)) ** (1 / p)
        rows.append(tuple(float(scale * c) for c in coefficients))
        low, high = float(scale * least) ** p, float(scale * most) ** p


@functools.cache
def minimax_stage(
    low: float, high: float, p: int, degree: int
) -> tuple[tuple[float, ...], float]:
    r"""The polynomial $t$ with the least $e = \max |m^{1/p} t(m) - 1|$, and $e$.

    Found by Remez exchange on $[low, high]$; for an interval so short that
    the exchange is ill-posed, the Taylor polynomial of $m^{-1/p}$ at 1.
    """
    grid = np.geomspace(low, high, 4001)
    if high / low - 1 < 1e-2:
        coefficients = _taylor(p, degree)
    else:
        coefficients = _remez(grid, p, degree)
    ripple = grid ** (1 / p) * np.polynomial.polynomial.polyval(grid, coefficients)
    return tuple(map(float, coefficients)), float(np.abs(ripple - 1).max())


def _remez(grid: np.ndarray, p: int, degree: int) -> np.ndarray:
    basis = grid[:, None] ** (1 / p + np.arange(degree + 1))
    signs = (-1.0) ** np.arange(degree + 2)
    nodes = np.linspace(0, len(grid) - 1, degree + 2).round().astype(int)
    for _ in range(50):
        # Equioscillation: basis @ c - 1 = sign * level at every node.
        system = np.column_stack([basis[nodes], signs])
        *coefficients, _ = np.linalg.solve(system, np.ones(degree + 2))
        error = basis @ np.array(coefficients) - 1
        # The extreme of each run of one sign is the next node.
        runs = np.split(np.arange(len(grid)), np.flatnonzero(np.diff(error > 0)) + 1)
        new = np.array([run[np.abs(error[run]).argmax()] for run in runs])
        if len(new) != degree + 2 or (new == nodes).all():
            break
        nodes = new
    return np.array(coefficients)


def _taylor(p: int, degree: int) -> np.ndarray:
    """Of $m^{-1/p}$ at $m = 1$, as coefficients of powers of $m$."""
    out = np.zeros(degree + 1)
    for k in range(degree + 1):
        binomial = math.prod(-1 / p - j for j in range(k)) / math.factorial(k)
        for j in range(k + 1):  # (m - 1)^k
            out[j] += binomial * math.comb(k, j) * (-1.0) ** (k - j)
    return out

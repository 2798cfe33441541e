"""One operator of each kind, and the same matrix by NumPy."""

import functools

import numpy as np
import scipy.linalg

from jaxla.operators import (
    DampedKronecker,
    Dense,
    Diagonal,
    Kronecker,
    KroneckerSum,
    LowRankPlusDiagonal,
    Toeplitz,
)


def kron(*matrices):
    """The Kronecker product of matrices, or of batches of them."""

    def two(a, b):
        out = np.einsum("...ij,...kl->...ikjl", a, b)
        (m, n), (p, q) = a.shape[-2:], b.shape[-2:]
        return out.reshape(*out.shape[:-4], m * p, n * q)

    return functools.reduce(two, matrices)


def kron_sum(*matrices):
    eye = lambda a: np.eye(a.shape[-1])
    return functools.reduce(lambda a, b: kron(a, eye(b)) + kron(eye(a), b), matrices)


def general(seed, *shape):
    """A matrix away from singular ones if it is square."""
    a = np.random.default_rng(seed).standard_normal(shape)
    return a + 3 * np.eye(*shape[-2:])


def symmetric(seed, *shape):
    a = np.random.default_rng(seed).standard_normal(shape)
    return a @ np.swapaxes(a, -1, -2) / shape[-1] + np.eye(shape[-1])


def vector(seed, *shape):
    return np.random.default_rng(seed).uniform(1, 2, shape)


def diag(d):
    return d[..., None] * np.eye(d.shape[-1])


A, B, C = general(0, 2, 2), general(1, 3, 3), general(2, 2, 2)
S, T = symmetric(3, 2, 2), symmetric(4, 3, 3)
U, D = general(5, 4, 2) / 4, vector(7, 4)
COLUMN, ROW = np.array([4.0, 1, 0.5, -1]), np.array([4.0, -0.5, 1, 2])
TOEPLITZ = scipy.linalg.toeplitz(COLUMN, ROW)
LAPLACE = np.array([3.0, -1.0, 0.0])

CYCLE = np.roll(np.diag([2.0, 3.0, -4.0]), 1, axis=0)

# From a function that makes arrays to the operator, and its matrix.
CASES = {
    # Its rows change places in a cycle; the determinant is -24.
    "dense, pivoting": (lambda x: Dense(x(CYCLE)), CYCLE),
    "dense, wide": (lambda x: Dense(x(general(8, 2, 5))), general(8, 2, 5)),
    "diagonal": (lambda x: Diagonal(x(D)), np.diag(D)),
    "low rank": (lambda x: LowRankPlusDiagonal(x(D), x(U)), np.diag(D) + U @ U.T),
    "Toeplitz": (
        lambda x: Toeplitz(x(COLUMN), x(ROW)),
        TOEPLITZ,
    ),
    "Toeplitz, symmetric": (
        lambda x: Toeplitz(x(LAPLACE)),
        scipy.linalg.toeplitz(LAPLACE),
    ),
    "Toeplitz, tall": (
        lambda x: Toeplitz(x(COLUMN), x(ROW[:2])),
        scipy.linalg.toeplitz(COLUMN, ROW[:2]),
    ),
    "Kronecker, 3 and 1x1": (
        lambda x: Kronecker(x(A), x(2 * np.eye(1)), x(C)),
        2 * kron(A, C),
    ),
    "Kronecker, symmetric": (lambda x: Kronecker(x(S), x(T), symmetric=True), kron(S, T)),
    "Kronecker, rectangular": (
        lambda x: Kronecker(x(general(9, 2, 3)), x(general(10, 4, 2)), x(A)),
        kron(general(9, 2, 3), general(10, 4, 2), A),
    ),
    "Kronecker of all kinds": (
        lambda x: Kronecker(Toeplitz(x(COLUMN), x(ROW)), Diagonal(x(D[:2])), x(A)),
        kron(TOEPLITZ, np.diag(D[:2]), A),
    ),
    "damped, of all kinds": (
        lambda x: DampedKronecker(Toeplitz(x(LAPLACE)), Diagonal(x(D[:2])), shift=0.5),
        kron(scipy.linalg.toeplitz(LAPLACE), np.diag(D[:2])) + 0.5 * np.eye(6),
    ),
    "sum": (lambda x: KroneckerSum(x(S), x(S), x(S), symmetric=True), kron_sum(S, S, S)),
    "sum, not symmetric": (lambda x: KroneckerSum(x(A), x(B)), kron_sum(A, B)),
}

SA, TB = symmetric(11, 3, 2, 2), symmetric(12, 2, 2)
DB, UB, SHIFTS = vector(13, 3, 4), general(14, 3, 4, 2) / 4, vector(15, 3)
COLUMNS = np.stack([COLUMN, 2 * COLUMN, COLUMN[::-1] + 3 * np.eye(4)[0]])
# Batches of three, some of whose arrays all three share.
BATCHES = {
    "dense": (lambda x: Dense(x(SA)), SA),
    "diagonal": (lambda x: Diagonal(x(DB)), diag(DB)),
    "low rank": (
        lambda x: LowRankPlusDiagonal(x(DB), x(U), x(UB)),
        diag(DB) + U @ np.swapaxes(UB, -1, -2),
    ),
    "Toeplitz": (
        lambda x: Toeplitz(x(COLUMNS), x(ROW)),
        np.stack([scipy.linalg.toeplitz(c, ROW) for c in COLUMNS]),
    ),
    "Kronecker": (lambda x: Kronecker(x(SA), x(B)), kron(SA, B)),
    "damped": (
        lambda x: DampedKronecker(x(S), x(TB), shift=x(SHIFTS)),
        kron(S, TB) + diag(SHIFTS[:, None] * np.ones(4)),
    ),
    "sum": (lambda x: KroneckerSum(x(SA), x(TB), symmetric=True), kron_sum(SA, TB)),
}

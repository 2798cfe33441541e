r"""What four bits do to an inverse fourth root: of the matrix, or of its eigenvectors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxla.kron import (
    Blocks,
    dequantize,
    first_stored,
    quantize,
    rectify,
    refresh_stored_bases,
    refresh_stored_roots,
    restore_roots,
    Storage,
)

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table


QUESTION = """How far is the inverse fourth root of a matrix that was stored in four bits
from the exact one, if the matrix is stored, and if its eigenvectors are, with steps that
make them orthogonal again? (4-bit Shampoo, Table 1.) And what is left of a factor that
takes in many gradients, and is rounded each time?"""

WAYS = ("matrix", *(f"eigenvectors, {k} steps" for k in (0, 1, 2, 4)))


def main(arguments=None):
    return run_script("four_bit", QUESTION, measure, arguments)


def measure(settings: Settings) -> Findings:
    n = settings.choose(400, 24)
    spectra = {
        "two levels, condition 1e3": np.where(np.arange(n) < n // 2, 1, 1e-3),
        "geometric, condition 1e6": np.geomspace(1, 1e-6, n),
    }
    rows, found = [], {}
    for name, values in spectra.items():
        q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))
        desired = (q * values**-0.25) @ q.T
        for way in WAYS:
            actual = stored_root(way, values, q)
            error = np.linalg.norm(actual - desired) / np.linalg.norm(desired)
            cosine = (actual * desired).sum() / np.linalg.norm(actual)
            angle = np.degrees(np.arccos(cosine / np.linalg.norm(desired)))
            found[name, way] = float(error)
            rows.append((name, way, float(error), float(angle)))
            say(f"{name}, {way}: {error:.3f}")
    two, wide = spectra
    figures = [
        Figure(
            "eigenvectors / matrix, two levels",
            0.1,
            found[two, WAYS[1]] / found[two, "matrix"],
        ),
        Figure("with two steps, two levels", 0.08, found[two, WAYS[3]]),
        Figure("with two steps, geometric", 0.09, found[wide, WAYS[3]]),
    ]
    columns = ("spectrum", "stored", "error / norm", "angle, degrees")
    note = f"n = {n}; a stored matrix is indefinite: its eigenvalues are at least 1e-6."
    table = Table("Inverse fourth roots", columns, rows, note)
    return Findings([table, many_turns(settings)], figures)


def stored_root(way: str, values: np.ndarray, q: np.ndarray) -> np.ndarray:
    if way == "matrix":
        a = _in_four_bits((q * values) @ q.T)
        w, v = np.linalg.eigh((a + a.T) / 2)
        return (v * np.maximum(w, 1e-6 * w.max()) ** -0.25) @ v.T
    # Eigenvectors are rows here: a group is a part of one of them.
    v = np.asarray(rectify(_in_four_bits(q.T), steps=int(way.split()[1]))).T
    return (v * values**-0.25) @ v.T


def many_turns(settings: Settings) -> Table:
    """What becomes of eigenvalues and of the root, if each turn starts from the last."""
    n, turns, beta = *settings.choose((128, 60), (64, 3)), 0.95
    rng = np.random.default_rng(0)
    mix = np.linalg.qr(rng.normal(size=(n, n)))[0] * np.geomspace(1, 1e-2, n)
    rows = []
    for columns in (n // 2, 2 * n):
        draws = (mix @ rng.normal(size=(turns, n, columns))).astype("float32")
        weights = beta ** np.arange(turns)[::-1]
        exact = np.einsum("t,tij,tkj->ik", weights / weights.sum(), draws, draws)
        values, v = np.linalg.eigh(exact)
        g = mix @ rng.normal(size=(n, 2 * n))
        desired = (v * values**-0.25) @ v.T @ g
        cosine = lambda d, best=desired: float(
            (d * best).sum() / np.linalg.norm(d) / np.linalg.norm(best)
        )
        for name, storage, damping in (
            ("4 bits", Storage(), 1e-6),
            ("4 bits, 4 steps", Storage(basis_steps=4), 1e-6),
            ("32 bits", Storage(bits=32), 1e-6),
            ("32 bits, damping 1e-2", Storage(bits=32), 1e-2),
        ):
            found, root = follow(draws, storage, damping)
            ends = (float(found.min() / values[0]), float(found.max() / values[-1]))
            rows.append((columns, name, *ends, cosine(root @ g)))
        rows.append((columns, "no preconditioner", None, None, cosine(g)))
        say(f"{turns} turns of gradients with {columns} columns")
    columns = ("columns", "kept in", "smallest / exact", "largest / exact", "cosine")
    note = (
        f"Gradients of {n} rows, condition 1e4 of the factor, decay {beta}. The smallest "
        "and the largest eigenvalue; the cosine of a preconditioned gradient to the "
        "exact one. Steps: of those that make eigenvectors orthogonal in a turn."
    )
    return Table(f"After {turns} turns", columns, rows, note)


def follow(draws: np.ndarray, storage: Storage, damping: float):
    """Eigenvalues and root of a factor that has taken in these gradients."""
    n = draws.shape[1]
    basis, root = first_stored(n, 1, storage)
    choices: dict[str, Any] = {"blocks": Blocks(refresh_every=1), "storage": storage}

    @jax.jit
    def turn(basis, g):
        grams, taken = {n: (g @ g.T)[None]}, {n: jnp.ones(1)}
        return refresh_stored_bases(grams, {n: basis}, taken, 0, beta=0.95, **choices)[0][
            n
        ]

    for g in draws:
        basis = turn(basis, g)
    roots, _ = refresh_stored_roots({n: basis}, {n: root}, 0, damping=damping, **choices)
    matrix = np.asarray(restore_roots(roots)[0][n][0], "float64")
    return np.asarray(basis.values[0], "float64"), matrix


def _in_four_bits(a: np.ndarray) -> np.ndarray:
    return np.asarray(dequantize(quantize(jnp.asarray(a, jnp.float32))), "float64")


if __name__ == "__main__":
    main()

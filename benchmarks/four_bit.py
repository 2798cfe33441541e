r"""What four bits do to an inverse fourth root: of the matrix, or of its eigenvectors."""

import jax.numpy as jnp
import numpy as np

from jaxla.kron import dequantize, quantize, rectify

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table


QUESTION = """How far is the inverse fourth root of a matrix that was stored in four bits
from the exact one, if the matrix is stored, and if its eigenvectors are, with steps that
make them orthogonal again? (4-bit Shampoo, Table 1.)"""

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
    return Findings([Table("Inverse fourth roots", columns, rows, note)], figures)


def stored_root(way: str, values: np.ndarray, q: np.ndarray) -> np.ndarray:
    if way == "matrix":
        a = _in_four_bits((q * values) @ q.T)
        w, v = np.linalg.eigh((a + a.T) / 2)
        return (v * np.maximum(w, 1e-6 * w.max()) ** -0.25) @ v.T
    # Eigenvectors are rows here: a group is a part of one of them.
    v = np.asarray(rectify(_in_four_bits(q.T), steps=int(way.split()[1]))).T
    return (v * values**-0.25) @ v.T


def _in_four_bits(a: np.ndarray) -> np.ndarray:
    return np.asarray(dequantize(quantize(jnp.asarray(a, jnp.float32))), "float64")


if __name__ == "__main__":
    main()

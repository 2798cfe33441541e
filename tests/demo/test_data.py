import zipfile

import numpy as np
import pytest

from jaxla._demo import _data
from jaxla._demo._data import BadData, Dataset, load, load_npz, split


RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4))
Y = np.arange(30) % 3


def with_nan(where, value=np.nan):
    x = X.copy()
    x[where] = value
    return x


BAD_ARRAYS = {
    "nothing": ({}, r"no array `x`; expected `x` and `y`, got nothing\."),
    "other names": (
        dict(images=X, y=Y),
        r"no array `x`; expected `x` and `y`, got `images`, `y`\.",
    ),
    "no labels": (dict(x=X), r"no array `y`; expected `x` and `y`, got `x`\."),
    "objects": (
        dict(x=X.astype(object), y=Y),
        r"`x` in .* holds Python objects; expected an array of numbers\.",
    ),
    "rank of x": (dict(x=X[:, 0], y=Y), r"`x` .* at least two axes.*; got \(30,\)\."),
    "no features": (dict(x=X[:, :0], y=Y), r"`x` .* got \(30, 0\)\."),
    "rank of y": (dict(x=X, y=Y[:, None]), r"`y` .* shape \(n,\); got \(30, 1\)\."),
    "lengths": (dict(x=X, y=Y[:-1]), r"the same length; got 30 and 29\."),
    "too few": (dict(x=X[:5], y=Y[:5]), r"has 5 examples; expected at least 20\."),
    "text": (dict(x=X.astype(str), y=Y), r"`x` .* must have a real dtype; got <U"),
    "complex": (dict(x=X + 0j, y=Y), r"`x` .* must have a real dtype; got complex128\."),
    "float labels": (
        dict(x=X, y=Y.astype(float)),
        r"`y` .* must have an integer dtype; got float64\. Convert .* `y\.astype\(int\)`",
    ),
    "nan": (dict(x=with_nan((7, 2)), y=Y), r"`x` .* 1 entries .* NaN .* example 7\."),
    "inf": (dict(x=with_nan(4, np.inf), y=Y), r"`x` .* 4 entries .* in example 4\."),
    "one class": (dict(x=X, y=0 * Y), r"`y` .* has 1 different labels for 30 examples"),
    "no classes": (dict(x=X, y=np.arange(30)), r"`y` .* has 30 different labels"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays(tmp_path, name):
    arrays, message = BAD_ARRAYS[name]
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(BadData, match=message):
        load_npz(path)


def test_bad_files(tmp_path):
    with pytest.raises(BadData, match=r"nowhere\.npz does not exist"):
        load_npz(tmp_path / "nowhere.npz")
    with pytest.raises(BadData, match="is not a file"):
        load_npz(tmp_path)
    np.save(tmp_path / "array.npy", X)
    contents = {"empty": b"", "text": b"x,y\n1,2\n", "zip": b"PK\x03\x04 and no more"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in ("array.npy", *contents):
        with pytest.raises(BadData, match=f"{name} cannot be read as an npz file"):
            load_npz(tmp_path / name)


def test_damaged_file(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)  # within the numbers of `x`
    path.write_bytes(content)
    with pytest.raises(BadData, match=r"`x` in .* is damaged"):
        load_npz(path)


def test_examples_are_flattened_and_labels_numbered(tmp_path):
    path = tmp_path / "mine.npz"
    x = RNG.normal(size=(24, 2, 3))
    np.savez(path, x=x, y=np.array([-5, 8, 100] * 8))
    dataset = load_npz(path)
    assert (dataset.name, dataset.classes) == ("mine", 3)
    np.testing.assert_array_equal(dataset.x, x.reshape(24, 6))
    np.testing.assert_array_equal(dataset.y, [0, 1, 2] * 8)


def test_split_is_drawn_by_the_seed_and_loses_nothing():
    x = np.arange(50.0)[:, None] * [1, 0, 1e6] + [0, 7, 0]
    dataset = Dataset("", "", x, np.arange(50) % 2, 2)
    one, same, other = split(dataset, 1), split(dataset, 1), split(dataset, 2)
    np.testing.assert_array_equal(one.x, same.x)
    assert not np.array_equal(one.x, other.x)
    assert (len(one.x), len(one.x_valid)) == (40, 10)
    # Every column has its own scale, taken from the training part; constants vanish.
    np.testing.assert_allclose(one.x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(one.x.std(0), [1, 0, 1], rtol=1e-5)
    both = np.concatenate([one.x, one.x_valid])
    assert len(np.unique(both[:, 0])) == 50
    assert abs(one.x_valid.mean()) > 1e-4


def test_bytes_go_to_the_unit_interval():
    x = np.tile(np.array([[0, 51, 255]], np.uint8), (20, 1))
    part = split(Dataset("", "", x, np.arange(20) % 2, 2), 0)
    np.testing.assert_allclose(part.x_valid[0], [0, 0.2, 1])
    assert part.x.dtype == np.float32


@pytest.mark.parametrize(
    ("task", "shape"), [("mnist", (5000, 784)), ("digits", (1797, 64))]
)
def test_tasks(task, shape):
    dataset = load(task)
    assert dataset.x.shape == shape
    assert set(dataset.y) == set(range(10))
    assert split(dataset, 0).x.max() == 1
    assert dataset.name == task
    assert len(dataset.x) > _data.FEWEST


def test_an_entry_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", "hello")
        archive.writestr("y.npy", "hello")
    with pytest.raises(BadData, match=r"`x` in .* is not an array that NumPy wrote"):
        load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("begin", [40, 60, 90, 120, 200])
def test_a_damaged_header(tmp_path, begin):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[begin : begin + 40] = bytes(40)
    path.write_bytes(bytes(content))
    with pytest.raises(BadData, match=r"damaged|no array|cannot be read|not an array"):
        load_npz(path)


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e20, 1e300])
def test_the_scale_of_the_features_does_not_matter(scale):
    plain, scaled = (split(Dataset("", "", x, Y, 3), 0) for x in (X, scale * X))
    np.testing.assert_allclose(scaled.x, plain.x, rtol=1e-5)
    np.testing.assert_allclose(scaled.x_valid, plain.x_valid, rtol=1e-5)

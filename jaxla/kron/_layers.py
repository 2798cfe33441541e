"""Which role a parameter has, and which of its axes are outputs and inputs.

Decided by its path and its shape. What a layer computes is a matrix from inputs to
outputs: rows are outputs and columns inputs, however the framework stores it.
"""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args, Literal

import jax
from jaxtyping import Array, Float

from jaxla._errors import check_choice

from ._blocks import Axes


Role = Literal["hidden", "embedding", "head", "vector"]
"""What a parameter is for: a matrix between features, from tokens, to logits, or none."""

# Whole names in a path, such as `attention/out/kernel`, of parameters that are no matrix
# even if they have two axes because layers are stacked.
_NORM = re.compile(r".*norm.*|ln\d*|ln_.*|.*_ln", re.IGNORECASE)
_VECTORS = ("b", "beta", "bias", "gamma", "scale")  # by their own name
_HEAD = re.compile(r"(.*_)?(head|logits|readout)|.*unembed.*", re.IGNORECASE)
_EMBEDDING = re.compile(r".*embed.*|wte|wpe", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Layer:
    """The role of a parameter, and how it is read as matrices.

    **Arguments:**

    - `role`: `"hidden"`, `"embedding"`, `"head"` or `"vector"`.
    - `axes`: rows are outputs, columns inputs, see [`jaxla.kron.Axes`][]; those of an
        embedding's columns are tokens. `None` for a vector.

    !!! example

        A weight `(heads, size, out)`:

        >>> layer = jaxla.kron.Layer("hidden", jaxla.kron.Axes(rows=(2,), cols=(0, 1)))
        >>> layer.role
        'hidden'
    """

    role: Role
    axes: Axes | None = None

    def __post_init__(self):
        check_choice("role", self.role, get_args(Role))
        if (self.axes is None) != (self.role == "vector"):
            raise ValueError(
                f"`axes` must be given for a matrix and only for one; got {self.axes} "
                f"for the role {self.role!r}."
            )

    def to_matrices(self, x: Float[Array, "..."]) -> Float[Array, "batch m n"]:
        """A parameter as matrices; a vector as a matrix of one column."""
        if self.axes is None:
            return x.reshape(1, -1, 1)
        return x.transpose(self._order(x.ndim)).reshape(self.matrix_shape(x.shape))

    def from_matrices(
        self, x: Float[Array, "batch m n"], shape: tuple[int, ...]
    ) -> Float[Array, "..."]:
        """The inverse of `to_matrices`."""
        if self.axes is None:
            return x.reshape(shape)
        order = self._order(len(shape))
        x = x.reshape([shape[axis] for axis in order])
        return x.transpose([order.index(axis) for axis in range(len(order))])

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """`(batch, m, n)` for a parameter of this shape."""
        if self.axes is None:
            return 1, math.prod(shape), 1
        groups = (self.axes.batch, self.axes.rows, self.axes.cols)
        b, m, n = (math.prod(shape[axis] for axis in group) for group in groups)
        return b, m, n

    def _order(self, ndim: int) -> list[int]:
        assert self.axes is not None
        axes = (*self.axes.batch, *self.axes.rows, *self.axes.cols)
        return [axis % ndim for axis in axes]


LayerRules = Mapping[str, Role | Layer] | Callable[[str, Any], Role | Layer | None]
"""Rules by pattern of the path, or a function of the path and the parameter."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """How to find out which role each parameter has, and which axes are which.

    Like [`jaxla.kron.Blocks`][] it holds choices that no hyperparameter injection may
    trace. By default, in this order:

    1. Fewer than two axes longer than 1 (but for stacked layers), named `bias`, `b`,
       `beta`, `gamma` or `scale`, or part of a `norm` or an `ln_1`: a vector.
    2. Two axes, and `unembed`, `head`, `logits` or `readout` in the path: a head.
    3. Two axes, and `embed` in the path: an embedding, `(tokens, features)`.
    4. All others are hidden. Three axes are layers stacked along the first one, unless
       `conv` is in the path; all others with more than two are convolutions.

    **Arguments:**

    - `layout`: `"equinox"`, weights `(out, in)` and kernels `(out, in, h, w)`;
        `"flax"`, `(in, out)` and `(h, w, in, out)`, and `(in, heads, size)` of
        `query`, `key`, `value` and `(heads, size, out)` of `out`; or `"auto"`: of Flax
        if the last name in the path is `kernel`, of Equinox if not.
    - `stacked`: how many leading axes count layers, by pattern of the path (as of
        `fnmatch`, the first match counts), such as `{"blocks/*": 1}`.
    - `rules`: exceptions: a mapping from patterns to a role or a
        [`jaxla.kron.Layer`][], or a function of the path and the parameter that returns
        one, or `None` for the default. Paths look like `layers/0/weight`.

    !!! example

        >>> import jax
        >>> layers = jaxla.kron.Layers(rules={"*last*": "head"})
        >>> weight = jax.ShapeDtypeStruct((10, 64), "float32")
        >>> layers.layer("last/weight", weight)
        Layer(role='head', axes=Axes(rows=(0,), cols=(1,), batch=()))
        >>> layers.layer("last/kernel", weight).axes.cols
        (0,)
    """

    layout: str = "auto"
    stacked: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rules: LayerRules = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_choice("layout", self.layout, ("auto", "equinox", "flax"))
        if not isinstance(self.stacked, Mapping):
            raise TypeError(f"`stacked` must be a mapping; got {self.stacked!r}.")

    def layer(self, path: str, leaf: Any, *, thin: bool = False) -> Layer:
        """The role and the axes of a parameter.

        With `thin` a weight of one output or one input is no vector by its shape, but a
        matrix, which makes a difference where the two sides do.
        """
        shape = tuple(leaf.shape)
        rule = self.rules
        rule = rule(path, leaf) if callable(rule) else _first_match(rule, path)
        if isinstance(rule, Layer):
            _check_axes(path, shape, rule)
            return rule
        if rule is not None and rule not in get_args(Role):
            raise ValueError(
                "`rules` must give 'hidden', 'embedding', 'head', 'vector', a `Layer` "
                f"or None for a parameter; got {rule!r} for {path!r}."
            )
        batch = self._num_stacked(path, shape)
        role = rule or _role(path, shape[batch:], thin)
        if role == "vector":
            return Layer("vector")
        if len(shape) - batch < 2:
            raise ValueError(
                f"`rules` makes {path!r} of shape {shape} a matrix, {role!r}, but "
                f"without {batch} stacked axes it has fewer than two."
            )
        return Layer(role, self._axes(role, path, len(shape), batch))

    def _num_stacked(self, path: str, shape: tuple[int, ...]) -> int:
        given = _first_match(self.stacked, path)
        if given is not None:
            if isinstance(given, bool) or not isinstance(given, int):
                raise TypeError(f"`stacked` must give integers; got {given!r}.")
            if not 0 <= given <= len(shape):
                raise ValueError(
                    f"`stacked` gives {given} leading axes for {path!r}, whose shape is "
                    f"{shape}."
                )
            return given
        whole = "conv" in path.lower() or self._attention(path) is not None
        return 1 if len(shape) == 3 and not whole else 0

    def _axes(self, role: Role, path: str, ndim: int, batch: int) -> Axes:
        own, stacked = tuple(range(batch, ndim)), tuple(range(batch))
        attention = self._attention(path)
        if attention is not None and len(own) == 3:
            inputs = 1 if attention == "in" else 2
            return Axes(rows=own[inputs:], cols=own[:inputs], batch=stacked)
        if role == "embedding" or self._is_flax(path):
            return Axes(rows=own[-1:], cols=own[:-1], batch=stacked)
        return Axes(rows=own[:1], cols=own[1:], batch=stacked)

    def _is_flax(self, path: str) -> bool:
        by_name = path.split("/")[-1] == "kernel"
        return by_name if self.layout == "auto" else self.layout == "flax"

    def _attention(self, path: str) -> str | None:
        """On which side Flax has heads of their own, if it has."""
        names = path.split("/")
        if not self._is_flax(path) or len(names) < 2:
            return None
        sides = {"query": "in", "key": "in", "value": "in", "out": "out"}
        return sides.get(names[-2])


def _role(path: str, shape: tuple[int, ...], thin: bool) -> Role:
    names = path.split("/")
    no_matrix = names[-1] in _VECTORS or any(map(_NORM.fullmatch, names))
    if no_matrix or sum(thin or size > 1 for size in shape) < 2:
        return "vector"
    if len(shape) == 2 and any(map(_HEAD.fullmatch, names)):
        return "head"
    if len(shape) == 2 and any(map(_EMBEDDING.fullmatch, names)):
        return "embedding"
    return "hidden"


def _first_match(rules: Mapping[str, Any], path: str) -> Any:
    for pattern, rule in rules.items():
        if fnmatch.fnmatch(path, pattern):
            return rule
    return None


def _check_axes(path: str, shape: tuple[int, ...], layer: Layer) -> None:
    if layer.axes is None:
        return
    given = (*layer.axes.batch, *layer.axes.rows, *layer.axes.cols)
    ndim = len(shape)
    axes = [axis % ndim if -ndim <= axis < ndim else axis for axis in given]
    if sorted(axes) != list(range(ndim)):
        raise ValueError(
            f"`rules`: {layer.axes} must name each axis of the parameter {path!r} of "
            f"shape {shape} once."
        )


def gain(rows: int, cols: int, *, scale: str) -> float:
    r"""How large a step to take for a matrix of this many outputs and inputs.

    **Arguments:**

    - `rows`, `cols`: the numbers of outputs $m$ and inputs $n$.
    - `scale`: `"muon"`, $\sqrt{\max(1, m/n)}$ (Jordan et al., 2024); `"rms"`,
        $\sqrt{m/n}$, by which outputs change as much at every width (Yang, Simon and
        Bernstein, 2023); `"adam"`, $0.2 \sqrt{\max(m, n)}$, by which entries change as
        much as Adam's do (Liu et al., 2025); `"none"`, 1.

    **Returns:** what to multiply an orthogonal matrix by.

    !!! example

        >>> jaxla.kron.gain(4, 1, scale="muon"), jaxla.kron.gain(1, 4, scale="muon")
        (2.0, 1.0)
    """
    check_choice("scale", scale, ("muon", "rms", "adam", "none"))
    gains = {
        "muon": max(1, rows / cols) ** 0.5,
        "rms": (rows / cols) ** 0.5,
        "adam": 0.2 * max(rows, cols) ** 0.5,
        "none": 1.0,
    }
    return gains[scale]


def describe_layers(params: Any, layers: Layers | None = None) -> str:
    """What is made of each parameter, as a text for `print`.

    **Arguments:**

    - `params`: the parameters, or a tree of `jax.ShapeDtypeStruct`.
    - `layers`: the choices, by default the default ones.

    **Returns:**

    One line a parameter: its path, its shape, its role, and for a matrix its outputs and
    inputs.

    !!! example

        >>> import jax
        >>> params = {"head": {"weight": jax.ShapeDtypeStruct((10, 64), "float32")},
        ...           "conv": {"weight": jax.ShapeDtypeStruct((32, 3, 5, 5), "float32")}}
        >>> print(jaxla.kron.describe_layers(params))
        conv/weight  32x3x5x5  hidden  32 from 75
        head/weight  10x64     head    10 from 64
    """
    rows = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        layer = (layers or Layers()).layer(name, leaf)
        b, m, n = layer.matrix_shape(leaf.shape)
        matrix = f"{m} from {n}" if b == 1 else f"{b} times {m} from {n}"
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        rows.append((name, shape, layer.role, "-" if layer.axes is None else matrix))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )

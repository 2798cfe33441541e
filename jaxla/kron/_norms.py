r"""Norms of matrices, their duals, and the directions that they call steepest.

$$\|G\|_* = \max_{\|T\| \le 1} \langle G, T \rangle, \qquad
T(G) = \arg\max_{\|T\| \le 1} \langle G, T \rangle$$

The step of steepest descent under a norm is along $-T(G)$: `jaxla.optim` gives each layer
the norm of what it does (Bernstein and Newhouse, 2024).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxla._dtypes import compute_dtype, finiteness_and_unit, safe_sqrt
from jaxla._errors import as_real_matrix, check_int
from jaxla.matfun import orthogonalize, polar

from ._similar import map_similar


Coefficients = tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Norm:
    r"""A norm of matrices, its dual norm, and its duality map.

    Make one by [`jaxla.kron.sign_norm`][] and its siblings below, or of functions of
    your own.

    **Arguments:**

    - `norm`, `dual_norm`: functions from `(*batch, m, n)` arrays to the norm, and the
        dual norm, of each matrix.
    - `duality_map`: a function from such an array $G$ to one of its shape and dtype:
        $T$ with $\langle G, T \rangle = \|G\|_*$ and $\|T\| = 1$; zero where $G$ is.
    - `together`: the duality map of a list of arrays, if there is a faster way than
        one by one.

    What comes with jaxla takes half precision in `float32`, where norms are returned in,
    too. It does not over- or underflow on the way: a gradient of 1e-20 has the direction
    of one of order 1. A matrix with a non-finite entry gives NaN, and touches no other.

    !!! example

        >>> import jax.numpy as jnp
        >>> norm = jaxla.kron.sign_norm()
        >>> gradient = jnp.array([[3.0, -4.0]])
        >>> print(norm.dual_norm(gradient), norm.duality_map(gradient))
        7.0 [[ 1. -1.]]

    ??? cite "Reference"

        Bernstein and Newhouse, *Old Optimizer, New Norm: An Anthology*, 2024.
    """

    norm: Callable[[Any], Any]
    dual_norm: Callable[[Any], Any]
    duality_map: Callable[[Any], Any]
    together: Callable[[Sequence[Any]], list[Any]] | None = None

    def duality_maps(self, matrices: Sequence[Any]) -> list[Any]:
        """The duality map of each array of a list."""
        if self.together is not None:
            return self.together(matrices)
        return [self.duality_map(matrix) for matrix in matrices]


def sign_norm() -> Norm:
    r"""The largest absolute entry, $\max_{ij} |W_{ij}|$.

    The dual norm is the sum of absolute entries, the duality map
    $\mathrm{sign}(G)$: Adam without averages. It is the norm of maps from $\ell_1$ to
    $\ell_\infty$.

    **Returns:** a [`jaxla.kron.Norm`][].

    **Differentiation:** both modes; the duality map has derivative zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.kron.sign_norm().duality_map(jnp.array([[3.0, 0.0, -4.0]])))
        [[ 1.  0. -1.]]
    """
    return _norm(
        lambda w: jnp.abs(w).max((-2, -1), initial=0),
        lambda g: jnp.abs(g).sum((-2, -1)),
        jnp.sign,
    )


def frobenius_norm() -> Norm:
    r"""The Euclidean norm of all entries, its own dual.

    The duality map is $G / \|G\|_F$: normalised gradient descent.

    **Returns:** a [`jaxla.kron.Norm`][].

    **Differentiation:** both modes and every order; zero at zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.kron.frobenius_norm().duality_map(jnp.array([[3.0, 4.0]])))
        [[0.6 0.8]]
    """

    def length(x):
        return safe_sqrt(jnp.sum(x * x, (-2, -1)))

    return _norm(length, length, lambda g: _divide(g, length(g)[..., None, None]))


def column_norm() -> Norm:
    r"""The largest Euclidean norm of a column: of maps from $\ell_1$ to $\ell_2$.

    The dual norm is the sum of the norms of the columns; the duality map normalises each
    column. Suits embeddings, whose columns are tokens.

    **Returns:** a [`jaxla.kron.Norm`][].

    **Differentiation:** both modes and every order; zero at columns of zeros.

    !!! example

        >>> import jax.numpy as jnp
        >>> gradient = jnp.array([[3.0, 0.0], [4.0, 0.0]])
        >>> print(jaxla.kron.column_norm().duality_map(gradient))
        [[0.6 0. ]
         [0.8 0. ]]
    """
    return _norm_of_lines(-2)


def row_norm() -> Norm:
    r"""The largest Euclidean norm of a row: of maps from $\ell_2$ to $\ell_\infty$.

    The dual norm is the sum of the norms of the rows; the duality map normalises each
    row. Suits the last layer, whose rows make one logit each.

    **Returns:** a [`jaxla.kron.Norm`][].

    **Differentiation:** both modes and every order; zero at rows of zeros.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.kron.row_norm().norm(jnp.array([[3.0, 4.0], [1.0, 0.0]])))
        5.0
    """
    return _norm_of_lines(-1)


def spectral_norm(coefficients: Coefficients | None = None, *, shapes: int = 4) -> Norm:
    r"""The largest singular value: the norm of maps from $\ell_2$ to $\ell_2$.

    The dual norm is the sum of the singular values. With $G = U \Sigma V^\top$ the
    duality map is $U V^\top = (G G^\top)^{-1/4} G\, (G^\top G)^{-1/4}$: Shampoo without
    averages, and Muon without momentum.

    **Arguments:**

    - `coefficients`: rows of [`jaxla.matfun.orthogonalize`][], which then approximates
        the duality map, and by $\langle G, T \rangle$ the dual norm. By default they are
        those of [`jaxla.matfun.polar`][], accurate to rounding errors.
    - `shapes`: of a list of matrices, those of a shape are one batched call; if there are
        more than so many shapes, similar ones share a call, padded with zeros. Only with
        `coefficients`.

    **Returns:** a [`jaxla.kron.Norm`][].

    **Cost:** for an $m \times n$ matrix, $m \ge n$, $4 m n^2 + 2 n^3$ flops a row of
    coefficients; `norm` is computed by singular values.

    **Differentiation:** as of [`jaxla.matfun.polar`][] or
    [`jaxla.matfun.orthogonalize`][]; of the norm, where the largest singular value is
    simple.

    !!! example

        >>> import jax.numpy as jnp
        >>> norm = jaxla.kron.spectral_norm()
        >>> gradient = jnp.array([[0.0, 4.0], [3.0, 0.0]])
        >>> print(norm.norm(gradient), norm.dual_norm(gradient).round(3))
        4.0 7.0
        >>> print(norm.duality_map(gradient).round(3))
        [[0. 1.]
         [1. 0.]]

    ??? cite "Reference"

        Bernstein and Newhouse, *Old Optimizer, New Norm: An Anthology*, 2024,
        Propositions 5 and 6.
    """
    check_int("shapes", shapes, low=1)

    def direction(g):
        if coefficients is None:
            return polar(g).unitary
        return orthogonalize(g, coefficients=coefficients)

    # Polar looks at how hard a matrix is: one that is padded is as hard as can be.
    limit = None if coefficients is None else shapes
    return _norm(
        lambda w: jnp.linalg.svd(w, compute_uv=False)[..., 0],
        lambda g: jnp.sum(g * direction(g), (-2, -1)),
        direction,
        together=lambda one, many: map_similar(one, many, shapes=limit),
    )


def rms_norm(coefficients: Coefficients | None = None, *, shapes: int = 4) -> Norm:
    r"""How much a map from inputs to outputs raises the root of the mean square.

    $\sqrt{n/m}\, \|W\|_2$ for an $m \times n$ matrix, $n$ inputs and $m$ outputs. The
    dual norm is $\sqrt{m/n}$ times the sum of the singular values, the duality map
    $\sqrt{m/n}\, U V^\top$. Steps of norm 1 change what a layer puts out by as much at
    every width.

    **Arguments:**

    - `coefficients`, `shapes`: as of [`jaxla.kron.spectral_norm`][].

    **Returns:** a [`jaxla.kron.Norm`][].

    **Cost** and **Differentiation:** as of [`jaxla.kron.spectral_norm`][].

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.kron.rms_norm().norm(jnp.array([[3.0, 0.0, 0.0, 0.0]])))
        6.0

    ??? cite "Reference"

        Yang, Simon and Bernstein, *A Spectral Condition for Feature Learning*, 2023.
    """
    spectral = spectral_norm(coefficients, shapes=shapes)

    def gain(g):
        m, n = jnp.shape(g)[-2:]
        return (m / n) ** 0.5

    return Norm(
        lambda w: spectral.norm(w) / gain(w),
        lambda g: spectral.dual_norm(g) * gain(g),
        lambda g: spectral.duality_map(g) * gain(g),
        lambda gs: [
            gain(g) * t for g, t in zip(gs, spectral.duality_maps(gs), strict=True)
        ],
    )


def composite_norm(norms: Any, scales: Any = None) -> Norm:
    r"""The norm $\max_l s_l \|W_l\|$ of a tree of layers.

    Its dual norm is $\sum_l \|G_l\|_* / s_l$, its duality map $T_l(G_l) / s_l$.

    **Arguments:**

    - `norms`: a tree of [`jaxla.kron.Norm`][].
    - `scales`: a tree like it of positive numbers $s_l$; 1 by default.

    **Returns:**

    A [`jaxla.kron.Norm`][] whose functions take trees. Each matrix of a batch is a layer
    of its own; norms are scalars.

    **Differentiation:** as of the norms in it.

    !!! example

        >>> import jax.numpy as jnp
        >>> norms = {"w": jaxla.kron.frobenius_norm(), "b": jaxla.kron.sign_norm()}
        >>> norm = jaxla.kron.composite_norm(norms, {"w": 1.0, "b": 2.0})
        >>> tree = {"w": jnp.array([[3.0, 4.0]]), "b": jnp.array([[3.0, -1.0]])}
        >>> print(norm.norm(tree), norm.dual_norm(tree))
        6.0 7.0

    ??? cite "Reference"

        Large, Liu, Huh, Bahng, Isola and Bernstein, *Scalable Optimization in the
        Modular Norm*, 2024.
    """
    if scales is None:
        scales = jax.tree.map(lambda _: 1.0, norms)

    def norm(tree):
        each = jax.tree.map(lambda n, s, w: jnp.max(s * n.norm(w)), norms, scales, tree)
        return jnp.stack(jax.tree.leaves(each)).max()

    def dual_norm(tree):
        each = jax.tree.map(
            lambda n, s, g: jnp.sum(n.dual_norm(g)) / s, norms, scales, tree
        )
        return jnp.stack(jax.tree.leaves(each)).sum()

    def duality_map(tree):
        return jax.tree.map(lambda n, s, g: n.duality_map(g) / s, norms, scales, tree)

    return Norm(norm, dual_norm, duality_map)


def _norm_of_lines(axis: int) -> Norm:
    """The largest norm of a line along this axis, and what goes with it."""

    def lengths(x):
        # By a unit of its own each, so that one may be much smaller than another.
        _, unit = finiteness_and_unit(x, (axis,))
        return unit * safe_sqrt(jnp.sum((x / unit) ** 2, axis, keepdims=True))

    return _norm(
        lambda w: lengths(w).max((-2, -1), initial=0),
        lambda g: lengths(g).sum((-2, -1)),
        lambda g: _divide(g, lengths(g)),
    )


def _norm(
    norm: Callable[[Array], Array],
    dual_norm: Callable[[Array], Array],
    duality_map: Callable[[Array], Array],
    together: Callable | None = None,
) -> Norm:
    """A `Norm` of functions of finite matrices whose largest entry is of order 1."""

    def scaled(matrix):
        a = as_real_matrix("matrix", matrix)
        a = a.astype(compute_dtype(a.dtype))
        finite, unit = finiteness_and_unit(a)
        return jnp.where(finite, a, 0) / unit, finite, unit

    def of_norm(fn):
        def wrapped(matrix):
            a, finite, unit = scaled(matrix)
            size = unit[..., 0, 0] * fn(a)
            return jnp.where(finite[..., 0, 0], size, jnp.nan)

        return wrapped

    def direction(matrix):
        a, finite, _ = scaled(matrix)
        return jnp.where(finite, duality_map(a), jnp.nan).astype(jnp.result_type(matrix))

    maps = None if together is None else lambda many: together(direction, many)
    return Norm(of_norm(norm), of_norm(dual_norm), direction, maps)


def _divide(x: Array, length: Array) -> Array:
    return jnp.where(length == 0, 0, x / jnp.where(length == 0, 1, length))

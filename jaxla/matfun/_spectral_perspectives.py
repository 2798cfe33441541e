r"""Projections onto the cones of the log-determinant and of the trace of the inverse.

Both are closures of epigraphs of perspectives. The eigenvalues are projected by
`_perspective_cones`. From "Projections onto Spectral Matrix Cones" (arXiv:2511.01089).
"""

from typing import NamedTuple

from jaxtyping import Array, ArrayLike, Float, Real

from ._perspective_cones import INVERSE, LOG, perspective_cone
from ._spectral_lift import map_spectrum


class PerspectivePoint(NamedTuple):
    r"""A point of the epigraph of the perspective $v f(X / v)$ of a function $f$.

    - `t`: at least the perspective of `x`.
    - `v`: not negative.
    - `x`: the matrix.
    """

    t: Float[Array, "*batch"]
    v: Float[Array, "*batch"]
    x: Float[Array, "*batch n n"]


def project_log_det_cone(
    t: Real[ArrayLike, "*#batch"],
    v: Real[ArrayLike, "*#batch"],
    x: Float[ArrayLike, "*batch n n"],
) -> PerspectivePoint:
    r"""Projects triples onto the cone of the log-determinant.

    It is the closure of $\{(t, v, X): v > 0, X \succ 0, t \ge -v \log\det(X / v)\}$; with
    $v = 0$ it contains the triples with $t \ge 0$ and $X \succeq 0$.

    **Arguments:**

    - `t`, `v`: one for all or one for each matrix.
    - `x`: symmetric; its symmetric part is taken. Half precision is computed in
        `float32`.

    **Returns:**

    [`jaxla.matfun.PerspectivePoint`][], in the dtype of `x`. Zero in the polar cone.

    **Cost:** one `eigh`, 30 Newton steps for one unknown and a $2 n^3$ product.

    **Accuracy:** numbers that are `eps ** 2` times as large as the largest of the
    triple cannot be told from zero.

    **Differentiation:** once, in both modes, with respect to all arguments; right at
    repeated eigenvalues. On the boundary of the cone the derivative of the identity, or
    the one from outside.

    !!! example

        >>> import jax.numpy as jnp
        >>> point = jaxla.matfun.project_log_det_cone(-1.0, 1.0, jnp.eye(2))
        >>> print(point.t, point.v, point.x[0, 0])
        -0.712 0.712 1.174
    """
    scalars = {"t": t, "v": v}
    vector_map = perspective_cone(LOG)
    name = "project_log_det_cone"
    (t, v), x = map_spectrum(vector_map, name, x, scalars, symmetric=True)
    return PerspectivePoint(t, v, x)


def project_trace_inverse_cone(
    t: Real[ArrayLike, "*#batch"],
    v: Real[ArrayLike, "*#batch"],
    x: Float[ArrayLike, "*batch n n"],
) -> PerspectivePoint:
    r"""Projects triples onto the cone of the trace of the inverse.

    It is the closure of
    $\{(t, v, X): v > 0, X \succ 0, t \ge v \,\mathrm{tr}((X / v)^{-1})\}$; with
    $v = 0$ it contains the triples with $t \ge 0$ and $X \succeq 0$.

    **Arguments:**

    - `t`, `v`: one for all or one for each matrix.
    - `x`: symmetric; its symmetric part is taken. Half precision is computed in
        `float32`.

    **Returns:**

    [`jaxla.matfun.PerspectivePoint`][], in the dtype of `x`. Zero in the polar cone.

    **Cost:** one `eigh`, 30 Newton steps for one unknown, with six for each eigenvalue in
    each of them, and a $2 n^3$ product.

    **Accuracy:** as [`jaxla.matfun.project_log_det_cone`][].

    **Differentiation:** as [`jaxla.matfun.project_log_det_cone`][].

    !!! example

        >>> import jax.numpy as jnp
        >>> point = jaxla.matfun.project_trace_inverse_cone(1.0, 1.0, jnp.eye(2))
        >>> print(point.t, point.v, point.x[0, 0])
        1.086 0.753 1.045
    """
    scalars = {"t": t, "v": v}
    vector_map = perspective_cone(INVERSE)
    name = "project_trace_inverse_cone"
    (t, v), x = map_spectrum(vector_map, name, x, scalars, symmetric=True)
    return PerspectivePoint(t, v, x)

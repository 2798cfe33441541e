r"""Muon (Jordan et al., 2024): momentum, orthogonalized.

$$M_t = \beta M_{t-1} + (1 - \beta) G_t, \qquad
  D_t = s\, U V^\top \ \text{of}\ \beta M_t + (1 - \beta) G_t = U \Sigma V^\top$$

for hidden matrices, which is steepest descent under the spectral norm with momentum.
Other parameters are left to Adam. The mathematics is in `jaxla.kron` and `jaxla.matfun`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import ScalarLike

from jaxla import kron
from jaxla._dtypes import compute_dtype, sum_of_squares
from jaxla._errors import check_choice
from jaxla.matfun import polar_express, quintic

from ._blocked import adam, count_in, first_fields, give_back, then_decay_and_rate
from ._leaves import check_gradients
from ._roles import check_layers, is_finite, layers_of
from ._sharding import with_auto_axes


Coefficients = tuple[tuple[float, ...], ...]


class ScaleByMuonState(NamedTuple):
    """State of [`jaxla.optim.scale_by_muon`][]; read it by `optax.tree.get`."""

    count: Any  # int32 scalar: the number of updates
    steps: Any  # int32 scalars, a tree like the parameters: gradients taken in
    nonfinite: Any  # bool scalars, likewise: was the last gradient refused?
    mu: Any  # first moments, a tree like the parameters; Adam's are corrected
    nu: Any  # Adam's second moments, corrected; a scalar zero for hidden matrices


def scale_by_muon(
    b1: ScalarLike = 0.95,
    adam_b1: ScalarLike = 0.9,
    adam_b2: ScalarLike = 0.95,
    eps: ScalarLike = 1e-8,
    adam_scale: ScalarLike = 0.015,
    *,
    nesterov: bool = True,
    engine: str | Coefficients = "polar_express",
    scale: str = "muon",
    layers: kron.Layers = kron.Layers(),
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Orthogonalizes the momentum of hidden matrices; all others are left to Adam.

    Matrices are stacked by shape, transposes and stacked layers too, and orthogonalized
    in one call a shape. Models with more than four shapes have similar ones padded.

    **Arguments:**

    - `b1`: decay of the momentum of hidden matrices.
    - `adam_b1`, `adam_b2`, `eps`: Adam's, for all other parameters.
    - `adam_scale`: what Adam's steps are multiplied by, because one learning rate serves
        all: by default the ratio of 3e-4 to 0.02 that Muon is published with. Take 1
        with `scale="adam"`.
    - `nesterov`: look ahead, $\beta M_t + (1 - \beta) G_t$, or take $M_t$. (Static.)
    - `engine`: `"polar_express"`, 5 steps of it; `"quintic"`, the 5 steps of the
        reference, which leave singular values between about 0.7 and 1.2; `"exact"`,
        [`jaxla.matfun.polar`][]; or rows of coefficients, such as
        `jaxla.matfun.polar_express(8)`. (Static.)
    - `scale`: the size of the step for $m$ outputs and $n$ inputs: `"muon"`,
        $\sqrt{\max(1, m/n)}$, as of the reference; `"rms"`, $\sqrt{m/n}$, steepest
        descent under [`jaxla.kron.rms_norm`][]; `"adam"`, $0.2 \sqrt{\max(m, n)}$, which
        suits learning rates of Adam; or `"none"`. (Static.)
    - `layers`: which parameters are hidden matrices, and which axes are outputs and
        inputs, see [`jaxla.kron.Layers`][]. (Static.)
    - `mu_dtype`: dtype of the momentum, by default at least `float32`. Under
        `optax.inject_hyperparams` give it by name, `"bfloat16"`. (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs` with a [`jaxla.optim.ScaleByMuonState`][].
    A parameter whose gradient is not finite gets a zero update, its moments stay as they
    were, and its entry of `nonfinite` says so. The scale of a gradient does not matter,
    however small it is.

    **Cost:** per update and for a hidden `m x n` matrix, `m >= n`, `20 m n n + 10 n n n`
    flops in five steps, and `2 n n n` more to find its scale. The state holds one
    number for each entry of a hidden matrix, and two for each other one.

    !!! example

        >>> import jax.numpy as jnp
        >>> opt = jaxla.optim.scale_by_muon(engine="exact")
        >>> params = {"weight": jnp.array([[4.0, 0.0], [0.0, 0.5]])}
        >>> updates, _ = opt.update(params, opt.init(params))
        >>> print(updates["weight"].round(3))
        [[1. 0.]
         [0. 1.]]

    ??? cite "Reference"

        Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein, *Muon: an optimizer for
        hidden layers*, 2024; Amsel, Persson, Musco and Gower, *The Polar Express*, 2025;
        Liu et al., *Muon is Scalable for LLM Training*, 2025, for `scale="adam"`.
    """
    check_choice("scale", scale, ("muon", "rms", "adam", "none"))
    hyper = _Hyperparameters(
        b1, adam_b1, adam_b2, eps, adam_scale, nesterov, scale, layers, _norm(engine)
    )

    def init_fn(params):
        return _init(params, layers, mu_dtype)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        return _update(updates, state, hyper)

    return optax.GradientTransformationExtraArgs(init_fn, with_auto_axes(update_fn))


def muon(
    learning_rate: optax.ScalarOrSchedule,
    b1: ScalarLike = 0.95,
    adam_b1: ScalarLike = 0.9,
    adam_b2: ScalarLike = 0.95,
    eps: ScalarLike = 1e-8,
    adam_scale: ScalarLike = 0.015,
    weight_decay: ScalarLike = 0.0,
    weight_decay_mask: Any = None,
    *,
    nesterov: bool = True,
    engine: str | Coefficients = "polar_express",
    scale: str = "muon",
    layers: kron.Layers = kron.Layers(),
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The Muon optimizer.

    [`jaxla.optim.scale_by_muon`][], then decoupled weight decay, then the learning rate.

    **Arguments:**

    - `learning_rate`: a number or a schedule. 0.02 is a good first guess.
    - `b1`, `adam_b1`, `adam_b2`, `eps`, `adam_scale`, `nesterov`, `engine`, `scale`,
        `layers`, `mu_dtype`: as of [`jaxla.optim.scale_by_muon`][].
    - `weight_decay`, `weight_decay_mask`: as of [`jaxla.optim.shampoo`][]; all parameters
        decay at the full learning rate, without `adam_scale`.

    **Returns:**

    An `optax.GradientTransformationExtraArgs`.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = jaxla.optim.muon(0.1)
        >>> params = {"w": jnp.eye(4, 3), "b": jnp.zeros(3)}
        >>> loss = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2)
        >>> state = opt.init(params)
        >>> for _ in range(5):
        ...     updates, state = opt.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 1.5)
        True

    ??? cite "Reference"

        As of [`jaxla.optim.scale_by_muon`][].
    """
    direction = scale_by_muon(
        b1,
        adam_b1,
        adam_b2,
        eps,
        adam_scale,
        nesterov=nesterov,
        engine=engine,
        scale=scale,
        layers=layers,
        mu_dtype=mu_dtype,
    )
    return then_decay_and_rate(direction, weight_decay, weight_decay_mask, learning_rate)


class _Hyperparameters(NamedTuple):
    b1: ScalarLike
    adam_b1: ScalarLike
    adam_b2: ScalarLike
    eps: ScalarLike
    adam_scale: ScalarLike
    nesterov: bool
    scale: str
    layers: kron.Layers
    norm: kron.Norm


def _norm(engine: str | Coefficients) -> kron.Norm:
    """The spectral norm whose duality map is computed as told."""
    if not isinstance(engine, str):
        return kron.spectral_norm(engine)
    check_choice("engine", engine, ("polar_express", "quintic", "exact"))
    rows = {"polar_express": polar_express(5), "quintic": quintic(5), "exact": None}
    return kron.spectral_norm(rows[engine])


def _init(params, layers: kron.Layers, mu_dtype: DTypeLike | None) -> ScaleByMuonState:
    needs_nu = [layer.role != "hidden" for layer in check_layers(params, layers)]
    return ScaleByMuonState(**first_fields(params, mu_dtype, needs_nu))


def _update(updates, state: ScaleByMuonState, hyper: _Hyperparameters):
    check_gradients(updates, state.mu)
    leaves = jax.tree.leaves(updates)
    layers = layers_of(updates, hyper.layers)
    hidden = [layer.role == "hidden" for layer in layers]
    grads = [leaf.astype(compute_dtype(leaf.dtype)) for leaf in leaves]
    # Adam squares; the barrier keeps XLA from storing that for the second moments.
    finite = [
        is_finite(g)
        if of_matrix
        else jnp.isfinite(sum_of_squares(jax.lax.optimization_barrier(g)))
        for of_matrix, g in zip(hidden, grads, strict=True)
    ]
    steps = count_in(state, finite)
    mu, nu = jax.tree.leaves(state.mu), jax.tree.leaves(state.nu)
    out: list[Any] = list(grads)
    sources = {}
    for i, (g, ok) in enumerate(zip(grads, finite, strict=True)):
        # A refused gradient has weight zero in every average.
        if hidden[i]:
            w = jnp.where(ok, 1 - jnp.asarray(hyper.b1, jnp.float32), 0)
            mu[i] = kron.update_mean(mu[i], g, w)
            m = mu[i].astype(g.dtype)
            source = kron.update_mean(m, g, w) if hyper.nesterov else m
            sources[i] = layers[i].to_matrices(source)
        else:
            decays = jnp.stack(
                [jnp.asarray(b, jnp.float32) for b in (hyper.adam_b1, hyper.adam_b2)]
            )
            w1, w2 = jnp.where(ok, kron.debiased_weight(decays, steps[i]), 0)
            mu[i] = kron.update_mean(mu[i], g, w1)
            nu[i] = kron.update_mean(nu[i], g * g, w2)
            out[i] = hyper.adam_scale * adam(mu[i].astype(g.dtype), nu[i], hyper.eps)
    directions = hyper.norm.duality_maps(list(sources.values()))
    for i, x in zip(sources, directions, strict=True):
        x = x * kron.gain(*x.shape[1:], scale=hyper.scale)
        out[i] = layers[i].from_matrices(x, grads[i].shape)
    return give_back(updates, state, out, finite, steps, mu=mu, nu=nu)

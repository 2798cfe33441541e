r"""KL-Shampoo (Lin et al., 2025): each of Shampoo's factors whitened by the other.

A matrix with gradient $G$ ($m \times n$) keeps averages $L$ of $G R^{-1} G^\top / n$ and
$R$ of $G^\top L^{-1} G / m$, of which only diagonal blocks, and steps along
$L^{-1/2} M R^{-1/2}$ with its momentum $M$. Bases of eigenvectors follow $L$ and $R$ as
SOAP's do; eigenvalues are renewed in every step. No step size is grafted. Other
parameters are left to Adam. The mathematics is in `jaxla.kron`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import ScalarLike

from jaxla import kron
from jaxla._dtypes import safe_sqrt, sum_of_squares

from ._blocked import (
    adam,
    blocked,
    check_no_roots,
    Gradients,
    per_size,
    start,
    then_decay_and_rate,
)


class ScaleByKlShampooState(NamedTuple):
    """State of [`jaxla.optim.scale_by_kl_shampoo`][]; read it by `optax.tree.get`."""

    count: Any  # int32 scalar: the number of updates
    steps: Any  # int32 scalars, a tree like the parameters: gradients taken in
    nonfinite: Any  # bool scalars, likewise: was the last gradient refused?
    rejected: Any  # int32 scalar: bases refused in the last update
    mu: Any  # first moments, a tree like the parameters
    nu: Any  # second moments, likewise; a scalar zero for each matrix
    factors: Any  # size -> (factors, size, size): averages of whitened Gram matrices
    bases: Any  # size -> (factors, size, size): orthogonal, near their eigenvectors
    spectra: Any  # size -> (factors, size): their eigenvalues


def scale_by_kl_shampoo(
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.98,
    eps: ScalarLike = 1e-8,
    initial_eigenvalue: ScalarLike | None = 0.1,
    *,
    blocks: kron.Blocks = kron.Blocks(),
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Preconditions each matrix as $L^{-1/2} M R^{-1/2}$, by factors that fit together.

    $L$ and $R$ are those that bring the normal distribution with covariance
    $L \otimes R$ closest to that of the gradients, in the sense of Kullback and Leibler:
    each is an average of gradients that the other has whitened.

    In one update, in this order: the momentum takes in the gradient and is
    preconditioned by what is known of $L$ and $R$ from the steps before; both take in
    the gradient, whitened by what the other was; their eigenvalues take in the diagonals
    of the same in the bases; and the bases whose turn it is are moved, by one step of
    orthogonal iteration, for the steps to come.

    The averages of matrices are not corrected for their start: momentum and factors
    begin at zero, eigenvalues at `initial_eigenvalue`. While these are larger than they
    will be, steps are smaller: the method warms up, for longer the smaller the gradients
    are. Where they are smaller, for gradients larger than 1 or of a layer that had none
    for long, the first steps are too large: put `optax.clip_by_block_rms(1.0)` behind it.

    `initial_eigenvalue=None` is not the authors'. Eigenvalues start from the size of the
    first gradient, and anew from one that is a hundred times larger than they tell; the
    bound on them is relative. Then steps do not depend on the scale of the loss.

    In the first step all eigenvalues are equal, and bases do not matter. The authors'
    code leaves it out; here it is made.

    **Arguments:**

    - `b1`: decay of the momentum.
    - `b2`: decay of $L$, $R$ and their eigenvalues; for parameters that are not
        matrices, of Adam's second moment.
    - `eps`: added to the root of a product of eigenvalues; and Adam's.
    - `initial_eigenvalue`: of $L$ and $R$; positive. `None` takes the root of the mean
        square of a parameter's first gradient, and the mean square itself where one
        side alone has factors. (Whether it is `None` is static.)
    - `blocks`: block size, refresh period and rules, see [`jaxla.kron.Blocks`][].
        There are no roots: what concerns these must be left as it is. (Static.)
    - `mu_dtype`: dtype of the momentum, by default at least `float32`. Under
        `optax.inject_hyperparams` give it by name, `"bfloat16"`. (Static.)

    **Returns:**

    An `optax.GradientTransformationExtraArgs` with a
    [`jaxla.optim.ScaleByKlShampooState`][]. Statistics and bases are held in `float32`
    at least, whatever the dtype of the parameters. The root of an eigenvalue of a block
    of order $k$ is at least $1 / \max(10, \min(k, 4000))$, as in the authors' code;
    with `None`, of that of the largest. A parameter whose gradient is not finite (or so
    large that its square, over the smallest eigenvalue, may not be: above 1e15) gets a
    zero update, its statistics stay as they were, and its entry of `nonfinite` says so.

    **Cost:** per update and for an `m x n` parameter in blocks of size `s`,
    `18 m n s` flops, and a product and a QR decomposition for `1 / refresh_every` of
    the blocks. The first step decomposes them all. The state holds one moment, and
    `2 s (m + n)` numbers for the blocks and their bases.

    **Differentiation:** bases count as constants.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = jaxla.optim.scale_by_kl_shampoo(initial_eigenvalue=None)
        >>> params = jnp.ones((4, 3))
        >>> state = opt.init(params)
        >>> updates, state = opt.update(params, state)
        >>> print(updates.round(3)[0])
        [0.1 0.1 0.1]

    ??? cite "Reference"

        Lin, Lowe, Dangel, Eschenhagen, Xu and Grosse, *Understanding and Improving
        Shampoo and SOAP via Kullback-Leibler Minimization*, 2025.
    """
    check_no_roots("kl_shampoo", blocks)
    if isinstance(initial_eigenvalue, (int, float)) and not initial_eigenvalue > 0:
        raise ValueError(
            "`initial_eigenvalue` must be a positive number, or None; "
            f"got {initial_eigenvalue}."
        )
    hyper = _Hyperparameters(b1, b2, eps, initial_eigenvalue, blocks)

    def init_fn(params):
        plan, dtype, common = start(
            params, blocks, mu_dtype, _left_to_adam, "bases", kron.basis_flops
        )
        first = 0.0 if initial_eigenvalue is None else initial_eigenvalue
        return ScaleByKlShampooState(
            **common,
            rejected=jnp.zeros([], jnp.int32),
            factors=per_size(plan, lambda s, n: jnp.zeros((n, s, s), dtype)),
            bases=per_size(
                plan, lambda s, n: jnp.tile(jnp.eye(s, dtype=dtype), (n, 1, 1))
            ),
            spectra=_bounded(
                per_size(plan, lambda s, n: jnp.full((n, s), first, dtype)),
                plan,
                initial_eigenvalue,
            ),
        )

    def step(grads, mu, nu, state):
        return _step(grads, mu, nu, state, hyper)

    return blocked(init_fn, step, blocks, (b1, b2), margin=4000.0**2)


def kl_shampoo(
    learning_rate: optax.ScalarOrSchedule,
    b1: ScalarLike = 0.9,
    b2: ScalarLike = 0.98,
    eps: ScalarLike = 1e-8,
    initial_eigenvalue: ScalarLike | None = 0.1,
    weight_decay: ScalarLike = 0.0,
    weight_decay_mask: Any = None,
    *,
    blocks: kron.Blocks = kron.Blocks(),
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The KL-Shampoo optimizer.

    [`jaxla.optim.scale_by_kl_shampoo`][], then decoupled weight decay, then the learning
    rate. Once it is warm, its steps are about the size of Adam's.

    **Arguments:**

    - `learning_rate`: a number or a schedule.
    - `b1`, `b2`, `eps`, `initial_eigenvalue`, `blocks`, `mu_dtype`: as of
        [`jaxla.optim.scale_by_kl_shampoo`][].
    - `weight_decay`, `weight_decay_mask`: as of [`jaxla.optim.shampoo`][].

    **Returns:**

    An `optax.GradientTransformationExtraArgs`.

    !!! example

        >>> import jax, jax.numpy as jnp, optax
        >>> opt = jaxla.optim.kl_shampoo(0.1)
        >>> params = {"w": jnp.eye(4, 3), "b": jnp.ones(3)}
        >>> loss = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2)
        >>> state = opt.init(params)
        >>> for _ in range(30):
        ...     updates, state = opt.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 1)
        True

    ??? cite "Reference"

        As of [`jaxla.optim.scale_by_kl_shampoo`][].
    """
    scale = scale_by_kl_shampoo(
        b1, b2, eps, initial_eigenvalue, blocks=blocks, mu_dtype=mu_dtype
    )
    return then_decay_and_rate(scale, weight_decay, weight_decay_mask, learning_rate)


class _Hyperparameters(NamedTuple):
    b1: ScalarLike
    b2: ScalarLike
    eps: ScalarLike
    initial_eigenvalue: ScalarLike | None
    blocks: kron.Blocks


def _left_to_adam(leaf: kron.LeafPlan) -> bool:
    return leaf.axes is None


def _step(
    grads: Gradients, mu, nu, state: ScaleByKlShampooState, hyper: _Hyperparameters
):
    plan = grads.plan
    w1, w2 = grads.weights
    plain1, plain2 = (
        [jnp.where(ok, jnp.float32(1) - b, 0) for ok in grads.finite]
        for b in (hyper.b1, hyper.b2)
    )
    mu = [
        kron.update_mean(m, g, w if _left_to_adam(leaf) else plain)
        for leaf, m, g, w, plain in zip(
            plan.leaves, mu, grads.leaves, w1, plain1, strict=True
        )
    ]
    nu = [
        kron.update_mean(v, g * g, w) if _left_to_adam(leaf) else v
        for leaf, v, g, w in zip(plan.leaves, nu, grads.leaves, w2, strict=True)
    ]
    moments = [m.astype(g.dtype) for m, g in zip(mu, grads.leaves, strict=True)]
    out = [adam(m, v, hyper.eps) for m, v in zip(moments, nu, strict=True)]
    if not plan.num_factors:
        return out, mu, nu, state

    Q, spectra = state.bases, _known_spectra(grads, state.spectra, hyper)
    rotated = kron.rotate(grads.to_stacks(moments), Q, plan)
    D = kron.rotate_back(kron.whiten(rotated, spectra, hyper.eps, plan), Q, plan)
    for i, matrix in kron.from_stacks(D, plan).items():
        out[i] = matrix.astype(moments[i].dtype)

    G = grads.to_stacks(grads.leaves)
    terms, diagonals = kron.whitened_factors(G, Q, spectra, plan)
    weights = kron.per_factor(jnp.stack(plain2), plan)
    factors = jax.tree.map(kron.update_mean, state.factors, terms, weights)
    # The eigenvalues of the first step, all equal, belong to whatever basis.
    is_first = kron.per_factor(jnp.stack(grads.steps) <= 1, plan)
    weights = {size: jnp.where(is_first[size], 0, w) for size, w in weights.items()}
    spectra = jax.tree.map(kron.update_mean, spectra, diagonals, weights)
    Q = kron.first_bases(factors, Q, state.count)
    Q, rejected = kron.refresh_bases(factors, Q, state.count, blocks=hyper.blocks)
    state = state._replace(
        factors=factors,
        bases=Q,
        spectra=_bounded(spectra, plan, hyper.initial_eigenvalue),
        rejected=rejected,
    )
    return out, mu, nu, state


def _known_spectra(grads: Gradients, spectra, hyper: _Hyperparameters):
    """The eigenvalues to divide by; where it is this gradient that sets them, those."""
    if hyper.initial_eigenvalue is not None:
        return spectra
    sizes = []
    for leaf, g, ok in zip(grads.plan.leaves, grads.leaves, grads.finite, strict=True):
        mean = jnp.where(ok, sum_of_squares(g) / max(g.size, 1), 0)
        # L alone is of the order of squares; of L and R, it is their product.
        size = mean if leaf.one_sided else safe_sqrt(mean)
        sizes.append(size.astype(grads.dtype))
    return {
        size: _started_anew(spectra[size], given[:, None])
        for size, given in kron.per_factor(jnp.stack(sizes), grads.plan).items()
    }


def _started_anew(spectrum: jax.Array, given: jax.Array) -> jax.Array:
    """The eigenvalues, but those not known yet, or far too small for this gradient."""
    return jnp.where(spectrum.max(-1, keepdims=True) < given / 100, given, spectrum)


def _bounded(spectra, plan: kron.Plan, initial_eigenvalue: ScalarLike | None):
    if not plan.num_factors:
        return spectra
    return kron.bound_spectra(spectra, plan, relative=initial_eigenvalue is None)

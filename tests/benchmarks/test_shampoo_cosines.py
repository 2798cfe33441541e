import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _mlp, shampoo_cosines
from tests.helpers import psd_with_spectrum


def test_a_kronecker_product_is_found_by_all_but_plain_shampoo(getkey):
    a, b = (psd_with_spectrum(getkey(), v) for v in ([1, 2, 5], [0.1, 1, 1, 3]))
    # Gradients with the second moment A x B.
    units = np.eye(12).reshape(12, 3, 4) * 12**0.5
    found, best = shampoo_cosines.cosines(
        np.linalg.cholesky(a) @ units @ np.linalg.cholesky(b).T
    )
    np.testing.assert_allclose(best, 1, 1e-12)
    np.testing.assert_allclose(found[shampoo_cosines.SQUARED], 1, 1e-12)
    np.testing.assert_allclose(found[shampoo_cosines.OPTIMAL], 1, 1e-6)
    roots = np.sqrt([1, 2, 5]), np.sqrt([0.1, 1, 1, 3])
    plain = np.prod(
        [np.dot(r, r**2) / np.linalg.norm(r**2) / np.linalg.norm(r) for r in roots]
    )
    np.testing.assert_allclose(found[shampoo_cosines.PLAIN], plain, 1e-10)


def test_the_gauss_newton_matrix_of_the_last_layer_is_its_hessian():
    """The logits are linear in its weights."""
    x, labels = shampoo_cosines.digits(20)
    params = _mlp.init(jax.random.key(1), shampoo_cosines.SIZES)
    drawn = shampoo_cosines.gradients(params, x, labels)["Gauss-Newton"][1]
    flat = np.asarray(drawn, "float64").reshape(len(drawn), -1)

    def loss(w):
        return _mlp.loss([params[0], params[1] | {"w": w.reshape(24, 10)}], x, labels)

    hessian = jax.jit(jax.hessian(loss))(jnp.ravel(params[1]["w"]))
    np.testing.assert_allclose(flat.T @ flat / len(flat), hessian, atol=1e-6)

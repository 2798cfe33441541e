r"""How near is Shampoo's preconditioner to the best Kronecker product?

For a layer with weights W, $H = E[\mathrm{vec}(G) \mathrm{vec}(G)^\top]$ over the
gradients G of single examples: with labels drawn from the model it is the Gauss-Newton
matrix, with the true labels the empirical Fisher matrix. With $L = E[G G^\top]$ and
$R = E[G^\top G]$, Shampoo stands for $(L \otimes R)^{1/2}$ and its square for
$L \otimes R / \mathrm{tr} L$ (Morwani et al., *A New Perspective on Shampoo's
Preconditioner*, 2024).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from jaxla.operators import nearest_kronecker_of_samples

from . import _mlp
from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table


QUESTION = """How near are Shampoo's preconditioner and its square to the exact
Gauss-Newton and empirical Fisher matrices of the layers of a small network through its
training on real digits, beside the nearest Kronecker product?"""

SIZES = (16, 24, 10)
OPTIMAL, SQUARED, PLAIN = "nearest product", "Shampoo squared", "Shampoo"


def main(arguments=None):
    return run_script("shampoo_cosines", QUESTION, measure, arguments)


def measure(settings: Settings) -> Findings:
    number, checkpoints = settings.choose(
        (1500, (0, 10, 30, 100, 300, 1000)), (30, (0, 2))
    )
    x, labels = digits(number)
    rows = []
    for step, accuracy, params in training(x, labels, checkpoints):
        for name, samples in gradients(params, x, labels).items():
            for layer, g in enumerate(samples):
                found, best = cosines(np.asarray(g, "float64"))
                rows.append((step, accuracy, name, layer, *found.values(), best))
        say(f"step {step}: accuracy {accuracy:.3f}")
    columns = ("step", "accuracy", "matrix", "layer", OPTIMAL, SQUARED, PLAIN, "by SVD")
    note = "Cosines of the angle to the exact matrix. By SVD: the largest possible."
    table = Table("Cosines", columns, rows, note)
    pictures = []
    if settings.out is not None:
        pictures.append("shampoo_cosines.png")
        draw(rows, settings.out / pictures[0])
    return Findings([table], figures(rows), ["scikit-learn"], pictures)


def digits(number: int) -> tuple[jax.Array, jax.Array]:
    """Handwritten digits, averaged to 4 x 4 pixels, each pixel standardized."""
    images, labels = load_digits(return_X_y=True)
    pixels = images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    pixels = (pixels - pixels.mean(0)) / pixels.std(0).clip(1e-6)
    return jnp.asarray(pixels[:number], jnp.float32), jnp.asarray(labels[:number])


def training(x, labels, checkpoints):
    """Parameters and accuracy at some steps of Adam on all examples."""
    params, opt = _mlp.init(jax.random.key(0), SIZES), optax.adam(1e-2)
    step, state = jax.jit(_mlp.training_step(opt)), opt.init(params)
    for count in range(max(checkpoints) + 1):
        if count in checkpoints:
            guess = _mlp.logits(params, x).argmax(-1)
            yield count, float((guess == labels).mean()), params
        params, state = step(params, state, x, labels)


@jax.jit
def gradients(params: _mlp.Params, x: jax.Array, labels: jax.Array):
    """Gradients of single examples, for each layer, whose second moments are wanted."""
    classes = jnp.arange(SIZES[-1])
    weights = lambda x, y: [layer["w"] for layer in jax.grad(_mlp.loss)(params, x, y)]
    by_class = jax.vmap(lambda x: jax.vmap(lambda y: weights(x, y))(classes))(x)
    # The mean over drawn labels is a sum over classes: a weight goes into each gradient.
    p = jax.nn.softmax(_mlp.logits(params, x))
    scale = jnp.sqrt(SIZES[-1] * p)[..., None, None]
    drawn = [(g * scale).reshape(-1, *g.shape[2:]) for g in by_class]
    true = jax.vmap(weights)(x, labels)
    return {"Gauss-Newton": drawn, "empirical Fisher": true}


def cosines(g: np.ndarray) -> tuple[dict[str, float], float]:
    """Of three Kronecker products to the second moment of g, and the largest there is."""
    number, m, n = g.shape
    flat = g.reshape(number, -1)
    h = flat.T @ flat / number
    left = np.einsum("tij,tkj->ik", g, g) / number
    right = np.einsum("tij,tik->jk", g, g) / number
    near = nearest_kronecker_of_samples(jnp.asarray(g, jnp.float32), steps=30)
    pairs = {
        OPTIMAL: (near.left, near.right),
        SQUARED: (left, right),
        PLAIN: (root(left), root(right)),
    }
    cosine = lambda k: float((h * k).sum() / np.linalg.norm(h) / np.linalg.norm(k))
    found = {name: cosine(np.kron(*pair)) for name, pair in pairs.items()}
    rearranged = h.reshape(m, n, m, n).swapaxes(1, 2).reshape(m * m, n * n)
    return found, float(np.linalg.norm(rearranged, 2) / np.linalg.norm(h))


def root(a: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(a)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def figures(rows: list[tuple]) -> list[Figure]:
    accuracy, optimal, squared, plain, svd = (
        np.array([row[i] for row in rows]) for i in (1, 4, 5, 6, 7)
    )
    early = accuracy < 0.9
    kept = (optimal - squared) / (optimal - plain)
    return [
        Figure(
            f"cosine lost by {SQUARED} until 0.9 of the digits are right",
            0.02,
            float((optimal - squared)[early].max()),
        ),
        Figure(
            f"of the cosine lost by {PLAIN}, its square loses", 0.5, float(kept.max())
        ),
        Figure("cosine lost by power iteration", 1e-3, float((svd - optimal).max())),
    ]


def draw(rows: list[tuple], path) -> None:
    import matplotlib.pyplot as plt

    matrices = sorted({row[2] for row in rows})
    figure, axes = plt.subplots(2, 2, figsize=(8, 6), sharex=True, sharey=True)
    for i, layer in enumerate((0, 1)):
        for j, matrix in enumerate(matrices):
            chosen = [row for row in rows if row[2:4] == (matrix, layer)]
            steps = [row[0] for row in chosen]
            for k, name in enumerate((OPTIMAL, SQUARED, PLAIN)):
                values = [row[4 + k] for row in chosen]
                axes[i, j].plot(steps, values, ".-", label=name, alpha=0.8)
            axes[i, j].set_title(f"{matrix}, layer {layer}", fontsize=10)
            axes[i, j].set_xscale("symlog", linthresh=10)
            axes[i, j].grid(alpha=0.3)
    axes[0, 0].legend()
    axes[0, 0].set_ylim(0.5, 1.01)
    figure.supxlabel("step of training")
    figure.supylabel("cosine to the exact matrix")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

"""Jacobi, Gram-Schmidt and Cholesky by random pivots: measured rates beside theory."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxla.factor import (
    diagonality_potential,
    pivoted_diagonalization,
    pivoted_orthogonalization,
)
from jaxla.factor._pivots import pivot_rule

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table


QUESTION = """How fast does the potential tr(B o B^-1 - I) fall when each step makes a
k x k block diagonal, with random, cyclic and greedy pivots? In float64, on positive
definite matrices of condition 1e6. For random pivots, theory has the mean fall by
1 - k(k-1)/(n(n-1)) a step, for orthogonal transforms (Jacobi) and for triangular
ones (Cholesky, Gram-Schmidt) alike."""

CONDITION = 1e6
TRANSFORMS = {"orthogonal": "Jacobi", "triangular": "elimination"}
SIDES = {"matrix": "B", "columns": "columns of A, B = A^T A"}


@dataclasses.dataclass(frozen=True)
class Curve:
    """The mean of the potential over keys, after each step, relative to its start."""

    n: int
    block: int
    side: str
    transform: str
    pivots: str
    means: np.ndarray
    errors: np.ndarray  # standard errors of the means

    @property
    def bound(self) -> float:
        return 1 - self.block * (self.block - 1) / (self.n * (self.n - 1))

    @property
    def reached(self) -> int:
        """The last step at which the potential is far from rounding errors."""
        far = np.flatnonzero(self.means > 1e-12)
        return int(far[-1]) if len(far) else 0

    @property
    def first(self) -> float:
        """The rate of the first step."""
        return float(self.means[1] / self.means[0])

    @property
    def rate(self) -> float:
        """The mean rate a step over all of them."""
        last = max(self.reached, 1)
        return float((max(self.means[last], 1e-300) / self.means[0]) ** (1 / last))


def main(arguments=None):
    return run_script("random_pivots", QUESTION, measure, arguments, cores=1)


def measure(settings: Settings) -> Findings:
    with jax.enable_x64(True):
        cells = settings.choose(((8, 2), (16, 2), (16, 4), (32, 8), (64, 32)), ((6, 2),))
        keys = settings.rounds or settings.choose(1000, 10)
        curves = []
        for n, block in cells:
            for side in SIDES if n <= 16 else ("matrix",):
                for transform in TRANSFORMS:
                    for pivots in ("random", "cyclic", "greedy"):
                        number = keys if pivots == "random" else 1
                        curves.append(curve(n, block, side, transform, pivots, number))
            say(f"n = {n}, k = {block}: done")
    pictures = []
    if settings.out is not None:
        pictures.append("random_pivots.png")
        draw(curves, settings.out / pictures[0])
    return Findings([_table(curves, keys)], [_figure(curves)], pictures=pictures)


def curve(n: int, block: int, side: str, transform: str, pivots: str, keys: int) -> Curve:
    bound = 1 - block * (block - 1) / (n * (n - 1))
    steps = min(int(np.ceil(np.log(1e-3) / np.log(bound))), 400)
    run = functools.partial(_run, matrix(n), side, transform, block)
    if pivots == "random":
        split = lambda key: jax.random.split(key, steps)
        order = jax.vmap(split)(jax.random.split(jax.random.key(0), keys))
        options = lambda key: {"key": key}
    elif pivots == "cyclic":
        numbers, choose = pivot_rule("cyclic", n, block, steps, None)
        order = jax.vmap(lambda i: choose(i, None))(numbers)[None, :, None]
        options = lambda row: {"pivots": row}
    else:
        order, options = jnp.zeros((1, steps)), lambda _: {"pivots": "greedy"}
    values = np.asarray(jax.jit(jax.vmap(functools.partial(run, options)))(order))
    means, errors = values.mean(0), values.std(0) / len(values) ** 0.5
    return Curve(n, block, side, transform, pivots, means / means[0], errors / means[0])


def matrix(n: int) -> np.ndarray:
    """A square A with geometric singular values, such that A^T A has the condition."""
    rng = np.random.default_rng(n)
    (u, _), (v, _) = (np.linalg.qr(rng.normal(size=(n, n))) for _ in range(2))
    return (u * np.geomspace(1, CONDITION**-0.5, n)) @ v.T


def _run(a, side, transform, block, options, order):
    """The potential before and after each step, which takes its pivots from `order`."""

    def step(state, x):
        chosen = {"transform": transform, "block": block, "steps": 1, **options(x)}
        if side == "columns":
            state = pivoted_orthogonalization(state, **chosen).columns
        else:
            state = pivoted_diagonalization(state, **chosen).matrix
        return state, _gamma(state, side)

    start = jnp.asarray(a if side == "columns" else a.T @ a)
    _, path = jax.lax.scan(step, start, order)
    return jnp.concatenate([_gamma(start, side)[None], path])


def _gamma(state, side):
    return diagonality_potential(state.T @ state if side == "columns" else state)


def _table(curves: list[Curve], keys: int) -> Table:
    rows = [
        (
            c.n, c.block, SIDES[c.side], TRANSFORMS[c.transform], c.pivots, c.bound,
            c.first, float(c.errors[1]) if c.pivots == "random" else None, c.rate,
            c.reached, float(c.means[c.reached]),
        )
        for c in curves
    ]  # fmt: skip
    columns = (
        "n", "k", "applied to", "transform", "pivots", "theory", "first step",
        "standard error", "rate a step", "steps", "potential left",
    )  # fmt: skip
    note = (
        f"Random pivots: the mean of {keys} runs. The rate is that of this mean, over "
        "all steps until the potential is down to 1e-12 of its start or the run is over. "
        "Later steps have a mean that few runs make up, so that it has large errors."
    )
    return Table("Rate at which the potential falls", columns, rows, note)


def _figure(curves: list[Curve]) -> Figure:
    """In the first step, where the standard error is known well."""
    scores = [
        abs(c.first - c.bound) / max(float(c.errors[1]), 1e-12)
        for c in curves
        if c.pivots == "random"
    ]
    return Figure(
        "random pivots: first rate minus theory, in standard errors, the largest",
        4.0,
        max(scores),
    )


def draw(curves: list[Curve], path: Path) -> None:
    """The potential against the number of steps, one panel for each n and k."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = sorted({(c.n, c.block) for c in curves})
    figure, axes = pyplot.subplots(
        1,
        len(cells),
        figsize=(3.2 * len(cells), 3.6),
        layout="constrained",
        squeeze=False,
    )
    colors = {"random": "C0", "cyclic": "C1", "greedy": "C2"}
    for axis, cell in zip(axes[0], cells, strict=True):
        chosen = [c for c in curves if (c.n, c.block) == cell and c.side == "matrix"]
        for c in chosen:
            style = "-" if c.transform == "orthogonal" else "--"
            label = f"{c.pivots}, {TRANSFORMS[c.transform]}"
            values = np.maximum(c.means, 1e-15)
            axis.plot(values, style, color=colors[c.pivots], label=label)
        steps = np.arange(len(chosen[0].means))
        axis.plot(steps, chosen[0].bound ** steps, ":", color="black", label="theory")
        axis.set(title=f"n = {cell[0]}, k = {cell[1]}", xlabel="steps", yscale="log")
    axes[0, 0].set_ylabel("potential, relative to its start")
    axes[0, 0].legend(fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

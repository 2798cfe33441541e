"""The static choices of a blocked Kronecker-factored preconditioner."""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from jaxla._errors import check_choice, check_int


@dataclasses.dataclass(frozen=True)
class Axes:
    """Which axes of a parameter make the rows, the columns and the batch of a matrix.

    **Arguments:**

    - `rows`, `cols`: axes that are merged, in the order given, into the rows
        and the columns.
    - `batch`: axes over which the matrices stand side by side, such as the
        leading axis of stacked layers.

    Every axis of the parameter must occur once.

    !!! example

        Layers stacked by `jax.vmap`, each with an Equinox weight `(out, in)`:

        >>> jaxla.kron.Axes(rows=(1,), cols=(2,), batch=(0,))
        Axes(rows=(1,), cols=(2,), batch=(0,))
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    batch: tuple[int, ...] = ()


Rule = Literal["matrix", "one-sided", "diagonal"] | Axes
"""What to do with a parameter: treat it as a matrix, entry by entry, or as told."""

Rules = Mapping[str, Rule] | Callable[[str, Any], Rule | None]
"""Rules by pattern of the path, or a function of the path and the parameter."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    r"""The choices that fix the shapes of a blocked preconditioner's state.

    They live in one object, apart from the numeric hyperparameters, so that
    `optax.inject_hyperparams` may trace all of those and none of these.

    **Arguments:**

    - `size`: the largest block; a longer axis is cut into equal parts of at most
        this size, and of the left (right) factor only the diagonal blocks are kept.
        A multiple of 8. Larger blocks come closer to unblocked Shampoo; the
        state grows by `size`, the cost of a root by its cube.
    - `classes`: how many different block sizes to have at most. All blocks of a
        size are one stack, and one batched call serves them; more sizes waste
        less on padding and compile longer.
    - `refresh_every`: the steps in which every root is computed anew once. The
        work is spread evenly over these steps.
    - `one_sided_above`: a matrix with a side longer than this has factors for its
        shorter side alone, and steps along $L^{-2e} G$, as Shampoo does for tensors of
        order one; with `normalize_trace` along $L^{-e} G$, in the size of the graft.
        For embeddings, and whatever else has one side much longer than the other.
        By default, no matrix.
    - `eager_steps`: in each of so many steps at the start, every root is renewed.
        A young average changes most: a short run gains much, a long one little.
        These steps are slow, and there is another batched call to compile.
    - `exponent`: the power $e$ in $L^{-e} G R^{-e}$: 1/4 is Shampoo, 1/2 and 1
        are its square and its Hessian form. If `1/exponent` is an integer up to 8,
        roots come from products ([`jaxla.matfun.inverse_pth_root`][]).
    - `normalize_trace`: divide each statistic by the square root of its trace
        before the root, as $H \approx L \otimes R / \mathrm{tr}(L)$ has it. Set
        it when `exponent` is not 1/4: it makes blocks comparable in scale.
    - `root`: `"coupled"` (products alone), `"eigh"`, or `"auto"`: coupled where
        the exponent allows.
    - `shards`: the number of devices over which the stacks are spread; see
        [`jaxla.optim.shardings`][].
    - `rules`: exceptions to the default, by which a parameter with two axes or
        more is a matrix and every other is treated entry by entry. A mapping from
        patterns of the path (as of `fnmatch`, the first match counts) to
        `"matrix"`, `"one-sided"` (a matrix, as if it were `one_sided_above`),
        `"diagonal"` or [`jaxla.kron.Axes`][]; or a function of the path and the
        parameter, which may return `None` for the default. Paths look like
        `layers/0/weight`.

    !!! example

        >>> jaxla.kron.Blocks(size=256, rules={"*embed*": "diagonal"}).size
        256
    """

    size: int = 128
    classes: int = 3
    refresh_every: int = 10
    one_sided_above: int | None = None
    eager_steps: int = 0
    exponent: float | int = 1 / 4
    normalize_trace: bool = False
    root: str = "auto"
    shards: int = 1
    rules: Rules = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_int("size", self.size, low=8, high=16384)
        if self.size % 8:
            raise ValueError(f"`size` must be a multiple of 8; got {self.size}.")
        check_int("classes", self.classes, low=1)
        check_int("refresh_every", self.refresh_every, low=1)
        if self.one_sided_above is not None:
            check_int("one_sided_above", self.one_sided_above, low=0)
        check_int("eager_steps", self.eager_steps, low=0)
        check_int("shards", self.shards, low=1)
        check_choice("root", self.root, ("auto", "coupled", "eigh"))
        if not isinstance(self.exponent, (int, float)) or not self.exponent > 0:
            raise ValueError(
                f"`exponent` must be a positive number; got {self.exponent!r}."
            )
        if self.root == "coupled" and self.coupled_order is None:
            raise ValueError(
                "`root='coupled'` needs an `exponent` of 1/p with an integer p "
                f"between 1 and 8; got {self.exponent}. Use `root='eigh'`."
            )

    @property
    def coupled_order(self) -> int | None:
        """`p`, if roots are `inverse_pth_root`s of this order; `None` for `eigh`."""
        p = round(1 / self.exponent)
        close = math.isclose(p * self.exponent, 1, rel_tol=1e-9)
        return p if self.root != "eigh" and close and 1 <= p <= 8 else None

    def rule(self, path: str, leaf: Any) -> Rule | None:
        """The user's rule for a parameter, or `None`."""
        if callable(self.rules):
            return self.rules(path, leaf)
        for pattern, rule in self.rules.items():
            if fnmatch.fnmatch(path, pattern):
                return rule
        return None

    def unused_rules(self, paths: Sequence[str]) -> list[str]:
        """The patterns that match none of the paths."""
        if callable(self.rules):
            return []
        return [p for p in self.rules if not fnmatch.filter(paths, p)]

"""What every optimizer asks of the trees that it is given."""

from typing import Any

import jax
import jax.numpy as jnp


def named_leaves(tree: Any) -> tuple[list[str], list[Any]]:
    """The leaves of a tree and their paths, such as `layers/0/weight`."""
    with_paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [path_name(path) for path, _ in with_paths], [leaf for _, leaf in with_paths]


def path_name(path: tuple) -> str:
    """A path of `jax.tree_util` as text."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_parameters(paths: list[str], leaves: list[Any]) -> None:
    """Parameters must be real floating-point arrays with at least one entry."""
    for path, leaf in zip(paths, leaves, strict=True):
        where = f"`params` has at {path!r}" if path else "`params` is"
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{where} a leaf that is not an array: {leaf!r}. Filter your model "
                "first: `opt.init(eqx.filter(model, eqx.is_inexact_array))`."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{where} an array of dtype {leaf.dtype}; expected a real floating-point "
                "dtype. Filter your model first, `eqx.filter(model, "
                "eqx.is_inexact_array)`, and keep complex parameters as two real ones."
            )
        if 0 in leaf.shape:
            raise ValueError(
                f"{where} an array of shape {leaf.shape}, which has no entries; leave it "
                "out, for instance by `optax.masked`."
            )


def check_gradients(updates: Any, like: Any, *, shapes: bool = True) -> None:
    """Gradients must have the tree, and the shapes, that `init` was given."""
    paths, leaves = named_leaves(updates)
    like_paths, like_leaves = named_leaves(like)
    if paths != like_paths:
        extra = [path for path in paths if path not in like_paths]
        missing = [path for path in like_paths if path not in paths]
        raise ValueError(
            "`updates` must have the tree of the parameters that `init` was given; "
            f"unexpected: {extra or 'none'}, missing: {missing or 'none'}."
        )
    if jax.tree.structure(updates) != jax.tree.structure(like):
        raise ValueError(
            "`updates` must have the tree of the parameters that `init` was given; got "
            f"{jax.tree.structure(updates)}, expected {jax.tree.structure(like)}."
        )
    for path, leaf, like_leaf in zip(paths, leaves, like_leaves, strict=True):
        if shapes and jnp.shape(leaf) != like_leaf.shape:
            raise ValueError(
                f"`updates` has shape {jnp.shape(leaf)} at {path!r}, but the parameter "
                f"that `init` was given has {like_leaf.shape}."
            )

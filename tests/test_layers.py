"""The plan of the house: what may import what, and what an import costs."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest


ROOT = pathlib.Path(importlib.util.find_spec("jaxla").origin).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    "_batching": 0,
    "_dtypes": 0,
    "_errors": 0,
    "factor": 1,
    "matfun": 2,
    "operators": 3,
    "sketch": 4,
    "kron": 5,
    "gauss_newton": 5,
    "ssm": 5,
    "optim": 6,
    "nn": 6,
    "testing": 6,
    "_demo": 7,
    "__main__": 8,  # the door of the house: it hands over to `_demo`
}
HEAVY = ("matplotlib", "sklearn", "pandas", "rich", "lineax", "flax", "orbax")


def imports(source: str) -> list[str]:
    """What a file imports, absolute names as they are and relative ones with dots."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            joint = "" if base.endswith(".") else "."
            found += [base + joint + alias.name for alias in node.names]
    return found


def wrong_imports(room: str, source: str) -> list[str]:
    """Imports that do not go down from a room, or reach into another room's files."""
    wrong = []
    for name in imports(source):
        parts = name.split(".")
        if name.startswith("..") or name == "jaxla":
            wrong.append(name)
        elif parts[0] == "jaxla" and parts[1] != room:
            upwards = FLOORS[parts[1]] >= FLOORS[room]
            private = any(part.startswith("_") for part in parts[2:])
            if upwards or (private and FLOORS[parts[1]] > 0):
                wrong.append(name)
    return wrong


def private_names(source: str) -> list[str]:
    """Names of JAX, Optax or Equinox that are theirs alone."""
    dotted = imports(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            dotted.append(ast.unparse(node))
    return [
        name
        for name in dotted
        if name.split(".")[0] in ("jax", "optax", "equinox", "eqx")
        and (
            any(
                part.startswith("_") and part != "__version__" for part in name.split(".")
            )
            or name.startswith(("jax.core", "equinox.internal", "eqx.internal"))
        )
    ]


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    source = path.read_text()
    assert not private_names(source)
    if path != ROOT / "__init__.py":
        assert room_of(path) in FLOORS
        assert not wrong_imports(room_of(path), source)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("matfun", "from jaxla.kron import graft"),  # upwards
        ("kron", "from jaxla import optim"),  # upwards
        ("optim", "import jaxla.testing"),  # sideways
        ("kron", "from jaxla.matfun._roots import num_products"),  # into a file
        ("kron", "from ..matfun import polar"),  # relative, beyond the room
        ("kron", "import jaxla"),  # everything
    ],
)
def test_a_wrong_import_is_found(room, line):
    assert wrong_imports(room, line)
    assert not wrong_imports("kron", "from jaxla.matfun import polar\nfrom . import x")


@pytest.mark.parametrize(
    "line",
    ["import jax._src.core", "from optax import _src", "jax.core.Tracer", "optax._src.x"],
)
def test_a_private_name_is_found(line):
    assert private_names(line)
    assert not private_names("import jax\nfrom jax.extend import core\njax.__version__")


def run(code: str) -> str:
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


def test_import_pulls_in_nothing_heavy():
    loaded = run("import sys, jaxla; print(*sys.modules)").split()
    assert "jaxla" in loaded
    assert not set(HEAVY) & {name.split(".")[0] for name in loaded}


def test_import_is_cheap():
    """CPU seconds beyond JAX, Optax and Equinox; the best of a few, as others compute."""
    code = (
        "import time, jax, optax, equinox; begin = time.process_time(); "
        "import jaxla; print(time.process_time() - begin)"
    )
    seconds = []
    for _ in range(4):
        seconds.append(float(run(code)))
        if seconds[-1] <= 0.6:
            break
    assert min(seconds) <= 0.6

"""Every public name explains itself, and no file or function grows out of sight."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import re

import pytest


ROOT = pathlib.Path(importlib.util.find_spec("jaxla").origin).parent
FILES = sorted(ROOT.rglob("*.py"))
ROOMS = sorted(
    module.name
    for module in pkgutil.iter_modules([str(ROOT)])
    if not module.name.startswith("_")
)


def exported(path: pathlib.Path) -> list[str]:
    """Names that a room hands on, `from ._file import name as name`."""
    return [
        alias.asname
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    ]


PUBLIC = [
    (room, name)
    for room in ROOMS
    if (ROOT / room / "__init__.py").exists()
    for name in exported(ROOT / room / "__init__.py")
]


def undocumented(arguments, doc: str) -> list[str]:
    in_backticks = set(re.findall(r"`([^`]+)`", doc))
    return [name for name in arguments if name not in in_backticks]


@pytest.mark.parametrize(("room", "name"), PUBLIC)
def test_public_names_explain_themselves(room, name):
    value = getattr(importlib.import_module(f"jaxla.{room}"), name)
    doc = inspect.getdoc(value) or ""
    assert doc
    # Results, such as named tuples, are made by functions, whose examples show them.
    if inspect.isfunction(value) or "**Arguments:**" in doc:
        assert ">>>" in doc
        assert not undocumented(inspect.signature(value).parameters, doc)


def in_table(doc: str) -> set[str]:
    """Names in backticks in the rows of tables."""
    rows = [line for line in doc.splitlines() if line.startswith("|")]
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


@pytest.mark.parametrize("room", ["factor", "matfun", "operators"])
def test_the_table_of_a_room_has_all_that_one_calls(room):
    module = importlib.import_module(f"jaxla.{room}")
    called = {
        name
        for owner, name in PUBLIC
        if owner == room
        and (
            inspect.isfunction(value := getattr(module, name))
            or "**Arguments:**" in (inspect.getdoc(value) or "")
        )
    }
    assert len(called) > 5
    assert called <= in_table(module.__doc__), called - in_table(module.__doc__)


def test_a_name_that_is_missing_in_a_table_is_found():
    assert in_table("A `text`.\n\n| a root | `sqrtm`, `logm` |") == {"sqrtm", "logm"}


def test_a_missing_argument_is_found():
    assert undocumented(["a", "b"], "- `a`: here.") == ["b"]
    assert len(PUBLIC) > 20


def body_length(node: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    length = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        length -= first.end_lineno - first.lineno + 1
    return length


def too_long(source: str) -> list[str]:
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and body_length(node) > 80
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_explain_themselves_and_stay_short(path):
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source))
    assert len(source.splitlines()) <= 450
    assert not too_long(source)


def test_a_long_function_is_found():
    lines = "    x = 1\n" * 80
    assert too_long(f"def f():\n{lines}") == ["f"]
    assert not too_long(f'def f():\n    """Doc."""\n{lines[10:]}')

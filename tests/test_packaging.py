"""What the files around the package say of each other, and what none of them may say."""

import importlib
import inspect
import json
import pathlib
import re
import tomllib

import pytest

import jaxla

from .test_docstrings import PUBLIC


ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = (".ci", "benchmarks", "docs", "jaxla", "notebooks", "tests")
ENDINGS = (".cff", ".ipynb", ".md", ".py", ".toml", ".yml")
SOURCES = [
    path
    for folder in (ROOT, *(ROOT / name for name in FOLDERS))
    for path in (folder.iterdir() if folder == ROOT else folder.rglob("*"))
    if (path.suffix in ENDINGS or path.parent.name == ".ci")
    and path.is_file()
    and not any(part.startswith("venv-") for part in path.parts)
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Machine-bound folders: split, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:root|home|work|Users)/\w")
PRIVATE = re.compile(
    r"^\s*(?:from|import)\s+(?:jax\._src|optax\._src|equinox\.internal|jax\.core)\b", re.M
)


def test_one_version():
    assert jaxla.__version__ == PROJECT["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.M) == [PROJECT["version"]]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(PROJECT['version'])}\] - ", changelog, re.M)


def test_types_and_licence_travel_with_the_package():
    assert (pathlib.Path(jaxla.__file__).parent / "py.typed").exists()
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert PROJECT["license"] == "Apache-2.0"


def test_floors_and_no_caps():
    extras = PROJECT["optional-dependencies"].items()
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement)
    for requirement in (one for extra, many in extras if extra != "dev" for one in many):
        assert "<" not in requirement
        assert "==" not in requirement


def test_every_source_is_read():
    names = {path.name for path in SOURCES}
    assert {"README.md", "run", "pyproject.toml", "__init__.py", "mkdocs.yml"} <= names


def test_nothing_is_bound_to_a_machine_or_private():
    texts = {path: path.read_text() for path in SOURCES}
    assert not [path for path, text in texts.items() if MACHINE_PATH.search(text)]
    assert not [path for path, text in texts.items() if PRIVATE.search(text)]


def test_what_is_looked_for_is_found():
    assert MACHINE_PATH.search('open("' + "/home" + '/me/data")')
    assert not MACHINE_PATH.search("src/home/me, https://x.org/home/y, a/work/b")
    assert PRIVATE.search("    from jax._src" + " import core")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stripped_and_run_on_colab(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    repository = PROJECT["urls"]["Source"].removeprefix("https://github.com/")
    badge = (
        f"colab.research.google.com/github/{repository}/blob/main/notebooks/{path.name}"
    )
    assert badge in sources[0]
    # Installing must not replace the JAX that matches the accelerator.
    installs = [source for source in sources if "%pip" in source]
    assert len(installs) == 1
    assert "except ImportError" in installs[0]
    assert not re.search(r"--upgrade|-U\b|\bjax\b(?!la)", installs[0])


def test_every_public_name_is_in_the_reference():
    entries = [
        id(resolved(path))
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]
    assert len(entries) == len(set(entries))
    names = [f"jaxla.{room}.{name}" for room, name in PUBLIC]
    assert not [name for name in names if id(resolved(name)) not in entries]


def test_what_works_where_lists_every_function():
    page = (ROOT / "docs" / "capabilities.md").read_text()
    # Made of Python numbers, or of integers.
    other = {"newton_schulz", "polar_express", "quintic", "num_products", "sturm_count"}
    other |= {"relative_oscillation"}
    for room, name in PUBLIC:
        fn = resolved(f"jaxla.{room}.{name}")
        if room in ("factor", "matfun") and inspect.isfunction(fn) and name not in other:
            assert f"`{room}.{name}" in page


def resolved(path):
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)

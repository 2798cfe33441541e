"""The README and the pages of the docs: their code runs and prints what they show."""

import contextlib
import io
import pathlib
import re
import tomllib

import pytest


ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(300)  # a page trains, and compiles, several times
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_prints_what_the_page_shows(page, monkeypatch, tmp_path):
    # One namespace a page, in which each block of Python sees the earlier ones; a
    # block of text right after one is what it prints.
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for code, shown in python_blocks(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), namespace)
        assert shown is None or stripped(printed.getvalue()) == stripped(shown)


def python_blocks(page):
    fences = FENCE.findall(page.read_text())
    following = [*fences[1:], ("", "")][: len(fences)]
    for (language, code), (next_language, text) in zip(fences, following, strict=True):
        if language == "python":
            yield code, text if next_language == "text" else None


def test_adam_is_slower_in_the_first_example(capsys):
    code, _ = next(python_blocks(PAGES[0]))
    adam = code.replace("jaxla.optim.shampoo(1e-2)", "optax.adam(1e-2)")
    assert adam.count("optax.adam(1e-2)") == 2  # the code, and the comment beside it
    exec(compile(adam, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip().endswith("False")


def stripped(text):
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_readme_has_code_and_every_page_is_read():
    assert len(list(python_blocks(PAGES[0]))) >= 6
    assert {"choose-an-optimizer.md", "index.md", "shampoo.md"} <= {
        page.name for page in PAGES
    }


def test_versions_are_those_of_pyproject():
    row = re.compile(r"^\| `?(\w+)`? \| ([\d.]+) \|$", re.MULTILINE)
    project = PYPROJECT["project"]
    required = dict(dependency.split(">=") for dependency in project["dependencies"])
    required["Python"] = project["requires-python"].removeprefix(">=")
    assert dict(row.findall(PAGES[0].read_text())) == required


def test_the_python_version_in_the_text():
    lowest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"Python {lowest} or newer" in PAGES[0].read_text()


def test_extras_in_the_text_exist():
    extras = PYPROJECT["project"]["optional-dependencies"]
    for page in PAGES:
        for group in re.findall(r"(?:jaxla|\.)\[(\w[\w,]*)\]", page.read_text()):
            assert set(group.split(",")) <= set(extras), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target

"""What README, the guides and the API reference say of the package is true."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "examples" / "guides"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    *GUIDES.glob("*.md"),
]
REFERENCE = "".join(path.read_text(encoding="utf-8") for path in sorted((GUIDES / "api").glob("*.rst")))
PACKAGES = re.findall(r"^\.\. automodule:: (\S+)\n   :imported-members:", REFERENCE, re.MULTILINE)
MODULES = re.findall(r"^\.\. automodule:: (\S+)", REFERENCE, re.MULTILINE)


def test_the_reference_has_every_public_module():
    import pyg_schnet

    assert {f"pyg_schnet.{name}" for name in [*pyg_schnet._ROOMS, "pretrained"]} <= set(MODULES)


@pytest.mark.parametrize("module", PACKAGES)
def test_every_public_name_is_in_the_reference(module):
    """Sphinx takes what is in ``__all__`` and has a docstring of its own."""
    loaded = importlib.import_module(module)
    assert loaded.__all__ == sorted(set(loaded.__all__), key=_order)
    for name in loaded.__all__:
        value = getattr(loaded, name)
        assert value.__doc__ or not (inspect.isclass(value) or inspect.isroutine(value))


LOOKING = ("analysis", "plotting", "testing")
"""Packages of which a user takes one function at a time: each has one for a result, a picture or a property."""


def test_public_names_can_be_learned():
    """What is needed to build, train and run models is few names; other helpers can be imported, undocumented."""
    names = {name for page in PACKAGES if page.split(".")[-1] not in LOOKING for name in _public(page)}
    names |= {name for listed in re.findall(r":members: (.+)", REFERENCE) for name in listed.split(", ")}
    assert 50 <= len(names) <= 75, sorted(names)


def _public(package):
    return importlib.import_module(package).__all__


@pytest.mark.parametrize(("module", "listed"), re.findall(r"automodule:: (\S+)\n   :members: (.+)", REFERENCE))
def test_listed_members_exist(module, listed):
    assert all(hasattr(importlib.import_module(module), name) for name in listed.split(", "))


def _order(name):
    """Constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_names_at_the_top_have_a_home():
    import pyg_schnet

    for name in set(pyg_schnet.__all__) - {"__version__"}:
        assert name in importlib.import_module(f"pyg_schnet.{pyg_schnet._HOMES[name]}").__all__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_linked_files_exist(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_linked_headings_exist(page):
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        text = (page.parent / target if target else page).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_index_lists_every_guide():
    listed = re.findall(r"\]\((\w+)\.md\)", (GUIDES / "index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted({path.stem for path in GUIDES.glob("*.md")} - {"index"})


def test_readme_can_be_read_in_three_minutes():
    assert len(README.splitlines()) <= 160


def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) >= 3
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


def test_commands_of_the_command_line_exist():
    from pyg_schnet.cli import COMMANDS

    assert set(re.findall(r"pyg-schnet (\w+)", README)) == set(COMMANDS)

"""What README, the guides and the API reference say of the package is true."""

import importlib
import inspect
import re
import shlex
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


LOOKING = ("analysis", "plotting", "testing", "interfaces", "data.reference")
"""Packages of which a user needs one name at a time: for a result, a picture, a property, an engine or new data."""


def test_public_names_can_be_learned():
    """What is needed to build, train and run models is few names; other helpers can be imported, undocumented."""
    names = {
        name for page in PACKAGES if not page.removeprefix("pyg_schnet.").startswith(LOOKING) for name in _public(page)
    }
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
    assert len(README.splitlines()) <= 150
    prose = re.sub(r"```.*?```|\]\([^)]*\)|<!--.*?-->", "", README, flags=re.DOTALL)
    assert len(prose.split()) <= 950


def test_the_first_code_of_readme_is_two_commands():
    """To train on real data, and to pass the tests; .ci/run runs the second."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
    assert [language for language, _ in blocks[:3]] == ["bash", "bash", "python"]
    assert [text.splitlines()[1:] for _, text in blocks[:2]] == [[], []]
    assert blocks[0][1].endswith("pyg-schnet train\n")
    assert blocks[1][1].endswith("python -m pytest -q -n 2\n")


def test_ten_lines_are_ten():
    block = README.split("## Ten lines")[1].split("```python\n")[1].split("```")[0]
    assert len(block.split("\n\n")[0].splitlines()) + len(block.split("\n\n")[1].splitlines()) == 10


SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    exec(compile(snippet, "README.md", "exec"), {})


def test_there_are_snippets():
    assert len(SNIPPETS) >= 3


def test_commands_of_the_command_line_exist():
    from pyg_schnet.cli import COMMANDS

    assert set(re.findall(r"pyg-schnet ([\w-]+)", README)) == set(COMMANDS)


def shown_commands(page):
    """Arguments of the commands in the blocks of a page."""
    text = "".join(re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    for line in re.findall(r"pyg-schnet (.*)$", text.replace("\\\n", " "), re.MULTILINE):
        yield shlex.split(line.split(" > ")[0], comments=True)


COMMANDS_SHOWN = [
    pytest.param(arguments, id=f"{page.stem}-{number}-{arguments[0]}")
    for page in PAGES
    for number, arguments in enumerate(shown_commands(page))
]


@pytest.mark.parametrize("arguments", COMMANDS_SHOWN)
def test_options_that_are_shown_exist(arguments, tmp_path, monkeypatch, capsys):
    """Every command parses; what commands do is tested in tests/cli."""
    from pyg_schnet.cli import _options, main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command, *options = arguments
    if command == "train":
        if "--config" in options and not (config := Path(options[options.index("--config") + 1])).exists():
            config.parent.mkdir(parents=True)
            config.write_text("trainer:\n  max_epochs: 7\n")
        try:
            main([*arguments, "--print_config"])
        except SystemExit as stop:
            assert not stop.code  # noqa: PT017 - the parser exits
        assert "class_path" in capsys.readouterr().out
        return
    module, given = importlib.import_module(f"pyg_schnet.cli.{command.replace('-', '_')}"), []
    if hasattr(module, "_parser"):
        module._parser().parse_args(options)
        return
    monkeypatch.setattr(module, "run_function", lambda *found, **more: given.append(found))
    module.run(options)
    for name, function, rest in given:
        _options.parser_of(name, function).parse_args(rest)
    assert given


def test_commands_are_shown():
    assert len(COMMANDS_SHOWN) >= 20

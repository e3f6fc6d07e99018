"""What the README says of the package is true."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = [
    "ops",
    "nn",
    "neighbors",
    "models",
    "data",
    "train",
    "interfaces",
    "pretrained",
    "analysis",
    "plotting",
    "testing",
]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_reachable(module):
    shown = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "guides").glob("*.md")]
    text = README + "".join(path.read_text(encoding="utf-8") for path in sorted(shown))
    names = importlib.import_module(f"pyg_schnet.{module}").__all__
    assert names
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_exists(module):
    loaded = importlib.import_module(f"pyg_schnet.{module}")
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_linked_files_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) >= 3
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


def test_commands_of_the_command_line_exist():
    from pyg_schnet.cli import COMMANDS

    assert set(re.findall(r"pyg-schnet (\w+)", README)) == set(COMMANDS)

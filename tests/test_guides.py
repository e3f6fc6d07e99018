"""What the guides show runs."""

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[1] / "examples" / "guides"
SNIPPETS = [
    pytest.param(snippet, id=f"{path.stem}-{number}")
    for path in sorted(GUIDES.glob("*.md"))
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet):
    exec(compile(snippet, "guide", "exec"), {})


def test_there_are_snippets():
    assert SNIPPETS

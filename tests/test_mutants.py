"""The list of planted mistakes fits the code; ``python -m tests.mutants`` plants them."""

import ast

import pytest

from .mutants.drawn import draw, edits
from .mutants.equivalent import EQUIVALENT
from .mutants.mutant import ROOT, Mutant
from .mutants.planted import KERNELS, ONCE_UNNOTICED, PLANTED
from .mutants.selection import stages


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda mutant: mutant.name)
def test_every_mistake_can_be_planted(mutant):
    text = (ROOT / mutant.path).read_text(encoding="utf-8")
    planted = mutant.plant(text)
    assert planted != text
    ast.parse(planted)
    assert stages(mutant, ROOT)[0]


def test_the_list_covers_the_package():
    assert len({mutant.name for mutant in PLANTED}) == len(PLANTED)
    assert len(ONCE_UNNOTICED) >= 16
    assert len(PLANTED) - len(ONCE_UNNOTICED) - len(KERNELS) >= 60
    folders = [
        "",
        "neighbors",
        "ops",
        "backends/numba",
        "nn",
        "engine",
        "models",
        "data",
        "train",
        "interfaces",
        "analysis",
    ]
    assert {mutant.file.rpartition("/")[0] for mutant in PLANTED} >= set(folders)


def test_a_list_that_is_out_of_date_is_an_error():
    with pytest.raises(ValueError, match=r"name: 'a' occurs 2 times in pyg_schnet/units\.py, expected once"):
        Mutant("name", "units.py", "a", "b").plant("a + a")
    with pytest.raises(ValueError, match=r"line 1 of pyg_schnet/units\.py is no longer 'a'"):
        Mutant("name", "units.py", "a", "b", line=1).plant("c\na")
    assert Mutant("name", "units.py", "a", "b", line=2).plant("a\na\n") == "a\nb\n"


def test_draws_are_reproduced_and_can_be_planted():
    first, again, other = (draw(ROOT, 20, seed) for seed in (3, 3, 4))
    assert first == again
    assert {mutant.key() for mutant in first} != {mutant.key() for mutant in other}
    for mutant in first:
        ast.parse(mutant.plant((ROOT / mutant.path).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = a < b", {"x = a <= b"}),
        ("x = (a) - (b)", {"x = (a) + (b)"}),
        ("x = not a", {"x = a"}),
        ("x = 2 * min(a, b)", {"x = 3 * min(a, b)", "x = 2 / min(a, b)", "x = 2 * max(a, b)"}),
        ("x = a - 0.5", {"x = a - 0.75", "x = a + 0.5", "x = a"}),
        ("return 'Å' if a and b else c", {"return 'Å' if a or b else c", "return 'Å'", "return c"}),
        ("f(a)", {"pass"}),
        ("raise ValueError(1 + 2)", set()),
        ("x: int = a.sum()", {"x: int = a.mean()"}),
    ],
)  # fmt: skip
def test_mistakes_of_every_kind_are_drawn(line, expected):
    code = f"def g(a, b, c, f):\n    {line}\n"
    raw = f"    {line}".encode()
    found = {
        (raw[:begin] + new.encode() + raw[end:]).decode().strip() for at, begin, end, new in edits(code) if at == 2
    }
    assert found >= expected
    assert bool(found) == bool(expected)


def test_explanations_are_of_files_that_are_there():
    for (file, old, new), reason in EQUIVALENT.items():
        assert (ROOT / "pyg_schnet" / file).is_file()
        assert old == old.strip() != new == new.strip()
        assert len(reason) > 10

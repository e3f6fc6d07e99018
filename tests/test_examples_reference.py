"""The example of reference data; the command itself is tested in tests/data/reference and tests/cli."""

import importlib
import re
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(arguments, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["06_reference_data.py", *arguments])
    importlib.import_module("06_reference_data").main()
    return capsys.readouterr().out


def test_example(monkeypatch, capsys, tmp_path):
    arguments = ["CH3CH2OH", f"--output={tmp_path / 'ethanol'}", "--frames=5", "--method=ase.calculators.emt.EMT"]
    text = printed(arguments, monkeypatch, capsys)
    kinds = re.findall(r"^(\w+) +(\d+) +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    assert dict(kind[:2] for kind in kinds)["modes"] == "5"
    assert re.search(r"^\d+ labels by \d+ calculations; left out: ", text)
    assert printed(arguments, monkeypatch, capsys) == text  # read again, not made again


def test_without_tblite(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    with pytest.raises(SystemExit, match=r"pip install 'pyg_schnet\[reference\]'"):
        printed(["H2O", f"--output={tmp_path / 'water'}"], monkeypatch, capsys)


def test_gfn2(monkeypatch, capsys, tmp_path):
    pytest.importorskip("tblite")
    text = printed(["H2O", f"--output={tmp_path / 'water'}", "--frames=4"], monkeypatch, capsys)
    relaxed = re.search(r"^relaxed +1 +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    assert float(relaxed[1]) == 0.0
    assert float(relaxed[2]) < 0.02

"""The examples run as they are."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "data" / "samples" / "qm9"


def run_example(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_layers(monkeypatch, capsys):
    run_example("01_layers.py", monkeypatch)
    printed = capsys.readouterr().out
    differences = [float(number) for number in re.findall(r"(?:loop|differ) by ([\d.e+-]+)", printed)]
    assert len(differences) == 2
    assert max(differences) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_train_qm9(monkeypatch, capsys, tmp_path):
    run_example(
        "02_train_qm9.py",
        monkeypatch,
        "--minutes=0.03",
        "--num-train=20",
        "--num-val=5",
        f"--source={SAMPLE}",
        f"--root={tmp_path}",
        f"--output={tmp_path / 'model.safetensors'}",
    )
    printed = capsys.readouterr().out
    assert "Errors on 5 test structures" in printed
    assert float(re.search(r"U0 of water is ([-\d.]+) eV", printed)[1]) == pytest.approx(-2079, abs=30)


def test_audit(monkeypatch, capsys):
    run_example("07_audit.py", monkeypatch, "--checks", "all neighbours", "rotation", "--pretrained=rmd17-aspirin")
    printed = capsys.readouterr().out
    assert printed.count("rotation ") == 3
    assert "where an atom has more than 32" in printed
    assert printed.splitlines()[-1].endswith("SchNet of pyg_schnet: none; rmd17-aspirin: SchNet of pyg_schnet: none")

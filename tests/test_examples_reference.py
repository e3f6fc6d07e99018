"""The examples of reference data; the command itself is tested in tests/data/reference and tests/cli."""

import importlib
import re
import sys
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet import SchNet
from pyg_schnet.interfaces import BatchCalculator, calibrate
from pyg_schnet.models import SchNetCommittee

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(arguments, monkeypatch, capsys, example="06_reference_data"):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{example}.py", *arguments])
    importlib.import_module(example).main()
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


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    """The active round of water and ethanol with a committee of new models: its frames, and what it says."""
    torch.manual_seed(1)
    members = [SchNet(16, 16, 2, 12, 4.0) for _ in range(2)]
    for member in members:
        member.readout.scale.fill_(0.05)
    model = SchNetCommittee(members).save(tmp_path / "committee.safetensors", target="energy", unit="eV")
    ase.io.write(tmp_path / "some.xyz", [ase.build.molecule(name) for name in ("H2O", "CH3CH2OH")])

    def run(*options):
        fixed = [f"--model={model}", f"--files={tmp_path / 'some.xyz'}", f"--output={tmp_path / 'active.xyz'}"]
        text = printed([*fixed, "--every=2", "--steps=10", *options], monkeypatch, capsys, "12_active_round")
        return ase.io.read(tmp_path / "active.xyz", ":"), text

    run.model = model
    return run


def test_geometries_that_models_disagree_on(search):
    frames, text = search("--least=0", "--each=3")
    assert [len(atoms) for atoms in frames] == [3, 3, 3, 9, 9, 9]
    assert "2 of 2 molecules, 6 geometries" in text
    found = BatchCalculator(search.model)(frames)
    spread = [np.linalg.norm(results["forces_std"], axis=1).max() for results in found]
    assert [atoms.info["spread"] for atoms in frames] == pytest.approx(spread, rel=1e-3)
    assert spread[:3] == sorted(spread[:3], reverse=True)
    every, _ = search("--least=0", "--each=5")
    assert max(atoms.info["spread"] for atoms in every[5:]) == frames[3].info["spread"]
    least = np.median([atoms.info["spread"] for atoms in every])
    some, _ = search(f"--least={least}", "--each=5")
    assert len(some) == sum(atoms.info["spread"] > least for atoms in every)
    apart, _ = search("--least=0", "--each=5", "--together=1")
    assert len(apart) == len(every)


def test_a_molecule_stays_where_models_disagree_too_much(search):
    every, _ = search("--least=0", "--each=5")
    most = max(atoms.info["spread"] for atoms in every) * 0.999  # so one of the two ends on its way
    frames, text = search("--least=0", "--each=5", f"--most={most}")
    assert "1 molecules came to a spread above" in text
    assert sum(atoms.info["spread"] > most for atoms in frames) == 1
    with pytest.raises(SystemExit, match="never disagreed by 0 eV"):
        search("--least=0", "--most=1e-9")


def test_what_is_looked_for_is_not_warned_about(search):
    """The committee is calibrated where atoms are far apart and its models agree; warnings are errors here."""
    apart = ase.build.molecule("H2O")
    apart.positions *= 4.0
    apart.calc = SinglePointCalculator(apart, energy=0.0, forces=np.zeros((3, 3)))
    calibrate(search.model, [apart])
    with pytest.warns(UserWarning, match="on which the models disagree"):
        BatchCalculator(search.model)([ase.build.molecule("H2O")])
    frames, _ = search("--least=0", "--each=1")
    assert len(frames) == 2


def test_one_model_has_no_spread(search, tmp_path):
    single = SchNet(16, 16, 1, 12, 4.0).save(tmp_path / "single.safetensors", target="energy", unit="eV")
    with pytest.raises(SystemExit, match="one model cannot disagree"):
        search(f"--model={single}")

"""``pyg-schnet predict``: forces and stress, and files of any length in constant memory."""

import gc
import tracemalloc
import weakref

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from pyg_schnet import SchNet
from pyg_schnet.cli import main
from pyg_schnet.cli.predict import predict_file
from pyg_schnet.data.ase_files import read_all
from pyg_schnet.data.xyz_blocks import xyz_blocks
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models.domain import Domain
from pyg_schnet.nn import DipoleReadout, MeanReadout


@pytest.fixture(params=["sum", "mean"])
def model(request, tmp_path):
    torch.manual_seed(0)
    readout = MeanReadout(16) if request.param == "mean" else None
    options = {} if readout is None else {"readout": readout}
    model = SchNet(16, 16, 2, 12, 4.0, **options)
    model.readout.set_references(-torch.arange(0.0, 100.0))
    unit = "eV" if readout is None else "eV/atom"
    model.save(tmp_path / "model.safetensors", target="E", unit=unit)
    return tmp_path / "model.safetensors"


def structures():
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    crystal.rattle(0.1, seed=0)
    crystal.set_cell(crystal.cell.array + 0.1 * np.tri(3, k=-1), scale_atoms=True)
    slab = molecule("CH4", vacuum=4.0, pbc=(True, True, False))
    return [molecule("H2O"), crystal, molecule("CH3CH2OH"), slab, crystal * (1, 1, 2)]


@pytest.mark.parametrize("batch_size", [1, 2, 250])
def test_forces_and_stress_are_those_of_the_calculator(model, tmp_path, batch_size, capsys):
    images = structures()
    images[0].info["name"] = "w 17"
    images[0].set_array("predicted_forces", np.ones((3, 3)))  # of an earlier prediction
    ase.io.write(tmp_path / "in.xyz", images, format="extxyz")
    images = ase.io.read(tmp_path / "in.xyz", ":")  # as rounded
    predict_file(str(tmp_path / "in.xyz"), model=str(model), output=str(tmp_path / "out.xyz"), stress=True,
                 batch_size=batch_size)  # fmt: skip
    assert "5 values of E, forces, stress in eV" in capsys.readouterr().out
    found = ase.io.read(tmp_path / "out.xyz", ":")
    assert found[0].info["name"] == "w 17"
    assert (found[0].arrays["predicted_forces"] == 1.0).all()
    found[0].arrays["predicted_forces"] = found[0].arrays["predicted_forces_2"]
    for atoms, after in zip(images, found, strict=True):
        atoms.calc = SchNetCalculator(model)
        np.testing.assert_allclose(after.arrays["predicted_forces"], atoms.get_forces(), atol=2e-6)
        scale = len(atoms) if "atom" in after.info["predicted_E_unit"] else 1
        assert scale * after.info["predicted_E"] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert ("predicted_stress" in after.info) == atoms.pbc.any()
        if atoms.pbc.any():
            stress = atoms.get_stress(voigt=False)
            np.testing.assert_allclose(after.info["predicted_stress"], stress, atol=1e-6)


def test_energies_are_those_without_forces(model, tmp_path):
    ase.io.write(tmp_path / "in.xyz", structures(), format="extxyz")
    for name, more in (("a", {}), ("b", {"forces": True})):
        predict_file(str(tmp_path / "in.xyz"), model=str(model), output=str(tmp_path / f"{name}.xyz"), **more)
    plain, more = (ase.io.read(tmp_path / f"{name}.xyz", ":") for name in "ab")
    for one, other in zip(plain, more, strict=True):
        assert one.info["predicted_E"] == pytest.approx(other.info["predicted_E"], rel=1e-6, abs=1e-4)
        assert "predicted_stress" not in other.info
        assert set(other.arrays) - set(one.arrays) == {"predicted_forces"}


@pytest.mark.parametrize("more", [[], ["--output=out.csv"], ["--output=out.dat", "--format=csv"]])
def test_forces_need_a_place(more, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ase.io.write("in.xyz", molecule("H2O"))
    with pytest.raises(SystemExit):
        main(["predict", "in.xyz", f"--model={model}", "--forces", *more])
    assert "forces and stress are written to extended xyz; give --output FILE.xyz" in capsys.readouterr().err


def test_forces_of_other_properties_are_refused(tmp_path):
    ase.io.write(tmp_path / "in.xyz", molecule("H2O"))
    options = {"model": str(tmp_path / "m.safetensors"), "output": str(tmp_path / "out.xyz"), "forces": True}
    SchNet(8, 8, 1, 8, 4.0, readout=DipoleReadout(8)).save(tmp_path / "m.safetensors", target="mu", unit="D")
    with pytest.raises(ValueError, match="energies"):
        predict_file(str(tmp_path / "in.xyz"), **options)
    trained = Domain("none", False, {}, {}).as_json()
    SchNet(8, 8, 1, 8, 4.0).save(tmp_path / "m.safetensors", target="E", unit="eV", trained_on=trained)
    with pytest.raises(ValueError, match="--untrained_forces true"):
        predict_file(str(tmp_path / "in.xyz"), **options)
    assert not (tmp_path / "out.xyz").exists()


@pytest.mark.parametrize("output", ["out.xyz", "out.csv"])
def test_a_few_batches_are_in_memory(output, tmp_path, monkeypatch):
    """However many structures come, no more of them are there than belong to two batches."""
    SchNet(8, 8, 1, 8, 4.0).save(tmp_path / "m.safetensors", target="E", unit="eV")
    alive: list[int] = []
    most = [0]

    def many(*_):
        for number in range(200):
            atoms = molecule("H2O")
            atoms.info["number"] = number
            if number > 150:
                atoms.info["late"] = "x"
            alive.append(number)
            weakref.finalize(atoms, alive.remove, number)
            gc.collect(0)
            most[0] = max(most[0], len(alive))
            yield "", atoms

    monkeypatch.setattr("pyg_schnet.cli._prediction.read_all", many)
    (tmp_path / "in.xyz").touch()
    predict_file(str(tmp_path / "in.xyz"), model=str(tmp_path / "m.safetensors"), output=str(tmp_path / output),
                 batch_size=10)  # fmt: skip
    assert 10 <= most[0] <= 22
    if output == "out.csv":
        lines = (tmp_path / output).read_text(encoding="utf-8").splitlines()
        assert lines[0] == "structure,formula,E [eV],number,late"
        assert lines[1].endswith(",0,")
        assert lines[200].endswith(",199,x")
        assert {line.count(",") for line in lines} == {4}
    else:
        assert [atoms.info["number"] for atoms in ase.io.read(tmp_path / output, ":")] == list(range(200))


def test_long_files_are_read_in_constant_memory(tmp_path):
    frame = '3\nProperties=species:S:1:pos:R:3 name=w pbc="F F F"\nO 0 0 0\nH 0 0 1\nH 0 1 0\n'
    peaks = []
    for count in (130, 130, 1000):  # once before anything is imported and cached
        (tmp_path / "in.xyz").write_text(frame * count)
        tracemalloc.start()
        assert sum(len(atoms) for _, atoms in read_all(str(tmp_path / "in.xyz"), ":", None)) == 3 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1] + 50_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1\n\nH 0 0 0\n" * 70 + "x\n\nH 0 0 0\n",
            "cannot read structure 6. of .*: ase.io.extxyz: Expected xyz header",
        ),
        ("1\n\nH 0 0 0\n" * 70 + "3\n\nH 0 0 0\n", "cannot read structure 70 of "),
    ],
)
def test_spoiled_ends_of_long_files_are_said(text, message, tmp_path):
    (tmp_path / "in.xyz").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_all(str(tmp_path / "in.xyz"), ":", None))


def test_blocks_are_whole_structures_with_their_lattice_vectors():
    text = "1\nfirst\nH 0 0 0\nVEC1 1 0 0\nVEC2 0 1 0\nVEC3 0 0 1\n" * 100 + "\n1\nnot read\nH 0 0 0\n"
    blocks = [block.read() for block in xyz_blocks(text.splitlines(keepends=True))]
    assert [block.count("first") for block in blocks] == [64, 36]
    assert "".join(blocks) == text.split("\n\n")[0] + "\n"

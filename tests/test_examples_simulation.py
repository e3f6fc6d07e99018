"""The simulation examples run on a small model of random weights, and what they print is right."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import ase.io
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa

from pyg_schnet import SchNet
from pyg_schnet.models import SchNetCommittee

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(3)
    network = SchNet(16, 16, 2, 12, 4.0)
    network.readout.scale.fill_(0.05)  # weak forces, so that atoms oscillate
    return network.save(tmp_path / "model.safetensors", target="energy", unit="eV")


def drawn(path):
    """Whether there is a picture exactly where it can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        return not path.exists()
    return path.stat().st_size > 1000


def run(name, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


def test_geometry_optimisation(model, tmp_path, monkeypatch, capsys):
    ase.io.write(tmp_path / "in.xyz", molecule("CH3CH2OH"))
    printed = run(
        "03_geometry_optimisation.py", monkeypatch, capsys, f"--model={model}", f"--structure={tmp_path / 'in.xyz'}",
        "--steps=15", f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    before, after = map(float, re.search(r"energy ([-\d.]+) -> ([-\d.]+) eV", printed).groups())
    assert after < before
    assert drawn(tmp_path / "out.png")
    assert len(ase.io.read(tmp_path / "out.xyz")) == 9


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_molecular_dynamics(model, tmp_path, monkeypatch, capsys, ensemble):
    ase.io.write(tmp_path / "in.xyz", bulk("Cu", cubic=True), format="extxyz")
    printed = run(
        "04_molecular_dynamics.py", monkeypatch, capsys, f"--model={model}", f"--structure={tmp_path / 'in.xyz'}",
        "--repeat=2", f"--ensemble={ensemble}", "--steps=40", f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    assert "32 atoms" in printed
    assert "0.02 ps" in printed
    if ensemble == "nve":
        assert abs(float(re.search(r"fluctuation ([\d.]+) meV/atom", printed)[1])) < 1.0
    assert drawn(tmp_path / "out.png")


def test_crystal_mechanics(model, tmp_path, monkeypatch, capsys):
    printed = run(
        "05_crystal_mechanics.py", monkeypatch, capsys, f"--model={model}", "--element=Cu", "--lattice=fcc", "--a=3.6",
        f"--output={tmp_path / 'out.png'}",
    )  # fmt: skip
    from_curve = float(re.search(r"bulk modulus ([-\d.]+) GPa", printed)[1])
    from_strain = float(re.search(r"/ 3: ([-\d.]+) GPa", printed)[1])
    assert from_curve == pytest.approx(from_strain, abs=0.11)  # both printed with one digit
    assert "\nrelaxed lattice constant" in "\n" + printed
    assert drawn(tmp_path / "out.png")


@pytest.fixture
def mechanics():
    """The functions of the example."""
    return runpy.run_path(str(ROOT / "examples" / "05_crystal_mechanics.py"))


def test_equation_of_state_and_elastic_constants_agree(mechanics):
    copper = bulk("Cu", cubic=True)
    copper.calc = EMT()
    BFGS(FrechetCellFilter(copper), logfile=None).run(fmax=1e-4)
    volumes, energies = mechanics["equation_of_state"](copper)
    modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()[2] / GPa
    _, _, (c11, c12, c44) = mechanics["elastic_constants"](copper)
    assert (c11 + 2 * c12) / 3 == pytest.approx(modulus, rel=0.005)
    assert c11 > c12 > c44 > 0


def test_elastic_constants_of_silicon_are_the_published_ones(mechanics):
    # Tersoff, Phys. Rev. B 39, 5566 (1989); C11, C12 and C44 of it are 142.5, 75.4 and 69.0 GPa (118.8 where the atoms
    # are not relaxed), Balamane et al., Phys. Rev. B 46, 2250 (1992)
    tersoff = pytest.importorskip("ase.calculators.tersoff", reason="this version of ASE has no Tersoff potential")
    parameters = tersoff.TersoffParameters(
        m=3.0, gamma=1.0, lambda3=0.0, c=100390.0, d=16.217, h=-0.59825, n=0.78734, beta=1.1e-6, lambda2=1.73222,
        B=471.18, R=2.85, D=0.15, lambda1=2.4799, A=1830.8,
    )  # fmt: skip
    silicon = bulk("Si", "diamond", a=5.432, cubic=True)
    silicon.calc = tersoff.Tersoff({("Si", "Si", "Si"): parameters})
    _, _, constants = mechanics["elastic_constants"](silicon)
    assert constants == pytest.approx((142.5, 75.4, 69.0), rel=0.003)


@pytest.mark.parametrize("name", ["03_geometry_optimisation.py", "04_molecular_dynamics.py", "05_crystal_mechanics.py"])
def test_they_say_how_to_train_a_model(name, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(name, monkeypatch, capsys, "--help")
    recipe = re.search(r"train\s+--config\s+(\S+\.yaml)", capsys.readouterr().out)[1]
    assert (ROOT / recipe).is_file()


def test_organic_molecule(tmp_path, monkeypatch, capsys):
    torch.manual_seed(1)
    members = [SchNet(16, 16, 2, 12, 4.0) for _ in range(2)]
    for member in members:
        member.readout.scale.fill_(0.02)
    model = SchNetCommittee(members).save(tmp_path / "committee.safetensors", target="energy", unit="eV")
    printed = run(
        "11_organic_molecule.py", monkeypatch, capsys, f"--model={model}", "--conformers=3", "--points=3", "--steps=20",
        f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    combinations, minima, different = map(int, re.match(r"(\d+) comb.*?, (\d+) minima, (\d+)", printed).groups())
    assert combinations == 3 >= minima >= different
    found = ase.io.read(tmp_path / "out.xyz", ":")
    energies = [atoms.get_potential_energy() for atoms in found]
    assert len(found) == different
    assert energies == sorted(energies)
    assert abs(found[0].get_forces()).max() < 0.01
    assert float(re.search(r"spread up to ([\d.]+)", printed)[1]) > 0.0
    assert re.search(r"^60 vibrations from", printed, re.MULTILINE)
    assert re.search(r"^0.01 ps of dynamics: ", printed, re.MULTILINE)
    assert drawn(tmp_path / "out.png")

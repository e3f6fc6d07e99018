"""What the calculator gives besides energy and forces, and what ASE's files keep of it."""

import hashlib
import json
import subprocess
import sys

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError

from pyg_schnet import SchNet, pretrained
from pyg_schnet.data import to_data
from pyg_schnet.geometry import edge_vectors, safe_norm
from pyg_schnet.interfaces import SchNetCalculator, database_entries
from pyg_schnet.models import prepare_edges
from pyg_schnet.models.graph import Edges
from pyg_schnet.neighbors import radius_graph
from pyg_schnet.nn import DipoleReadout
from pyg_schnet.potential import Potential
from pyg_schnet.testing import random_rotation


def schnet(seed=0, **options):
    torch.manual_seed(seed)
    model = SchNet(16, 16, 2, 12, 4.0, **options).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def committee():
    return SchNetCalculator([schnet(0), schnet(1)], unit="eV")


@pytest.mark.parametrize("suffix", ["traj", "extxyz", "json"])
def test_deviations_are_kept_by_files(suffix, triclinic, committee, tmp_path):
    triclinic.calc = committee
    triclinic.get_forces()
    expected = {name: value for name, value in committee.results.items() if name.endswith("_std")}
    assert set(expected) == {"energy_std", "forces_std", "stress_std"}
    path = tmp_path / f"frames.{suffix}"
    if suffix == "json":
        ase.db.connect(path).write(triclinic)
        found = ase.db.connect(path).get_atoms(id=1).calc.results
    else:
        ase.io.write(path, triclinic)
        found = ase.io.read(path).calc.results
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-7)
    np.testing.assert_allclose(found["forces"], committee.results["forces"], atol=1e-7)


def test_deviations_are_kept_by_sqlite(triclinic, committee, tmp_path):
    triclinic.calc = committee
    triclinic.get_forces()
    with ase.db.connect(tmp_path / "frames.db") as database:
        database.write(triclinic, **database_entries(triclinic))
    row = ase.db.connect(tmp_path / "frames.db").get(id=1)
    assert row.energy_std == pytest.approx(committee.results["energy_std"], rel=1e-12)
    np.testing.assert_allclose(row.data["forces_std"], committee.results["forces_std"], rtol=1e-12)
    np.testing.assert_allclose(row.data["stress_std"], committee.results["stress_std"], rtol=1e-12)
    assert row.calculator_parameters["sha256"] == committee.parameters["sha256"]
    triclinic.rattle(0.1)
    assert database_entries(triclinic) == {"key_value_pairs": {}, "data": {}}  # of other positions


def test_programs_without_the_package_read_such_files(ethanol, committee, tmp_path):
    ethanol.calc = committee
    ethanol.get_forces()
    ase.io.write(tmp_path / "frames.extxyz", ethanol)
    ase.io.write(tmp_path / "frames.traj", ethanol)
    code = (
        "import ase.io; a = ase.io.read('frames.extxyz'); print(a.arrays['forces_std'].shape, a.info['energy_std']); "
        "print(ase.io.read('frames.traj').get_forces().shape)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[0].startswith("(9, 3) ")
    assert said.splitlines()[1] == "(9, 3)"


def test_deviations_can_be_asked_for(ethanol, committee):
    spread = committee.get_property("energy_std", ethanol)
    energies = [SchNetCalculator(schnet(seed), unit="eV").get_potential_energy(ethanol) for seed in (0, 1)]
    assert spread == pytest.approx(abs(energies[0] - energies[1]) / 2, rel=1e-9)
    assert set(committee.export_properties()) >= {"energy", "energy_std"}  # ASE's own check of names and shapes
    with pytest.raises(PropertyNotImplementedError):
        SchNetCalculator(schnet(), unit="eV").get_property("energy_std", ethanol)


def test_files_name_the_model(ethanol, tmp_path):
    path = schnet().save(tmp_path / "m.safetensors", unit="eV")
    calc = SchNetCalculator(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert calc.parameters["sha256"] == digest
    assert calc.parameters["model"] == str(path)
    assert calc.parameters["version"] == pretrained.VERSION
    assert all(word in str(calc) for word in (digest, str(path), pretrained.VERSION))
    ethanol.calc = calc
    ethanol.get_forces()
    ase.io.write(tmp_path / "a.traj", ethanol)
    assert ase.io.read(tmp_path / "a.traj").calc.parameters["sha256"] == digest
    json.dumps(calc.todict())
    assert SchNetCalculator("rmd17-aspirin").parameters["model"] == "rmd17-aspirin"


def test_the_hash_of_weights_tells_models_apart():
    first, same, other = (SchNetCalculator(schnet(seed), unit="eV").parameters["sha256"] for seed in (0, 0, 1))
    assert first == same != other
    assert len(first) == 64
    assert SchNetCalculator([schnet(0), schnet(1)], unit="eV").parameters["sha256"] == [first, other]


@pytest.mark.parametrize("name", ["ethanol", "slab", "small_cell"])
def test_the_hessian_is_a_difference_of_forces(name, request):
    atoms = request.getfixturevalue(name)
    atoms.calc = SchNetCalculator(schnet(), unit="kcal/mol")
    matrix, step = atoms.calc.get_hessian(atoms), 1e-3
    assert matrix.shape == (len(atoms), 3, len(atoms), 3)
    moved = []
    for sign in (-2, -1, 1, 2):
        copy = atoms.copy()
        copy.positions[1, 2] += sign * step
        moved.append(atoms.calc.get_forces(copy))
    slope = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)
    np.testing.assert_allclose(matrix[1, 2], -slope, rtol=0, atol=1e-6 * abs(matrix).max())


def test_the_hessian_of_an_ensemble_is_the_mean(ethanol, committee):
    parts = [SchNetCalculator(schnet(seed), unit="eV").get_hessian(ethanol) for seed in (0, 1)]
    np.testing.assert_allclose(committee.get_hessian(ethanol), np.mean(parts, axis=0), atol=1e-10)
    assert committee.get_hessian().shape == (9, 3, 9, 3)  # of the last structure


@pytest.mark.parametrize("name", ["slab", "triclinic", "small_cell"])
def test_stresses_of_atoms_add_up_to_the_stress(name, request):
    atoms = request.getfixturevalue(name)
    atoms.calc = SchNetCalculator(schnet(), unit="eV")
    parts, stress = atoms.get_stresses(), atoms.get_stress()
    assert parts.shape == (len(atoms), 6)
    np.testing.assert_allclose(parts.sum(0), stress, atol=1e-12)
    order = np.random.default_rng(0).permutation(len(atoms))
    other = atoms[order]
    other.calc = SchNetCalculator(schnet(), unit="eV")
    np.testing.assert_allclose(other.get_stresses(), parts[order], atol=1e-12)


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_virials_of_atoms_are_half_of_each_edge(readout, triclinic):
    model, data = schnet(readout=readout), to_data(triclinic, dtype=torch.float64)
    model.filters = "exact"
    index, shift = radius_graph(data.pos, 4.0, cell=data.cell, pbc=data.pbc)
    vec = edge_vectors(data.pos, index, shift, data.cell).requires_grad_()
    features = model.represent(data.z, Edges(index, safe_norm(vec)))
    energy = model.readout.atom_values(features, data.z).sum()
    (slope,) = torch.autograd.grad(energy, vec)
    expected = torch.zeros(5, 3, 3, dtype=torch.float64)
    for edge in range(index.size(1)):  # minus half of force times vector, to both ends
        for atom in index[:, edge].tolist():
            expected[atom] -= 0.5 * torch.outer(vec[edge], slope[edge]).detach()
    unit = "eV" if readout == "sum" else "eV/atom"
    found = Potential(model, unit).atom_virials(data.z, data.pos, cell=data.cell, pbc=data.pbc)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_virials_of_atoms_of_a_batch_are_those_of_molecules(ethanol, water, tensors):
    potential = Potential(schnet(), "eV")
    alone = [potential.atom_virials(*[tensors(one)[key] for key in ("z", "pos")]) for one in (ethanol, water)]
    both = tensors(ethanol, water)
    torch.testing.assert_close(potential.atom_virials(both["z"], both["pos"], both["batch"]), torch.cat(alone))
    isolated = potential.atom_virials(torch.tensor([8]), torch.zeros(1, 3, dtype=torch.float64))
    assert not isolated.any()


@pytest.mark.parametrize("name", ["ethanol", "slab"])
def test_descriptors_are_features_that_do_not_turn(name, request):
    atoms, model = request.getfixturevalue(name), schnet()
    calc = SchNetCalculator(model, unit="eV")
    found = calc.get_descriptors(atoms)
    data = to_data(atoms, dtype=torch.float64)
    given = {"cell": data.cell, "pbc": data.pbc, "batch_size": 1}
    edges = prepare_edges(data.z, data.pos, torch.zeros_like(data.z), 4.0, **given)
    np.testing.assert_allclose(found, model.represent(data.z, edges).detach(), atol=1e-10)
    turned, rotation = atoms.copy(), random_rotation(3).numpy()
    turned.positions, turned.cell = atoms.positions @ rotation, atoms.cell.array @ rotation
    np.testing.assert_allclose(calc.get_descriptors(turned), found, atol=1e-9)
    two = SchNetCalculator([schnet(0), schnet(1)], unit="eV").get_descriptors(atoms)
    assert two.shape == (len(atoms), 32)


def test_models_of_dipoles_have_no_energies(water):
    calc = SchNetCalculator(schnet(readout=DipoleReadout(16, magnitude=False)), unit="e·Å")
    for ask in (calc.get_hessian, calc.get_descriptors):
        with pytest.raises(PropertyNotImplementedError, match="predicts dipoles"):
            ask(water)
    with pytest.raises(ValueError, match="no structure yet"):
        SchNetCalculator(schnet(), unit="eV").get_hessian()

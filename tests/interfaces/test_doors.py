"""One structure, one model, all doors: what engines get is what the model says.

A door is a function of ``(atoms, model)`` that gives an :class:`Answer` in eV and Å, marked with what it can do. A
further engine adds its function here; the tests below walk through all of them.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from pyg_schnet import SchNet
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.neighbors import brute_radius_graph
from pyg_schnet.potential import Potential
from pyg_schnet.units import factor

CUTOFF = 4.0
EXACT, OWN_CONSTANTS = 1e-10, 1e-6  # relative; the second for engines with unit constants of their own


class Answer:
    """Energy in eV, forces in eV/Å ``[N, 3]``, stress in eV/Å³ ``[3, 3]`` or ``None`` where the engine has none."""

    def __init__(self, energy, forces, stress=None):
        self.energy, self.forces = float(energy), np.asarray(forces)
        self.stress = None if stress is None else np.asarray(stress).reshape(3, 3)


DOORS = {}


def door(name, tolerance=EXACT, slabs=True):
    """Add a door; ``slabs`` says whether the engine has directions without periodicity in a cell."""

    def add(function):
        function.tolerance, function.slabs = tolerance, slabs
        DOORS[name] = function
        return function

    return add


def the_model(seed=0, **options):
    """A network of random weights with large element energies, in float64."""
    torch.manual_seed(seed)
    model = SchNet(16, 16, 2, 12, CUTOFF, **options).double().eval()
    model.readout.set_references(torch.linspace(-300.0, 0.0, 100, dtype=torch.float64))
    return model


def shuffled(atoms, seed):
    """Atoms in another order, some of them outside of the cell."""
    random = np.random.default_rng(seed)
    atoms = atoms[random.permutation(len(atoms))]
    images = random.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    atoms.positions += images @ atoms.cell.array
    return atoms


def a_molecule():
    return shuffled(molecule("CH3CH2OH"), 0)


def a_crystal():
    """Five atoms of four elements; the lattice is left-handed, and in no standard orientation."""
    cell = [[1.4, 4.4, 0.5], [4.9, 0.3, -0.2], [-0.9, 1.1, 5.3]]
    scaled = [[0.02, 0.05, 0.01], [0.48, 0.31, 0.22], [0.71, 0.82, 0.40], [0.23, 0.66, 0.74], [0.85, 0.12, 0.91]]
    return shuffled(Atoms("TiO2SiC", scaled_positions=scaled, cell=cell, pbc=True), 1)


def a_slab():
    atoms = fcc111("Al", (2, 2, 2), vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.05, seed=1)
    atoms.numbers[::3] = 8
    return shuffled(atoms, 2)


def a_liquid():
    atoms = bulk("NaCl", "rocksalt", a=5.9, cubic=True) * (2, 2, 1)
    atoms.rattle(0.4, seed=3)
    atoms.set_cell(atoms.cell.array @ [[1.0, 0.05, 0.0], [0.0, 1.0, 0.02], [0.0, 0.0, 1.1]], scale_atoms=True)
    return shuffled(atoms, 3)


STRUCTURES = {"molecule": a_molecule, "crystal": a_crystal, "slab": a_slab, "liquid": a_liquid}


def by_brute_force(atoms, model):
    """Derivatives by autograd over a graph of all pairs and images, sharing no search with any door."""
    z, pos = torch.from_numpy(atoms.numbers.astype(np.int64)), torch.from_numpy(atoms.positions)
    lattice = {"cell": torch.from_numpy(atoms.cell.array)[None], "pbc": torch.from_numpy(atoms.pbc)[None]}
    graph = lattice if atoms.pbc.any() else {}
    edge_index, edge_shift = brute_radius_graph(pos, CUTOFF, **graph)
    graph = {**graph, "edge_index": edge_index, **({"edge_shift": edge_shift} if graph else {})}
    with_stress = bool(atoms.pbc.any())
    found = energy_forces_stress(model, z, pos, **graph, stress=with_stress, create_graph=True)
    found = [None if value is None else value.detach() for value in found]
    return Answer(found[0], found[1], found[2][0] if with_stress else None)


@door("python")
def by_potential(atoms, model):
    z, pos = torch.from_numpy(atoms.numbers.astype(np.int64)), torch.from_numpy(atoms.positions)
    lattice = {"cell": torch.from_numpy(atoms.cell.array)[None], "pbc": torch.from_numpy(atoms.pbc)[None]}
    with_stress = bool(atoms.pbc.any())
    lattice = lattice if atoms.pbc.any() else {}
    found = Potential(model, "eV")(z, pos, **lattice, stress=with_stress)
    return Answer(found.energy, found.forces, found.stress[0] if with_stress else None)


@door("ase")
def by_ase(atoms, model):
    atoms.calc = SchNetCalculator(model, unit="eV")
    stress = atoms.get_stress(voigt=False) if atoms.pbc.any() else None
    return Answer(atoms.get_potential_energy(), atoms.get_forces(), stress)


@door("torch-sim")
def by_torch_sim(atoms, model):
    torch_sim = pytest.importorskip("torch_sim")
    from pyg_schnet.interfaces.torchsim import TorchSimModel

    model = TorchSimModel(model, unit="eV", compute_stress=bool(atoms.pbc.any()))
    other = atoms.copy()
    other.positions += 0.01 * other.get_masses()[:, None]  # the first of the batch, so that indices are not all zero
    state = torch_sim.io.atoms_to_state([other, atoms], model.device, model.dtype)
    if isinstance(state.pbc, bool) and state.pbc != atoms.pbc.any():
        pytest.skip("this version of torch-sim has no directions of their own")
    found = model(state)
    return Answer(found["energy"][1], found["forces"][len(atoms) :], found["stress"][1] if "stress" in found else None)


def openmm_answer(atoms, make_system):
    """Energy and forces by OpenMM's reference platform, in its orientation of the cell and turned back."""
    import openmm
    from openmm import app, unit

    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in atoms.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    turn = np.eye(3)
    if atoms.pbc.any():
        box, turn = openmm_box(atoms.cell)
        topology.setPeriodicBoxVectors((0.1 * box).tolist() * unit.nanometer)
    system = make_system(topology)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(0.1 * atoms.positions @ turn)
    state = context.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return Answer(energy * factor("kJ/mol", "eV"), 0.1 * factor("kJ/mol", "eV") * forces @ turn.T)


def openmm_box(cell):
    """Box vectors in rows in OpenMM's reduced form, of the same lattice turned by a matrix (rows times it)."""
    a, b, c = cell.array if cell.handedness > 0 else cell.array[[1, 0, 2]]
    x = a / np.linalg.norm(a)
    y = b - (b @ x) * x
    y /= np.linalg.norm(y)
    turn = np.stack([x, y, np.cross(x, y)], axis=1)
    a, b, c = np.stack([a, b, c]) @ turn
    c = c - b * np.round(c[1] / b[1])
    c = c - a * np.round(c[0] / a[0])
    b = b - a * np.round(b[0] / a[0])
    return np.where(np.abs([a, b, c]) < 1e-12, 0.0, [a, b, c]), turn


@door("openmm")
def by_openmm(atoms, model):
    openmmml = pytest.importorskip("openmmml")
    from pyg_schnet.interfaces import SchNetPotentialFactory

    openmmml.MLPotential.registerImplFactory("pyg_schnet", SchNetPotentialFactory())
    potential = openmmml.MLPotential("pyg_schnet", model=model, unit="eV")
    return openmm_answer(atoms, potential.createSystem)


@door("openmm-ml's ase", OWN_CONSTANTS)
def by_openmm_ase(atoms, model):
    openmmml = pytest.importorskip("openmmml")
    calculator = SchNetCalculator(model, unit="eV")
    return openmm_answer(
        atoms, lambda topology: openmmml.MLPotential("ase").createSystem(topology, calculator=calculator)
    )


@door("i-pi", OWN_CONSTANTS)
def by_ipi(atoms, model, tmp_path="."):
    pytest.importorskip("ipi")
    from ipi.utils.units import unit_to_internal, unit_to_user

    from pyg_schnet.interfaces.ipi import SchNetDriver

    template = f"{tmp_path}/template.xyz"
    atoms.write(template, format="extxyz")
    driver = SchNetDriver(template, model, unit="eV")
    cell = unit_to_internal("length", "angstrom", atoms.cell.array.T)
    positions = unit_to_internal("length", "angstrom", atoms.positions)
    (first, *_), (energy, forces, virial, _) = driver([cell, cell], [positions + 0.03 * positions[::-1], positions])
    assert first != energy
    stress = -unit_to_user("energy", "electronvolt", virial) / atoms.get_volume() if atoms.pbc.any() else None
    if not atoms.pbc.any():
        assert not virial.any()
    return Answer(unit_to_user("energy", "electronvolt", energy), unit_to_user("force", "ev/ang", forces), stress)


def by_lammps(ranks, atoms, model):
    """By LAMMPS on ranks of MPI, in a process of its own; see lammps_door.py."""
    if not all(importlib.util.find_spec(name) for name in ("mpi4py", "lammps")):
        pytest.skip("needs the extra lammps")
    from tests.interfaces.test_lammps import mpiexec

    folder = Path.cwd()
    atoms.write(folder / "atoms.traj")
    file = model.save(folder / "model.safetensors", target="energy", unit="eV")
    done = mpiexec(ranks, Path(__file__).with_name("lammps_door.py"), "atoms.traj", file, "out.npz", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    found = np.load(folder / "out.npz")
    assert found["ranks"] == ranks
    return Answer(found["energy"], found["forces"], found["stress"] if atoms.pbc.all() else None)


@door("lammps, 1 rank")
def by_lammps_alone(atoms, model):
    return by_lammps(1, atoms, model)


@door("lammps, 2 ranks")
def by_lammps_on_two_ranks(atoms, model):
    return by_lammps(2, atoms, model)


@pytest.fixture(params=DOORS)
def one_door(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return DOORS[request.param]


@pytest.mark.parametrize("kind", STRUCTURES)
def test_all_doors_say_the_same(one_door, kind):
    atoms, model = STRUCTURES[kind](), the_model()
    if kind == "slab" and not one_door.slabs:
        pytest.skip("the engine has no slabs")
    expected = by_brute_force(atoms, model)
    answer = one_door(atoms.copy(), model)
    assert answer.energy == pytest.approx(expected.energy, rel=one_door.tolerance)
    np.testing.assert_allclose(
        answer.forces, expected.forces, rtol=0, atol=one_door.tolerance * abs(expected.forces).max()
    )
    if answer.stress is not None and expected.stress is not None:
        np.testing.assert_allclose(answer.stress, expected.stress, rtol=0, atol=1e-6 * abs(expected.stress).max())
        assert abs(expected.stress).max() > 1e-4


def test_the_structures_tell_doors_apart():
    # outside of their cells, in no order of elements, triclinic, with and without each boundary
    for kind, make in STRUCTURES.items():
        atoms = make()
        assert list(atoms.numbers) != sorted(atoms.numbers)
        assert (kind == "molecule") == (not atoms.pbc.any())
        if atoms.pbc.any():
            scaled = atoms.cell.scaled_positions(atoms.positions)[:, atoms.pbc]
            assert ((scaled < 0) | (scaled >= 1)).any()
            assert abs(atoms.cell.array - atoms.cell.array.T).max() > 0.1

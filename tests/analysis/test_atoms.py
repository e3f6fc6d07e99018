"""Atom energies against the ASE calculator, and locality against structures cut out one by one."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.neighborlist import neighbor_list

from pyg_schnet import DTNN, SchNet
from pyg_schnet.analysis import atom_contributions, locality
from pyg_schnet.interfaces import SchNetCalculator


def schnet(readout="sum", cutoff=3.0, **options):
    torch.manual_seed(0)
    model = SchNet(16, 16, 2, 12, cutoff, readout=readout, **options).double().eval()
    if readout in ("sum", "mean"):
        model.readout.set_references(torch.linspace(-300.0, 0.0, 100))
        model.readout.shift.fill_(-1.5)
    return model


@pytest.mark.parametrize("name", ["ethanol", "slab", "triclinic"])
def test_contributions_are_those_of_the_calculator(name, request):
    atoms, model = request.getfixturevalue(name), schnet()
    parts = atom_contributions(model, atoms, unit="eV")
    atoms.calc = SchNetCalculator(model, unit="eV")
    np.testing.assert_allclose(parts.energies, atoms.get_potential_energies(), rtol=1e-12)
    assert parts.energies.sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    assert parts.prediction == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    assert parts.pooling == "sum"
    np.testing.assert_allclose(parts.references, np.linspace(-300.0, 0.0, 100)[atoms.numbers], rtol=1e-6)
    model.readout.set_references(torch.zeros(100))
    atoms.calc = SchNetCalculator(model, unit="eV")
    np.testing.assert_allclose(parts.without_references, atoms.get_potential_energies(), rtol=1e-9)
    np.testing.assert_array_equal(parts.numbers, atoms.numbers)
    np.testing.assert_array_equal(parts.positions, atoms.positions)


def test_means_are_averages(triclinic):
    parts = atom_contributions(schnet("mean"), triclinic, unit="meV/atom")
    assert parts.pooling == "mean"
    assert parts.energies.mean() == pytest.approx(parts.prediction, rel=1e-12)
    triclinic.calc = SchNetCalculator(schnet("mean"), unit="meV/atom")
    assert 5 * parts.prediction == pytest.approx(triclinic.get_potential_energy(), rel=1e-12)


def test_units_are_converted(water):
    plain, scaled = (atom_contributions(schnet(), water, unit=unit) for unit in ("eV", "Hartree"))
    for name in ("energies", "references", "prediction", "without_references"):
        np.testing.assert_allclose(getattr(scaled, name), 27.211386245988 * getattr(plain, name), rtol=1e-12)


def test_other_models_of_the_package(water):
    torch.manual_seed(0)
    parts = atom_contributions(DTNN(8, 8), water, unit="eV")
    assert parts.energies.sum() == pytest.approx(parts.prediction, abs=1e-12)


def cut_out(atoms, center, radius):
    """The atom in the middle and all closer than the radius, images as atoms of their own; found by ASE."""
    i, j, vectors = neighbor_list("ijD", atoms, float(radius))
    mine = (i == center) & (np.linalg.norm(vectors, axis=1) < radius)
    numbers = [atoms.numbers[center], *atoms.numbers[j[mine]]]
    return Atoms(numbers, positions=np.concatenate([np.zeros((1, 3)), vectors[mine]]))


@pytest.mark.parametrize("name", ["ethanol", "slab", "small_cell"])
@pytest.mark.parametrize("max_atoms", [20_000, 30])
def test_locality_is_that_of_structures_cut_out(name, max_atoms, request):
    atoms, model = request.getfixturevalue(name), schnet()
    radii = [2.9, 1.15, 4.2]
    found = locality(model, atoms, radii, unit="eV", indices=[1, 0], max_atoms=max_atoms)
    calculator = SchNetCalculator(model, unit="eV")
    whole = calculator.get_potential_energies(atoms)
    np.testing.assert_allclose(found.energies, whole[[1, 0]], rtol=1e-12)
    for row, center in enumerate([1, 0]):
        for column, radius in enumerate(radii):
            cluster = cut_out(atoms, center, radius)
            assert found.n_neighbors[row, column] == len(cluster) - 1
            expected = calculator.get_potential_energies(cluster)[0] - whole[center]
            assert found.changes[row, column] == pytest.approx(expected, abs=1e-10)
    assert abs(found.changes).max() > 1e-4
    assert found.indices.tolist() == [1, 0]
    assert found.numbers.tolist() == atoms.numbers[[1, 0]].tolist()


@pytest.mark.parametrize("periodic", [False, True])
def test_an_atom_exactly_at_the_radius_is_removed(periodic):
    chain = Atoms("CNO", [[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [-2.5, 0.0, 0.0]], cell=[16.0, 16.0, 16.0], pbc=periodic)
    model = schnet()
    found = locality(model, chain, [1.5, 1.5000001, 2.5, 2.5000001], unit="eV", indices=[0])
    assert found.n_neighbors.tolist() == [[0, 1, 1, 2]]
    calculator = SchNetCalculator(model, unit="eV")
    whole, alone, pair = (calculator.get_potential_energies(chain[:n])[0] for n in (3, 1, 2))
    np.testing.assert_allclose(found.changes, [[alone - whole, pair - whole, pair - whole, 0.0]], atol=1e-9)
    assert abs(found.changes[0, :3]).min() > 1e-4


def test_nothing_acts_from_beyond_the_horizon(nacl):
    nacl.rattle(0.1, seed=1)
    found = locality(schnet(cutoff=3.2), nacl, unit="eV", indices=[0, 5])
    assert found.horizon == 2 * found.cutoff == 6.4
    beyond = found.radii >= found.horizon
    assert 0 < beyond.sum() < len(found.radii)
    assert abs(found.changes[:, beyond]).max() < 1e-12
    assert abs(found.changes[:, found.radii < 5.0]).max(axis=0).min() > 1e-8
    assert (np.diff(found.n_neighbors, axis=1) >= 0).all()
    assert abs(found.radii[1] - found.radii[0] - 0.25) < 1e-12


def test_a_molecule_is_whole_within_its_size():
    atoms = molecule("C6H6")
    found = locality(schnet(cutoff=8.0), atoms, unit="eV")
    assert found.changes.shape[0] == len(atoms)
    assert found.n_neighbors[:, -1].tolist() == [11] * 12
    assert abs(found.changes[:, -1]).max() < 1e-12
    assert found.radii[-1] < 6.0  # benzene is 5 Å across, although two interactions see 16 Å
    assert found.radii[0] == 0.25  # where no atom is left
    alone = SchNetCalculator(schnet(cutoff=8.0), unit="eV").get_potential_energies(Atoms("C"))[0]
    np.testing.assert_allclose(found.changes[:6, 0] + found.energies[:6], alone, rtol=1e-12)


def test_an_atom_by_itself_has_no_surroundings(isolated_atom):
    found = locality(schnet(), isolated_atom, unit="eV")
    assert not found.n_neighbors.any()
    assert not found.changes.any()


def test_normalised_convolutions_count_what_is_left(slab):
    model = schnet(window="hard", normalize=True)
    found = locality(model, slab, [3.1], unit="eV", indices=[0])
    calculator = SchNetCalculator(model, unit="eV")
    alone = calculator.get_potential_energies(cut_out(slab, 0, 3.1))[0]
    assert found.changes[0, 0] == pytest.approx(alone - calculator.get_potential_energies(slab)[0], abs=1e-10)


def test_means_have_the_locality_of_sums(small_cell):
    found = [
        locality(schnet(kind), small_cell, [2.0, 4.0], unit=unit).changes
        for kind, unit in (("sum", "eV"), ("mean", "eV/atom"))
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)


def test_bad_input_is_refused(water):
    for function in (atom_contributions, locality):
        with pytest.raises(ValueError, match="state it, for example unit="):
            function(schnet(), water)
        with pytest.raises(ValueError, match=r"energies \(SumReadout\)"):
            function(schnet("dipole"), water, unit="D")
        with pytest.raises(TypeError, match=f"{function.__name__} needs a model of this package, got function"):
            function(lambda z, pos, batch: pos, water, unit="eV")
    with pytest.raises(ValueError, match="radii must be positive"):
        locality(schnet(), water, [0.0, 1.0], unit="eV")
    with pytest.raises(IndexError):
        locality(schnet(), water, indices=[3], unit="eV")

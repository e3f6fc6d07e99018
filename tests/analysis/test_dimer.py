"""Dimer scans against Morse curves, and against the ASE calculator distance by distance."""

import numpy as np
import pytest
import torch
from ase import Atoms

from pyg_schnet import SchNet
from pyg_schnet.analysis import dimer_scan
from pyg_schnet.interfaces import SchNetCalculator


def schnet(seed=0, **options):
    torch.manual_seed(seed)
    model = SchNet(16, 16, 2, 12, 4.0, **options).double().eval()
    model.readout.set_references(torch.linspace(-30.0, 0.0, 100) * (seed + 1))
    return model


def morse(depth, width=1.9, length=1.3):
    """Energy in eV of pairs of atoms, each atom having -5 eV by itself."""

    def energy(z, pos, batch):
        alone = torch.zeros(int(batch.max()) + 1, dtype=pos.dtype).index_add_(
            0, batch, torch.full_like(pos[:, 0], -5.0)
        )
        if len(alone) == len(z):  # one atom in each structure
            return alone
        stretch = torch.exp(-width * ((pos[1::2] - pos[::2]).norm(dim=1) - length))
        return alone + depth * (stretch**2 - 2 * stretch)

    return energy


def test_morse_curves():
    distances = np.linspace(0.9, 5.0, 30)
    depths = [4.0, 5.0, 7.5]
    scan = dimer_scan([morse(depth) for depth in depths], "C", "C", distances, unit="eV", reference="atoms")
    stretch = np.exp(-1.9 * (distances - 1.3))
    shape, slope = stretch**2 - 2 * stretch, -1.9 * 2 * (stretch**2 - stretch)
    np.testing.assert_allclose(scan.energies, np.outer(depths, shape), atol=1e-12)
    np.testing.assert_allclose(scan.forces, -np.outer(depths, slope), atol=1e-12)
    np.testing.assert_allclose(scan.references, -10.0)
    np.testing.assert_allclose(scan.energy, 5.5 * shape, atol=1e-12)
    deviation = np.sqrt(np.mean([(depth - 5.5) ** 2 for depth in depths]))
    np.testing.assert_allclose(scan.energy_std, deviation * abs(shape), atol=1e-12)
    np.testing.assert_allclose(scan.force, -5.5 * slope, atol=1e-12)
    np.testing.assert_allclose(scan.force_std, deviation * abs(slope), atol=1e-12)
    assert scan.elements == ("C", "C")


def test_forces_are_positive_where_atoms_repel():
    scan = dimer_scan(morse(5.0), "C", "C", [1.0, 1.3, 2.0], unit="eV")
    assert scan.force[0] > 1.0
    assert scan.force[1] == pytest.approx(0.0, abs=1e-12)
    assert scan.force[2] < -1.0
    assert scan.energies.shape == (1, 3)
    assert not scan.energy_std.any()


def test_an_ensemble_is_that_of_the_calculator():
    models, distances = [schnet(seed) for seed in range(3)], [1.1, 2.5, 3.9, 4.5]
    scan = dimer_scan(models, "C", "O", distances, unit="eV")
    for k, model in enumerate(models):
        atoms = Atoms("CO", positions=np.zeros((2, 3)))
        atoms.calc = SchNetCalculator(model, unit="eV")
        for d, distance in enumerate(distances):
            atoms.positions[1] = [0.6 * distance, 0.0, 0.8 * distance]
            energy = atoms.get_potential_energy() - scan.references[k]
            assert scan.energies[k, d] == pytest.approx(energy, abs=1e-10)
            along = atoms.get_forces()[1] @ [0.6, 0.0, 0.8]
            assert scan.forces[k, d] == pytest.approx(along, abs=1e-10)


def test_references():
    model, distances = schnet(), [5.0, 1.1, 3.0]
    separated = dimer_scan(model, "C", "O", distances, unit="eV")
    assert separated.reference == "separated"
    assert separated.energies[0, 0] == 0.0
    isolated = dimer_scan(model, "C", "O", distances, unit="eV", reference="atoms")
    np.testing.assert_allclose(isolated.energies, separated.energies, atol=1e-12)  # 5 Å are beyond the cutoff
    energies = []
    for symbol in "CO":
        atoms = Atoms(symbol, calculator=SchNetCalculator(model, unit="eV"))
        energies.append(atoms.get_potential_energy())
    assert isolated.references[0] == pytest.approx(sum(energies), rel=1e-12)
    near = dimer_scan(model, "C", "O", [1.1, 3.0], unit="eV")
    assert near.references[0] != pytest.approx(isolated.references[0], abs=1e-6)


def test_units_and_means():
    plain = dimer_scan(schnet(), "C", "C", [1.2, 3.0], unit="eV")
    scaled = dimer_scan(schnet(), "C", "C", [1.2, 3.0], unit="kcal/mol")
    np.testing.assert_allclose(scaled.energies, 0.0433641039 * plain.energies, rtol=1e-8)
    mean = dimer_scan(schnet(readout="mean"), "C", "C", [1.2, 3.0], unit="eV/atom")
    np.testing.assert_allclose(mean.energies, plain.energies, rtol=1e-9)
    np.testing.assert_allclose(mean.references, plain.references, rtol=1e-12)
    np.testing.assert_allclose(mean.forces, plain.forces, rtol=1e-9)


def test_default_distances_end_beyond_common_bonds():
    scan = dimer_scan(morse(5.0), "H", "H", unit="eV")
    assert scan.distances[0] == 0.8
    assert scan.distances[-1] == 6.0
    np.testing.assert_allclose(np.diff(scan.distances), 0.02, rtol=1e-9)


@pytest.mark.parametrize(
    ("models", "elements", "options", "message"),
    [
        ([], ("C", "C"), {}, "models is empty"),
        (morse(5.0), ("C", "Qq"), {}, "chemical symbols of two elements, got 'Qq'"),
        (morse(5.0), ("X", "C"), {}, "got 'X'"),
        (morse(5.0), ("C", "C"), {"distances": [1.0, 0.0]}, "distances must be positive"),
        (morse(5.0), ("C", "C"), {"distances": []}, "distances must be positive"),
        (morse(5.0), ("C", "C"), {"reference": "zero"}, "reference must be 'separated'"),
    ],
)
def test_bad_input_is_refused(models, elements, options, message):
    with pytest.raises(ValueError, match=message):
        dimer_scan(models, *elements, unit="eV", **options)

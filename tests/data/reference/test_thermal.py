"""Displacements have the statistics of the canonical ensemble of their model, and nearly that of GFN2-xTB."""

import numpy as np
import pytest
from ase.build import molecule
from ase.units import kB

from pyg_schnet.data.reference import Method, ThermalModel


def model_of(name):
    atoms = molecule(name)
    return ThermalModel(atoms.numbers, atoms.positions)


def energies_of(model, positions):
    """Energies of the model in eV."""
    change = model.internal.difference(model.internal.values(positions), model.reference)
    return 0.5 * (model.constants * change**2).sum(-1)


def test_hessian_is_the_second_derivative_of_the_energy():
    model = model_of("CH3CH2OH")
    size, h = model.positions.size, 1e-3
    steps = h * np.eye(size).reshape(size, *model.positions.shape)
    found = np.zeros((size, size))
    for first in (1.0, -1.0):
        for second in (1.0, -1.0):
            moved = model.positions + first * steps[:, None] + second * steps
            found += first * second * energies_of(model, moved) / (4 * h**2)
    np.testing.assert_allclose(found, model.hessian, atol=1e-3 * np.abs(model.hessian).max())


@pytest.mark.parametrize("name", ["H2O", "HCN"])
def test_straight_displacements_have_the_covariance_of_the_ensemble(name):
    model, temperature = model_of(name), 400.0
    moves = model.straight(np.full(40_000, temperature), np.random.default_rng(0)).reshape(40_000, -1)
    expected = kB * temperature * np.linalg.pinv(model.hessian, rcond=1e-8)
    np.testing.assert_allclose(moves.T @ moves / len(moves), expected, atol=0.03 * np.abs(expected).max())
    np.testing.assert_allclose(moves.mean(0), 0.0, atol=4 * np.sqrt(np.abs(expected).max() / len(moves)))
    energies = 0.5 * np.einsum("fi,ij,fj->f", moves, model.hessian, moves)
    vibrations = 3 * model.positions.shape[0] - (5 if name == "HCN" else 6)
    assert energies.mean() == pytest.approx(0.5 * vibrations * kB * temperature, rel=0.02)
    assert energies.var() == pytest.approx(0.5 * vibrations * (kB * temperature) ** 2, rel=0.05)


@pytest.mark.parametrize(("temperature", "tolerance"), [(100.0, 0.06), (600.0, 0.12)])
def test_curved_displacements_have_its_energy(temperature, tolerance):
    model = model_of("CH3CONH2")
    moved = model.displaced(np.full(1500, temperature), np.random.default_rng(0))
    expected = 0.5 * (3 * len(moved[0]) - 6) * kB * temperature
    assert energies_of(model, moved).mean() == pytest.approx(expected, rel=tolerance)


def test_bonds_keep_their_length_where_a_part_turns():
    model, random = model_of("CH3CH2OH"), np.random.default_rng(0)
    bonds = len(model.topology.bonds)
    temperature = np.full(600, 1000.0)
    curved = model.internal.values(model.displaced(temperature, random))[:, :bonds].mean(0)
    straight = model.internal.values(model.positions + model.straight(temperature, random))[:, :bonds].mean(0)
    reference = model.reference[:bonds]
    assert np.abs(curved - reference).max() < 0.012
    assert (straight - reference).max() > 3 * (curved - reference).max()


def test_each_frame_has_its_temperature():
    model = model_of("CH3CH2OH")
    moved = model.displaced(np.repeat([100.0, 900.0], 300), np.random.default_rng(1))
    cold, hot = energies_of(model, moved).reshape(2, 300).mean(1)
    assert hot / cold == pytest.approx(9.0, rel=0.1)


def test_wanted_coordinates_are_found():
    model = model_of("H2O")
    wanted = model.reference + np.array([0.05, -0.03, 0.1])
    found = model.with_coordinates(wanted[None], model.positions[None])
    np.testing.assert_allclose(model.internal.values(found)[0], wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["CH3CH2OH", "CH3CONH2", "C6H6"])
def test_energies_are_nearly_those_of_gfn2(name):
    pytest.importorskip("tblite")
    from pyg_schnet.data.reference.relaxation import relaxed

    atoms = molecule(name)
    evaluate = Method().of(atoms.numbers)
    way, converged = relaxed(evaluate, atoms.positions, ThermalModel(atoms.numbers, atoms.positions).hessian)
    assert converged
    assert len(way) < 50
    model = ThermalModel(atoms.numbers, way[-1].positions)
    moved = model.displaced(np.full(24, 300.0), np.random.default_rng(0))
    excess = np.mean([evaluate(one)[0] for one in moved]) - way[-1].energy
    assert excess / (0.5 * (3 * len(atoms) - 6) * kB * 300.0) == pytest.approx(1.0, abs=0.3)

import copy

import pytest
import torch
from ase.build import molecule
from torch import nn

from pyg_schnet import DTNN, SchNet
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.engine.freeze import freeze

Z, POS = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


@pytest.mark.parametrize("cls", [SchNet, DTNN])
def test_a_frozen_copy_gives_the_same(cls):
    torch.manual_seed(0)
    model = cls(16, 16, 2, 20, 4.0)
    frozen = freeze(model)
    assert model.training
    assert not frozen.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    found, expected = energy_forces_stress(frozen, Z, POS), energy_forces_stress(model.eval(), Z, POS)
    torch.testing.assert_close(found.energy, expected.energy)
    torch.testing.assert_close(found.forces, expected.forces)


def test_any_module():
    frozen = freeze(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert not frozen.training
    assert not frozen.model[0].weight.requires_grad


def test_precision_and_modes_may_change():
    frozen = freeze(SchNet(16, 16, 2, 20, 4.0))
    single = energy_forces_stress(frozen, Z, POS)
    double = energy_forces_stress(frozen.double(), Z, POS.double())
    assert double.energy.dtype == torch.float64
    torch.testing.assert_close(double.energy.float(), single.energy)
    with torch.no_grad():
        frozen.readout.network.lin2.bias.data += 1.0
        frozen.eval()  # looks once
    torch.testing.assert_close(energy_forces_stress(frozen, Z, POS.double()).energy, double.energy + 3.0)


def test_copies_are_frozen_as_well():
    frozen = copy.deepcopy(freeze(SchNet(16, 16, 2, 20, 4.0)))
    before = frozen(Z, POS), energy_forces_stress(frozen, Z, POS).energy
    frozen.interactions[0].lin1.weight.data[0, 0] += 1.0
    assert torch.equal(frozen(Z, POS), before[0])
    assert torch.equal(energy_forces_stress(frozen, Z, POS).energy, before[1])


def test_calculators_own_one():
    atoms, model = molecule("H2O"), SchNet(16, 16, 2, 20, 4.0)
    atoms.calc = SchNetCalculator(model, unit="eV")
    energy = atoms.get_potential_energy()
    model.readout.network.lin2.bias.data += 1.0
    atoms.calc.reset()
    assert atoms.get_potential_energy() == energy
    atoms.calc = SchNetCalculator(model, unit="eV")
    assert atoms.get_potential_energy() == pytest.approx(energy + 3.0)

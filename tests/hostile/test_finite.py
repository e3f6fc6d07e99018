"""Weights, predictions and labels that are NaN or infinite stop with a sentence, and frozen models mix no weights."""

import copy
import math
import pickle

import pytest
import torch
from ase import Atoms

from pyg_schnet import SchNet
from pyg_schnet.engine import freeze
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.nn import DipoleReadout
from pyg_schnet.ops.checks import check_finite
from pyg_schnet.potential import Potential

Z = torch.tensor([8, 1, 1])
POS = torch.tensor([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
WATER = Atoms("OHH", POS.numpy())


def make(readout="sum", unit="eV"):
    torch.manual_seed(0)
    model = SchNet(16, 16, 2, 20, 4.0, readout).eval()
    model.card.update(unit=unit)
    return model


def spoil(model, name, value=math.nan):
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] = value
    return model


NAMES = ("embedding.weight", "interactions.1.lin2.bias", "readout.network.lin2.weight", "readout.scale")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("door", [Potential, SchNetCalculator, lambda model: Potential(freeze(model))])
def test_weights(door, value, name):
    message = rf"the model has a weight that is not finite: 1 of \d+ numbers of {name} are NaN or infinite"
    with pytest.raises(ValueError, match=message):
        door(spoil(make(), name, value))


def test_weights_of_other_packages():
    theirs = like_pyg.SchNet(8, 8, 1, 8, 4.0)
    spoil(theirs, "lin1.weight")
    with pytest.raises(ValueError, match="the model of PyTorch Geometric has a weight that is not finite"):
        SchNet.from_pyg(theirs)


def test_large_weights_are_finite():
    check_finite([("large", torch.full((4,), 3e38)), ("whole", torch.tensor([1])), ("none", torch.empty(0))])


NOT_FINITE = {
    "energy": lambda z, pos, batch: (pos * math.nan).sum().view(1),
    "infinity": lambda z, pos, batch: (1.0 / (pos[0] - pos[0]).square().sum()).view(1),
    "slope": lambda z, pos, batch: (pos[0] - pos[0]).square().sum().sqrt().view(1),
}


@pytest.mark.parametrize("energy", NOT_FINITE)
def test_predictions_of_potentials(energy):
    what = "forces" if energy == "slope" else "energy"
    with pytest.raises(ValueError, match=rf"the {what} predicted by the model is not finite \(\d of \d numbers\)"):
        Potential(NOT_FINITE[energy], "eV")(Z, POS)


def test_predictions_of_energies_alone():
    with pytest.raises(ValueError, match="the energy predicted by the model is not finite"):
        Potential(NOT_FINITE["energy"], "eV").energy(Z, POS)
    with pytest.raises(ValueError, match=r"the model must return energies, \[B\] or \[B, 1\]; got a float"):
        Potential(lambda *_: 1.0, "eV").energy(Z, POS)


@pytest.mark.parametrize("property", ["energy", "forces", "energies"])
def test_predictions_of_calculators(property):
    calculator = SchNetCalculator(make())
    spoil(calculator.members.models[0], "model.readout.network.lin2.bias")
    calculator.members.models[0].eval()
    with pytest.raises(ValueError, match="predicted by the model is not finite"):
        calculator.calculate(WATER, [property])


def test_dipoles_of_calculators():
    calculator = SchNetCalculator(make(DipoleReadout(16, magnitude=False), "e·Å"))
    spoil(calculator.members.models[0], "model.readout.network.lin2.bias")
    with pytest.raises(ValueError, match="the dipole predicted by the model is not finite"):
        calculator.calculate(WATER, ["dipole"])


def doubled(model):
    return {name: 1.5 * value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_frozen_models_take_given_weights_whole(copied):
    model = make()
    frozen, before = copied(freeze(model)), freeze(model)(Z, POS)
    expected = torch.func.functional_call(model, doubled(model), (Z, POS))
    found = torch.func.functional_call(frozen, doubled(frozen), (Z, POS))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(frozen(Z, POS), before, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, before, rtol=1e-2)


def test_frozen_models_take_some_weights():
    model, name = make(), "interactions.0.conv.filter_network.lin1.weight"
    frozen = freeze(model)
    changed = {name: 2.0 * model.get_parameter(name).detach()}
    expected = torch.func.functional_call(model, changed, (Z, POS))
    found = torch.func.functional_call(frozen, {f"model.{name}": changed[name]}, (Z, POS))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_with_respect_to_given_weights():
    model = make()
    frozen, name = freeze(model), "interactions.0.conv.filter_network.lin1.weight"

    def energy(weight, owner, prefix):
        return torch.func.functional_call(owner, {f"{prefix}{name}": weight}, (Z, POS)).sum()

    weight = model.get_parameter(name).detach().clone()
    found, expected = (torch.func.grad(energy)(weight, *owner) for owner in ((frozen, "model."), (model, "")))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert expected.abs().max() > 1e-3


def test_exchanged_weights_of_frozen_models_are_seen():
    frozen = freeze(make())
    before = frozen(Z, POS)
    frozen.model.embedding.weight = torch.nn.Parameter(2.0 * frozen.model.embedding.weight.detach())
    after = frozen(Z, POS)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, freeze(copy.deepcopy(frozen.model))(Z, POS), rtol=1e-4, atol=1e-4)

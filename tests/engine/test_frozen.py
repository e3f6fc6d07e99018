import copy
import gc
import pickle

import pytest
import torch
from ase.build import molecule
from torch import nn
from torch.export import Dim, export

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet.derivatives import energy_forces_stress, hessian
from pyg_schnet.engine import cache
from pyg_schnet.engine.frozen import FrozenModel, freeze
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.nn import GaussianBasis

from .models import F64, POS, make
from .models import Z as ATOMS

Z, SHORT = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


@pytest.mark.parametrize("cls", [SchNet, DTNN])
def test_a_frozen_copy_gives_the_same(cls):
    torch.manual_seed(0)
    model = cls(16, 16, 2, 20, 4.0)
    frozen = freeze(model)
    assert model.training
    assert not frozen.training
    assert not any(module.training for module in frozen.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    found, expected = energy_forces_stress(frozen, Z, SHORT), energy_forces_stress(model.eval(), Z, SHORT)
    torch.testing.assert_close(found.energy, expected.energy)
    torch.testing.assert_close(found.forces, expected.forces)
    torch.testing.assert_close(frozen(Z, SHORT), model(Z, SHORT))


def test_attributes_are_those_of_the_copy():
    model = make()
    model.card = {"unit": "eV"}
    frozen = freeze(model)
    assert (frozen.cutoff, frozen.card) == (4.0, {"unit": "eV"})
    assert frozen.readout is frozen.model.readout is not model.readout
    assert len(frozen.blocks()) == 3
    assert not hasattr(frozen, "nothing")
    assert freeze(frozen).model is not frozen.model
    assert type(freeze(frozen).model) is SchNet


def test_any_module_and_function():
    frozen = freeze(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert not frozen.training
    assert not frozen.model[0].weight.requires_grad
    assert frozen(torch.ones(1, 2)).shape == (1, 2)
    assert frozen.energy_and_gradients(Z, SHORT) is None
    spring = freeze(lambda z, pos, batch: (pos[1] - pos[0]).square().sum().view(1))
    assert energy_forces_stress(spring, Z, SHORT).forces.shape == (3, 3)
    assert spring.double().train() is spring
    with pytest.raises(ValueError, match="is gone, or was no module; freeze the model again"):
        spring.refresh()


def test_nothing_is_watched(monkeypatch):
    frozen = freeze(make())
    first = energy_forces_stress(frozen, ATOMS, POS), frozen(ATOMS, POS)
    monkeypatch.setattr(cache.ModuleSnapshot, "is_unchanged", lambda *_: pytest.fail("parts are looked at"))
    monkeypatch.setattr(cache.VersionedCache, "get", lambda *_: pytest.fail("weights are looked at"))
    assert torch.equal(energy_forces_stress(frozen, ATOMS, POS).energy, first[0].energy)
    assert torch.equal(frozen(ATOMS, POS), first[1])


def exact(model):
    twin = copy.deepcopy(model)
    twin.filters = "exact"
    return twin


def test_tables_are_computed_again_in_another_precision():
    model = make(dtype=torch.float32)
    frozen = freeze(model)
    tables = [block.conv.table for block in frozen.interactions]
    assert {(table.dtype, len(table)) for table in tables} == {
        (torch.float32, model.interactions[0].conv.spline.num_grid_points + 2)
    }
    names = {name for name, _ in frozen.named_buffers()}
    assert {f"model.interactions.{k}.conv.table" for k in range(3)} <= names
    single = energy_forces_stress(frozen, ATOMS, POS.float())
    double = energy_forces_stress(frozen.double(), ATOMS, POS)
    expected = energy_forces_stress(copy.deepcopy(model).double(), ATOMS, POS)
    torch.testing.assert_close(double.energy, expected.energy, rtol=1e-13, atol=0)
    torch.testing.assert_close(double.forces, expected.forces, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(double.energy.float(), single.energy)
    assert {block.conv.table.dtype for block in frozen.interactions} == {F64}
    back = energy_forces_stress(frozen.float(), ATOMS, POS.float())
    torch.testing.assert_close(back.energy, single.energy)
    assert frozen.to("meta").interactions[0].conv.table.device.type == "meta"


def test_element_energies_stay_in_float64():
    model = make()
    model.readout.atomref[8] = -2041.840123456789
    frozen = freeze(model).float()
    assert frozen.readout.atomref.dtype == F64
    assert frozen.readout.atomref[8].item() == -2041.840123456789
    assert frozen.embedding.weight.dtype == torch.float32
    assert energy_forces_stress(frozen, ATOMS, POS.float()).energy.dtype == torch.float32
    assert frozen.plan(ATOMS, POS.float(), forces=True).program == "potential"
    expected = energy_forces_stress(model, ATOMS, POS).energy.float()
    torch.testing.assert_close(energy_forces_stress(frozen, ATOMS, POS.float()).energy, expected, rtol=2e-7, atol=0)
    torch.testing.assert_close(frozen(ATOMS, POS.float())[:, 0], expected, rtol=2e-7, atol=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda frozen: pickle.loads(pickle.dumps(frozen))])
def test_copies_are_frozen_as_well(copied):
    model = make()
    frozen = copied(freeze(model))
    before = frozen(ATOMS, POS), energy_forces_stress(frozen, ATOMS, POS).energy
    frozen.interactions[0].lin1.weight.data[0, 0] += 1.0
    assert torch.equal(frozen(ATOMS, POS), before[0])
    assert torch.equal(energy_forces_stress(frozen, ATOMS, POS).energy, before[1])
    torch.testing.assert_close(before[0], model(ATOMS, POS), rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match="is gone, or was no module; freeze the model again"):
        frozen.refresh()


def test_modes_look_once_at_its_own_weights():
    frozen = freeze(SchNet(16, 16, 2, 20, 4.0))
    before = energy_forces_stress(frozen, Z, SHORT).energy
    frozen.readout.network.lin2.bias.data += 1.0
    assert not frozen.train().training
    torch.testing.assert_close(energy_forces_stress(frozen, Z, SHORT).energy, before + 3.0)
    table = frozen.interactions[0].conv.table.clone()
    frozen.interactions[0].conv.filter_network.lin2.bias.data += 1.0
    frozen.eval()
    assert not torch.equal(frozen.interactions[0].conv.table, table)


CHANGES = {
    "weight": lambda model: model.interactions[1].lin2.bias.data.add_(0.3),
    "filters": lambda model: model.interactions[1].conv.filter_network.lin1.weight.data.mul_(1.1),
    "hook": lambda model: model.interactions[1].lin1.register_forward_hook(lambda module, args, out: 2.0 * out),
    "exact": lambda model: setattr(model, "filters", "exact"),
    "references": lambda model: model.readout.atomref.add_(1.0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_refresh_takes_over_later_edits(dtype, change):
    model = make()
    frozen, pos = freeze(model).to(dtype), POS.to(dtype)
    before = energy_forces_stress(frozen, ATOMS, pos)
    CHANGES[change](model)
    assert torch.equal(energy_forces_stress(frozen, ATOMS, pos).energy, before.energy)
    assert frozen.refresh() is frozen
    found, expected = energy_forces_stress(frozen, ATOMS, pos), energy_forces_stress(model, ATOMS, POS)
    assert found.energy.dtype == dtype
    tolerance = 1e-12 if dtype == F64 else 1e-4
    torch.testing.assert_close(found.energy.to(F64), expected.energy, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.forces.to(F64), expected.forces, rtol=tolerance, atol=tolerance)
    assert model.interactions[0].conv.table is None


def test_models_that_are_gone_cannot_be_taken_over():
    frozen = freeze(make())
    gc.collect()
    with pytest.raises(ValueError, match="is gone, or was no module; freeze the model again"):
        frozen.refresh()
    assert frozen(ATOMS, POS).shape == (1, 1)


def test_derivatives_of_any_order():
    model = make()
    frozen = freeze(model)
    torch.testing.assert_close(hessian(frozen, ATOMS, POS), hessian(model, ATOMS, POS), rtol=1e-9, atol=1e-9)
    slopes = torch.func.grad(lambda pos: frozen(ATOMS, pos).sum())(POS)
    torch.testing.assert_close(slopes, -energy_forces_stress(model, ATOMS, POS).forces, rtol=1e-9, atol=1e-9)


def is_splined(found, model, pos):
    """Whether energies are those of the splined filters, or of the exact ones."""
    splined, plain = model(ATOMS, pos), exact(model)(ATOMS, pos)
    assert (splined - plain).abs().max() > 1e-7
    nearer = bool((found - splined).abs().max() < (found - plain).abs().max())
    torch.testing.assert_close(found, splined if nearer else plain, rtol=1e-12, atol=1e-12)
    return nearer


@pytest.mark.parametrize("live", [False, True])
def test_compiled_programs_have_the_same_filters(live):
    model = make(num_grid_points=25)  # so few that it is seen
    one, index = model if live else freeze(model), radius_graph(POS, 4.0)
    compiled = torch.compile(one, backend="eager", fullgraph=True)
    assert is_splined(compiled(ATOMS, POS, edge_index=index, batch_size=1), model, POS)


class Called(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, z, pos, edge_index):
        return self.model(z, pos, edge_index=edge_index, batch_size=1)


@pytest.mark.parametrize("live", [False, True])
def test_exported_programs_of_frozen_models_have_the_same_filters(live):
    model, index = make(num_grid_points=25), radius_graph(POS, 4.0)
    one = model.requires_grad_(False) if live else freeze(model)
    shapes = {"z": {0: Dim("N")}, "pos": {0: Dim("N")}, "edge_index": {1: Dim("E")}}
    exported = export(Called(one), (ATOMS, POS, index), dynamic_shapes=shapes)
    assert is_splined(exported.module()(ATOMS, POS, index), model, POS) != live
    tables = [name for name in exported.constants if name.endswith("table")]
    assert len(tables) == (0 if live else 3)


def test_parts_that_are_no_standard_parts_are_called():
    model = make()
    model.interactions[1].conv.filter_network.basis = GaussianBasis(20, 4.0, trainable=True).to(F64)
    model.interactions[2].conv.filter_network.act.register_forward_hook(lambda module, args, out: 2.0 * out)
    frozen = freeze(model)
    assert [block.conv.table is None for block in frozen.interactions] == [False, True, True]
    found, expected = energy_forces_stress(frozen, ATOMS, POS), energy_forces_stress(model, ATOMS, POS)
    torch.testing.assert_close(found.forces, expected.forces, rtol=1e-12, atol=1e-12)


def test_calculators_own_one():
    atoms, model = molecule("H2O"), SchNet(16, 16, 2, 20, 4.0)
    atoms.calc = SchNetCalculator(model, unit="eV")
    energy = atoms.get_potential_energy()
    model.readout.network.lin2.bias.data += 1.0
    atoms.calc.reset()
    assert atoms.get_potential_energy() == energy
    atoms.calc = SchNetCalculator(model, unit="eV")
    assert atoms.get_potential_energy() == pytest.approx(energy + 3.0)
    assert isinstance(freeze(model), FrozenModel)


def test_what_is_loaded_into_a_frozen_model_is_computed_with():
    torch.manual_seed(0)
    given, other = freeze(SchNet(16, 16, 2, 20, 4.0)), freeze(SchNet(16, 16, 2, 20, 4.0))
    expected = energy_forces_stress(given, Z, SHORT)
    whole = nn.ModuleDict({"inner": copy.deepcopy(other)})
    for module, prefix, frozen in ((other, "", other), (whole, "inner.", whole["inner"])):
        energy_forces_stress(frozen, Z, SHORT)
        module.load_state_dict({prefix + name: value for name, value in given.state_dict().items()})
        found = energy_forces_stress(frozen, Z, SHORT)
        torch.testing.assert_close(found.energy, expected.energy)
        torch.testing.assert_close(found.forces, expected.forces)
        torch.testing.assert_close(pickle.loads(pickle.dumps(frozen))(Z, SHORT), given(Z, SHORT))


class Doubled(FrozenModel):
    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


def test_what_is_changed_on_the_frozen_model_itself_is_called():
    model = make()
    expected = 2 * energy_forces_stress(freeze(model), ATOMS, POS).forces
    hooked, overridden = freeze(model), freeze(model)
    hooked.register_forward_hook(lambda module, inputs, out: 2 * out)
    overridden.forward = lambda *args, **kwargs: 2 * overridden.model(*args, **kwargs)
    for frozen in (hooked, overridden, Doubled(model)):
        torch.testing.assert_close(energy_forces_stress(frozen, ATOMS, POS).forces, expected)

"""What is kept of a model: nothing is computed again for nothing, and every change is seen."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pyg_schnet.engine import cache
from pyg_schnet.engine.cache import Blocks, ModelCache, ModuleSnapshot

from .models import F64, POS, Z, assert_right, make


@pytest.fixture
def packed(monkeypatch):
    """Number of times that weights were packed."""
    calls, pack = [], Blocks.pack
    monkeypatch.setattr(Blocks, "pack", lambda self: calls.append(1) or pack(self))
    return calls


def evaluate(model):
    model.energy_and_gradients(Z, POS)
    with torch.no_grad():
        model(Z, POS)
    model(Z, POS)


def test_one_packing_serves_all_programs(packed):
    model = make()
    for _ in range(3):
        evaluate(model)
    assert len(packed) == 1
    model.train()
    evaluate(model)
    assert len(packed) == 1
    evaluate(model.eval())
    assert len(packed) == 2


def in_inference_mode(model):
    with torch.inference_mode():
        model.embedding.weight.add_(0.1)


def through_numpy(model):
    model.readout.scale.numpy()[:] *= 1.1


CHANGES = {
    "in place": lambda m: nn.init.normal_(m.interactions[0].lin_in.weight),
    "data": lambda m: m.interactions[2].lin2.bias.data.add_(0.1),
    "one element of data": lambda m: m.embedding.weight.data[6].view(-1)[3:4].add_(1e-3),
    "other data": lambda m: setattr(m.readout.shift, "data", m.readout.shift.data + 1.0),
    "numpy": through_numpy,
    "inference mode": in_inference_mode,
    "another parameter": lambda m: setattr(
        m.readout.network.lin1, "weight", nn.Parameter(1.1 * m.readout.network.lin1.weight.data)
    ),
    "centres": lambda m: m.interactions[1].conv.filter_network.basis.centers.data.add_(0.05),
    "gamma": lambda m: [setattr(block.conv.filter_network.basis, "gamma", 3.0) for block in m.interactions],
    "activation of filters": lambda m: [
        setattr(b.conv.filter_network, "activate_filters", False) for b in m.interactions
    ],
    "references": lambda m: m.readout.set_references(torch.arange(100.0)),
    "a block twice": lambda m: m.interactions.append(m.interactions[0]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(change, packed):
    model = make()
    evaluate(model)
    before = model(Z, POS).detach()
    CHANGES[change](model)
    assert not torch.allclose(model(Z, POS), before, rtol=1e-9)
    assert_right(model)
    calls = len(packed)
    assert calls > 1
    evaluate(model)
    assert len(packed) == calls


def test_copies_start_empty(packed):
    model = make()
    evaluate(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin._engine._facts is None
        calls = len(packed)
        evaluate(twin)
        assert len(packed) == calls + 1
        twin.interactions[0].lin1.weight.data[0, 0] += 1.0
        assert not torch.allclose(twin(Z, POS), model(Z, POS), rtol=1e-9)
    assert copy.deepcopy(ModelCache(detect_changes=False)).detect_changes is False


def test_weights_of_inference_mode(packed):
    with torch.inference_mode():
        model = make()
        before = model(Z, POS)
        assert torch.equal(model(Z, POS), before)
        assert len(packed) == 1
        model.embedding.weight[6, 0] += 1.0
        assert not torch.allclose(model(Z, POS), before, rtol=1e-9)


def test_a_training_step_looks_once_at_the_parts(monkeypatch):
    model, looks = make().train(), []
    model(Z, POS)
    look = ModuleSnapshot.is_unchanged
    monkeypatch.setattr(ModuleSnapshot, "is_unchanged", lambda self: looks.append(1) or look(self))
    monkeypatch.setattr(cache.Facts, "of", lambda *_: pytest.fail("found out again"))
    model(Z, POS).sum().backward()
    assert len(looks) == 1


@pytest.mark.parametrize(
    "part", ["interactions.1.conv", "readout.network.lin1", "interactions.2.conv.filter_network.act"]
)
def test_snapshots_see_parts(part):
    model = make()
    module = model.get_submodule(part)
    snapshot = ModuleSnapshot([model])
    assert snapshot.is_unchanged()
    handle = module.register_forward_pre_hook(lambda *_: None)
    assert not snapshot.is_unchanged()
    handle.remove()
    assert snapshot.is_unchanged()
    module.note = 1
    assert not snapshot.is_unchanged()
    del module.note
    assert snapshot.is_unchanged()
    module.train()
    assert not snapshot.is_unchanged()
    module.eval()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not snapshot.is_unchanged()
    handle.remove()
    module.__class__ = type("Other", (type(module),), {})
    assert not snapshot.is_unchanged()


def test_snapshots_with_values_that_cannot_be_compared():
    model = make()
    model.note = torch.zeros(2, dtype=F64)
    snapshot = ModuleSnapshot([model])
    assert snapshot.is_unchanged()
    model.note = torch.zeros(2, dtype=F64)
    assert not snapshot.is_unchanged()

"""Muon against singular value decompositions, and torch's AdamW where it is Adam."""

import copy

import pytest
import torch
from torch import nn

from pyg_schnet import SchNet
from pyg_schnet.data import collate_indices
from pyg_schnet.train import Muon, PropertyTask, StructureDataModule
from pyg_schnet.train.muon import matrices_of, orthogonal


def by_singular_values(matrix):
    """The same polynomial, of the singular values alone."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


def take_steps(module, optimizer, inputs, count):
    for _ in range(count):
        optimizer.zero_grad()
        module(inputs).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(12, 12), (9, 20), (20, 9)])
def test_orthogonal_keeps_singular_vectors(shape):
    matrices = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrices)
    assert torch.allclose(found, torch.stack([by_singular_values(matrix) for matrix in matrices]), atol=1e-10)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonal_of_zero_is_zero():
    assert torch.equal(orthogonal(torch.zeros(2, 8, 9)), torch.zeros(2, 8, 9))


def test_one_step_of_a_matrix():
    torch.manual_seed(0)
    layer = nn.Linear(10, 16, bias=False).double()
    before = layer.weight.detach().clone()
    optimizer = Muon(layer, lr=0.01, weight_decay=0.1, momentum=0.9)
    layer(torch.randn(5, 10, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    gradient = layer.weight.grad
    momentum = 0.1 * gradient
    step = by_singular_values(0.1 * gradient + 0.9 * momentum)
    expected = (1 - 0.01 * 0.1) * before - 0.01 * 0.2 * 4.0 * step
    assert torch.allclose(layer.weight.detach(), expected, atol=1e-12)


def test_weights_of_one_shape_are_independent():
    """Together, in one batched product, each weight takes the steps that it takes alone."""
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(9, 9, bias=False, dtype=torch.float64) for _ in range(3))
    alone = copy.deepcopy(layers)
    inputs = torch.randn(4, 9, dtype=torch.float64)
    together = Muon(layers, lr=0.01)
    several = [Muon(layer, lr=0.01) for layer in alone]
    for _ in range(3):
        for layer, other, optimizer in zip(layers, alone, several, strict=True):
            take_steps(other, optimizer, inputs, 1)
            layer.zero_grad()
            layer(inputs).square().mean().backward()
        together.step()
    for layer, other in zip(layers, alone, strict=True):
        assert torch.allclose(layer.weight, other.weight, atol=1e-12)


def test_others_are_adams():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    other = copy.deepcopy(module)
    inputs = torch.randn(6, 4)
    take_steps(module, Muon(module, lr=0.01, weight_decay=0.1), inputs, 5)
    take_steps(other, torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.1, fused=True), inputs, 5)
    for weight, wanted in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, wanted)


def test_which_weights():
    model = SchNet(16, 16, 2, 10)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    chosen = {id(weight) for weight in matrices_of(model)}
    names = {name for name, weight in model.named_parameters() if id(weight) in chosen}
    assert "embedding.weight" not in names
    assert not any(name.endswith("bias") for name in names)
    assert names == {
        name for name, shape in shapes.items() if len(shape) == 2 and min(shape) >= 8 and name != "embedding.weight"
    }
    optimizer = Muon(model)
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(map(id, trained)) == sorted(map(id, model.parameters()))


def test_frozen_and_unused_weights_stay():
    torch.manual_seed(0)
    module = nn.ModuleDict({"used": nn.Linear(8, 8), "unused": nn.Linear(8, 8), "frozen": nn.Linear(8, 8)})
    module["frozen"].requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    optimizer = Muon(module, lr=0.1, weight_decay=0.1)
    module["frozen"](module["used"](torch.randn(3, 8))).sum().backward()
    optimizer.step()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"used.weight", "used.bias"}


def test_parametrized_weights_are_adams():
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.Tanh(), nn.Linear(16, 8))
    optimizer = PropertyTask(module, pooling="sum", schedule="constant").configure_optimizers()["optimizer"]
    assert [tuple(weight.shape) for weight in optimizer.param_groups[0]["params"]] == [(8, 16)]
    before = copy.deepcopy(module.state_dict())
    module(torch.randn(3, 16)).square().sum().backward()
    optimizer.step()
    assert not any(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_saved_and_loaded_in_every_bit():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
    inputs = torch.randn(6, 8)
    optimizer = Muon(module, lr=0.01)
    take_steps(module, optimizer, inputs, 3)
    other = copy.deepcopy(module)
    loaded = Muon(other, lr=0.5)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(module, optimizer, inputs, 3)
    take_steps(other, loaded, inputs, 3)
    for weight, wanted in zip(other.parameters(), module.parameters(), strict=True):
        assert torch.equal(weight, wanted)


def test_a_state_of_another_device_takes_the_kernel_of_this_one():
    torch.manual_seed(0)
    first = nn.Linear(10, 16)
    inputs = torch.randn(4, 10)
    optimizer = Muon(first)
    take_steps(first, optimizer, inputs, 2)
    second, saved = copy.deepcopy(first), copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        group["fused"] = False  # as where Adam has no kernel of its own
    loaded = Muon(second)
    loaded.load_state_dict(saved)
    assert all(group["fused"] for group in loaded.param_groups)
    for group in saved["param_groups"]:
        del group["fused"]  # as before devices had one
    loaded.load_state_dict(saved)
    take_steps(first, optimizer, inputs, 2)
    take_steps(second, loaded, inputs, 2)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_schnet_is_trained(qm9_sample):
    data = StructureDataModule(qm9_sample, "U0", num_train=26, num_val=2)
    batch = collate_indices(qm9_sample, range(24))

    torch.manual_seed(0)
    task = PropertyTask(SchNet(32, 32, 2, 20), loss="mae", optimizer="muon")
    task.find_targets(data)
    task.fit_statistics(*data.training_targets())
    optimizer = Muon(task, lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = task.loss_of_batch(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.5 * losses[0]


def test_bad_options():
    with pytest.raises(ValueError, match="lr must be positive, got 0"):
        Muon(nn.Linear(8, 8), lr=0)
    with pytest.raises(ValueError, match="momentum must be at least 0 and below 1, got 1"):
        Muon(nn.Linear(8, 8), momentum=1.0)
    with pytest.raises(ValueError, match="optimizer must be 'adam' or 'muon', got 'sgd'"):
        PropertyTask(SchNet(8, 8, 1, 5), optimizer="sgd")


def test_closure():
    layer = nn.Linear(8, 8)
    optimizer = Muon(layer)

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 8)).sum()
        loss.backward()
        return loss

    before = layer.weight.detach().clone()
    start = layer(torch.ones(1, 8)).sum().detach()
    assert optimizer.step(closure).item() == pytest.approx(float(start), rel=1e-6)
    assert not torch.equal(before, layer.weight)

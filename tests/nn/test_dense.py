import math

import numpy as np
import torch

from pyg_schnet.nn import AtomNetwork, DTNNConv, FilterNetwork, SchNetInteraction
from pyg_schnet.nn.dense import dense


def test_affine():
    layer = dense(5, 3)
    with torch.no_grad():
        layer.bias.copy_(torch.randn(3))
    x = torch.randn(7, 5)
    expected = x.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_glorot_weights_and_zero_bias():
    layer = dense(300, 200)
    bound = math.sqrt(6 / 500)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.abs().max() > 0.99 * bound
    assert abs(layer.weight.std().item() / (bound / math.sqrt(3)) - 1) < 0.02
    assert not layer.bias.any()
    assert dense(3, 2, bias=False).bias is None


def test_reset():
    layer = dense(5, 3)
    before = layer.weight.clone()
    torch.manual_seed(3)
    layer.reset_parameters()
    first = layer.weight.clone()
    torch.manual_seed(3)
    layer.reset_parameters()
    assert torch.equal(layer.weight, first)
    assert not torch.equal(first, before)


def test_it_is_a_linear_layer_of_torch():
    assert type(dense(5, 3)) is torch.nn.Linear
    assert set(dense(5, 3).state_dict()) == {"weight", "bias"}
    with torch.device("meta"):
        assert dense(5, 3).weight.device.type == dense(5, 3).bias.device.type == "meta"
    state = torch.random.get_rng_state()
    first = dense(5, 3).weight
    torch.random.set_rng_state(state)
    bound = math.sqrt(6 / 8)
    assert torch.equal(first, torch.empty(3, 5).uniform_(-bound, bound))  # nothing else is drawn


def test_modules_draw_glorot_weights_again():
    for module in (AtomNetwork(64), FilterNetwork(64), SchNetInteraction(64), DTNNConv(64, 64)):
        layers = [part for part in module.modules() if type(part) is torch.nn.Linear]
        for layer in layers:
            torch.nn.init.constant_(layer.weight, 9.0)
            if layer.bias is not None:
                torch.nn.init.constant_(layer.bias, 9.0)
        module.reset_parameters()
        for layer in layers:
            bound = math.sqrt(6 / sum(layer.weight.shape))
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.bias is None or not layer.bias.any()


def test_reset_of_exchanged_layers():
    block = SchNetInteraction(8)
    block.lin1 = torch.nn.Sequential(torch.nn.Linear(128, 8), torch.nn.Tanh())
    block.act = torch.nn.Identity()
    before = block.lin1[0].weight.clone()
    block.reset_parameters()
    assert not torch.equal(block.lin1[0].weight, before)

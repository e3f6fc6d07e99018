import math

import numpy as np
import torch

from pyg_schnet.nn import dense


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

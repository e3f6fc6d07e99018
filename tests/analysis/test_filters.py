"""Filters against eq. (14) to (16) in numpy, and against messages that the model sends."""

import numpy as np
import pytest
import torch

from pyg_schnet import DTNN, SchNet
from pyg_schnet.analysis import radial_filters


def schnet(**options):
    torch.manual_seed(0)
    model = SchNet(8, 12, 3, 10, 4.0, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def softplus(x):
    return np.logaddexp(x, 0.0) - np.log(2.0)


@pytest.mark.parametrize("filters", ["exact", "spline"])
def test_formula(filters):
    model = schnet(filters=filters)
    found = radial_filters(model)
    assert found.values.shape == (3, 501, 12)
    assert found.values.dtype == np.float64
    assert found.cutoff == found.distances[-1] == 4.0
    expansion = np.exp(-0.5 / (4.0 / 9) ** 2 * (found.distances[:, None] - np.linspace(0.0, 4.0, 10)) ** 2)
    window = 0.5 * (np.cos(np.pi * found.distances / 4.0) + 1)
    for t in range(3):
        network = model.interactions[t].conv.filter_network
        weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
        hidden = softplus(expansion @ weights["lin1.weight"].T + weights["lin1.bias"])
        expected = softplus(hidden @ weights["lin2.weight"].T + weights["lin2.bias"]) * window[:, None]
        # centres are stored in float32
        np.testing.assert_allclose(found.values[t], expected, atol=1e-6)
    assert not found.values[:, -1].any()


def test_shared_weights_are_repeated():
    values = radial_filters(schnet(shared_weights=True), [1.0, 2.0]).values
    assert values.shape == (3, 2, 12)
    np.testing.assert_array_equal(values[0], values[2])


def test_the_given_model_does_not_change():
    model = schnet()
    radial_filters(model, [1.0])
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="such as SchNet, got DTNN"):
        radial_filters(DTNN(8, 8))
    with pytest.raises(TypeError, match="radial_filters needs a model of this package, got Linear"):
        radial_filters(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="not negative"):
        radial_filters(schnet(), [-1.0])

import numpy as np
import pytest
import torch

from pyg_schnet.nn import CosineCutoff, FilterNetwork, GaussianBasis, HardCutoff

F64 = torch.float64


def softplus(x):
    return np.logaddexp(x, 0.0) - np.log(2.0)


def reference(network, dist):
    """Eq. (14) to (16) in numpy."""
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    out = np.exp(-network.basis.gamma * (dist[:, None] - weights["basis.centers"]) ** 2)
    out = softplus(out @ weights["lin1.weight"].T + weights["lin1.bias"])
    out = out @ weights["lin2.weight"].T + weights["lin2.bias"]
    if network.activate_filters:
        out = softplus(out)
    window = np.where(dist < network.cutoff, 1.0, 0.0)
    if isinstance(network.window, CosineCutoff):
        window = window * 0.5 * (np.cos(np.pi * dist / network.cutoff) + 1)
    return out * window[:, None]


def randomised(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.to(F64)


@pytest.mark.parametrize("activate_filters", [True, False])
@pytest.mark.parametrize("window", [CosineCutoff, HardCutoff])
def test_formula(activate_filters, window):
    network = randomised(FilterNetwork(7, GaussianBasis(12, 5.0), window(5.0), activate_filters=activate_filters))
    dist = np.linspace(0, 8, 50)
    expected = reference(network, dist)
    np.testing.assert_allclose(network(torch.from_numpy(dist)).detach().numpy(), expected, rtol=1e-12, atol=1e-14)
    assert not expected[dist >= 5.0].any()
    assert (np.abs(expected[dist < 4.9]).max(axis=1) > 0).all()


def test_activation_matters():
    network = randomised(FilterNetwork(7))
    dist = torch.rand(5, dtype=F64) * 5
    with_activation = network(dist)
    network.activate_filters = False
    assert (network(dist) - with_activation).abs().max() > 1e-3


def test_activated_by_default_as_in_the_chapter():
    assert FilterNetwork(7).activate_filters is True


def test_parts_take_each_others_cutoff():
    assert FilterNetwork(8).cutoff == 10.0
    assert FilterNetwork(8, basis=GaussianBasis(20, 6.0)).cutoff == 6.0
    assert FilterNetwork(8, window=CosineCutoff(4.0)).basis.cutoff == 4.0
    assert FilterNetwork(8, GaussianBasis(20, 6.0), CosineCutoff(4.0)).cutoff == 4.0


def test_gradients():
    network = randomised(FilterNetwork(3, GaussianBasis(4, 5.0)))
    dist = torch.tensor([0.5, 2.0, 4.0, 6.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (dist,))
    assert torch.autograd.gradgradcheck(network, (dist,))


def test_reset():
    network = FilterNetwork(3, GaussianBasis(4, 5.0, trainable=True))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.basis.centers.add_(1.0)
    network.reset_parameters()
    after = network.state_dict()
    assert torch.equal(after["basis.centers"], before["basis.centers"])
    assert not torch.equal(after["lin1.weight"], before["lin1.weight"])
    assert not torch.equal(after["lin2.weight"], before["lin2.weight"])


def test_no_edges():
    assert FilterNetwork(3)(torch.empty(0)).shape == (0, 3)


def test_repr():
    text = repr(FilterNetwork(3, window=CosineCutoff(5.0)))
    assert text.startswith("FilterNetwork(3, GaussianBasis(num_gaussians=50, cutoff=5.0 Å")
    assert text.endswith("CosineCutoff(5.0 Å), activate_filters=True)")

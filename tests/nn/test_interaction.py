import numpy as np
import pytest
import torch
from torch_geometric.index import index2ptr

from pyg_schnet.nn import DTNNConv, DTNNInteraction, FilterNetwork, GaussianBasis, SchNetInteraction

F64 = torch.float64
EDGE_INDEX = torch.tensor([[1, 2, 0, 0], [0, 0, 1, 2]])
DIST = torch.tensor([1.1, 2.2, 1.1, 2.2], dtype=F64)


def make_schnet():
    block = SchNetInteraction(6, FilterNetwork(5, GaussianBasis(7, 5.0))).to(F64)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block


def make_dtnn():
    return DTNNInteraction(DTNNConv(6, 5, GaussianBasis(7, 5.0))).to(F64)


def test_schnet_formula():
    block, x = make_schnet(), torch.randn(3, 6, dtype=F64)
    block.conv.filters = "exact"
    w = {name: value.numpy() for name, value in block.state_dict().items()}
    hidden = x.numpy() @ w["lin_in.weight"].T
    filters = block.conv.filter_network(DIST).detach().numpy()
    conv = np.zeros((3, 5))
    for j, i, filter_ in zip(*EDGE_INDEX.tolist(), filters, strict=True):
        conv[i] += hidden[j] * filter_
    update = np.logaddexp(conv @ w["lin1.weight"].T + w["lin1.bias"], 0) - np.log(2)
    update = update @ w["lin2.weight"].T + w["lin2.bias"]
    np.testing.assert_allclose(block(x, EDGE_INDEX, DIST).detach(), x.numpy() + update, rtol=1e-12)
    assert block.lin_in.bias is None


def test_dtnn_formula():
    block, x = make_dtnn(), torch.randn(3, 6, dtype=F64)
    torch.testing.assert_close(block(x, EDGE_INDEX, DIST), x + block.conv(x, EDGE_INDEX, DIST))


@pytest.mark.parametrize("make", [make_schnet, make_dtnn])
def test_segments_give_the_same(make):
    block, x = make(), torch.randn(3, 6, dtype=F64)
    with_ptr = block(x, EDGE_INDEX, DIST, index2ptr(EDGE_INDEX[1], 3))
    torch.testing.assert_close(with_ptr, block(x, EDGE_INDEX, DIST), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("make", [make_schnet, make_dtnn])
def test_bipartite_updates_the_targets(make):
    block, x = make(), torch.randn(3, 6, dtype=F64)
    whole = block(x, EDGE_INDEX, DIST)
    # only atom 0 is updated, by messages from all
    edge_index = EDGE_INDEX[:, :2]
    part = block((x, x[:1]), edge_index, DIST[:2])
    torch.testing.assert_close(part, whole[:1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("make", [make_schnet, make_dtnn])
def test_derivatives(make):
    block, x = make(), torch.randn(3, 6, dtype=F64, requires_grad=True)
    dist = DIST.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, d: block(x, EDGE_INDEX, d), (x, dist))
    assert torch.autograd.gradgradcheck(lambda x, d: block(x, EDGE_INDEX, d), (x, dist))


@pytest.mark.parametrize("make", [make_schnet, make_dtnn])
def test_reset(make):
    block = make()
    before = {name: value.clone() for name, value in block.named_parameters()}
    block.reset_parameters()
    for name, value in block.named_parameters():
        assert not torch.equal(value, before[name]) or name.endswith("bias")


def test_defaults_and_sizes():
    block = SchNetInteraction()
    assert (block.hidden_channels, block.conv.filter_network.num_filters) == (128, 128)
    assert not block.conv.normalize
    assert SchNetInteraction(normalize=True).conv.normalize
    assert DTNNInteraction().conv.hidden_channels == 30


def test_repr():
    assert "CFConv(FilterNetwork(5, " in repr(make_schnet())
    assert "DTNNConv(6, 5, " in repr(make_dtnn())

"""Sums by torch-scatter where it is installed (``pip install pyg_schnet[ext]``), and the same without it."""

import pytest
import torch
import torch_geometric.typing
from torch_geometric.index import index2ptr

from pyg_schnet import SchNet
from pyg_schnet.nn import CFConv, FilterNetwork
from pyg_schnet.nn.aggregation import sum_to_targets

pytestmark = pytest.mark.skipif(
    not torch_geometric.typing.WITH_TORCH_SCATTER, reason="needs torch-scatter: pip install pyg_schnet[ext]"
)
F64 = torch.float64


@pytest.fixture
def calls(monkeypatch):
    """Calls of torch-scatter's reduction."""
    import torch_scatter

    seen = []
    original = torch_scatter.segment_csr

    def counted(*args, **kwargs):
        seen.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(torch_geometric.typing.torch_scatter, "segment_csr", counted)
    return seen


def test_torch_scatter_does_the_sum(calls, monkeypatch):
    index = torch.tensor([0, 0, 2, 2, 2])
    src, ptr = torch.randn(5, 3, dtype=F64), index2ptr(index, 4)
    with_extension = sum_to_targets(src, index, 4, ptr)
    assert len(calls) == 1
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", False)
    without = sum_to_targets(src, index, 4, ptr)
    assert len(calls) == 1
    torch.testing.assert_close(with_extension, without, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(with_extension, sum_to_targets(src, index, 4), rtol=1e-15, atol=1e-15)


def test_derivatives(calls):
    index = torch.tensor([0, 0, 2, 2, 2])
    src, ptr = torch.randn(5, 2, dtype=F64, requires_grad=True), index2ptr(index, 4)

    def function(src):
        return sum_to_targets(src.sin(), index, 4, ptr).square()

    assert torch.autograd.gradcheck(function, (src,))
    assert torch.autograd.gradgradcheck(function, (src,))
    jacobian = torch.autograd.functional.jacobian(function, src, vectorize=True)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(function, src))
    assert calls


def test_convolution(calls, monkeypatch):
    conv = CFConv(FilterNetwork(4), filters="exact").to(F64)
    edge_index = torch.tensor([[1, 2, 0, 0], [0, 0, 1, 2]])
    dist, x, ptr = torch.rand(4, dtype=F64) * 9, torch.randn(3, 4, dtype=F64), index2ptr(edge_index[1], 3)
    with_extension = conv(x, edge_index, dist, ptr)
    assert len(calls) == 1
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", False)
    torch.testing.assert_close(conv(x, edge_index, dist, ptr), with_extension, rtol=1e-14, atol=1e-15)


def test_model_and_forces(calls, monkeypatch, molecules):
    model = SchNet(16, 16, 2, 10, 5.0, filters="exact").to(F64)

    def energy_and_forces():
        pos = molecules["pos"].clone().requires_grad_()
        energy = model(molecules["z"], pos, molecules["batch"])
        return energy.detach(), torch.autograd.grad(energy.sum(), pos)[0]

    with_extension = energy_and_forces()
    assert len(calls) >= 2
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", False)
    for with_, without in zip(with_extension, energy_and_forces(), strict=True):
        torch.testing.assert_close(with_, without, rtol=1e-12, atol=1e-13)


# torch's compiler itself does what it warns of, for every autograd function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled():
    # PyG leaves torch-scatter aside while compiling
    index = torch.tensor([0, 0, 2, 2, 2])
    src, ptr = torch.randn(5, 3), index2ptr(index, 4)
    compiled = torch.compile(sum_to_targets, backend="eager")
    torch.testing.assert_close(compiled(src, index, 4, ptr), sum_to_targets(src, index, 4, ptr))

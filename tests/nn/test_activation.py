import numpy as np
import pytest
import torch
from torch_geometric.nn.models.schnet import ShiftedSoftplus as PyGShiftedSoftplus

from pyg_schnet.nn import ShiftedSoftplus, shifted_softplus

F64 = torch.float64


def test_formula():
    x = torch.linspace(-40.0, 40.0, 4001, dtype=F64)
    expected = np.logaddexp(x.numpy(), 0.0) - np.log(2.0)  # ln(e^x / 2 + 1 / 2), which overflows nowhere
    # torch takes the linear asymptote from 20 on, where the softplus is exp(-20) = 2e-9 above it
    np.testing.assert_allclose(shifted_softplus(x).numpy(), expected, rtol=1e-14, atol=2.1e-9)
    inner = x.abs() <= 20
    np.testing.assert_allclose(shifted_softplus(x)[inner].numpy(), expected[inner.numpy()], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_at_zero(dtype):
    assert shifted_softplus(torch.zeros(5, dtype=dtype)).tolist() == [0.0] * 5
    assert shifted_softplus(torch.zeros((), dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_overflow(dtype):
    x = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
    value = shifted_softplus(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    np.testing.assert_allclose(value.detach().numpy(), [-np.log(2.0), 1e4 - np.log(2.0)], rtol=1e-7)
    assert slope.tolist() == [0.0, 1.0]


def test_derivatives():
    x = torch.tensor([0.0], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(shifted_softplus(x).sum(), x)
    assert slope.item() == 0.5
    x = torch.linspace(-5, 5, 11, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(shifted_softplus, (x,))
    assert torch.autograd.gradgradcheck(shifted_softplus, (x,))


def test_module_is_the_function():
    x = torch.randn(3, 4)
    module = ShiftedSoftplus()
    assert torch.equal(module(x), shifted_softplus(x))
    torch.testing.assert_close(module(x), PyGShiftedSoftplus()(x))
    assert not list(module.parameters())
    assert repr(module) == "ShiftedSoftplus()"

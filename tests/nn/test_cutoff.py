import numpy as np
import pytest
import torch

from pyg_schnet.nn import CosineCutoff, HardCutoff, cosine_cutoff, hard_cutoff

F64 = torch.float64


def test_cosine_formula():
    dist = np.linspace(0, 12, 241)
    expected = np.where(dist < 5.0, 0.5 * (np.cos(np.pi * dist / 5.0) + 1), 0.0)
    np.testing.assert_allclose(cosine_cutoff(torch.from_numpy(dist), 5.0).numpy(), expected, atol=1e-15)


def test_cosine_does_not_rise_again():
    dist = torch.linspace(5.0, 30.0, 101, dtype=F64, requires_grad=True)
    window = cosine_cutoff(dist, 5.0)
    (slope,) = torch.autograd.grad(window.sum(), dist)
    assert not window.any()
    assert not slope.any()


def test_cosine_is_smooth_at_the_cutoff():
    dist = torch.tensor([5.0 - 1e-6, 5.0], dtype=F64, requires_grad=True)
    window = cosine_cutoff(dist, 5.0)
    (slope,) = torch.autograd.grad(window.sum(), dist)
    assert window.abs().max() < 1e-12
    assert slope.abs().max() < 1e-6
    assert cosine_cutoff(torch.zeros(1), 5.0).item() == 1.0


@pytest.mark.parametrize("cutoff", [3.3, 5.1, 5.0, 7.77])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactly_zero_at_the_cutoff(cutoff, dtype):
    # excluded edges are moved to the cutoff, which float32 rounds; also in the vectorised part of the loop
    dist = torch.full((33,), cutoff, dtype=dtype)
    for window in (cosine_cutoff, hard_cutoff):
        assert not window(dist, cutoff).any()
        assert window(dist, cutoff).dtype == dtype


def test_hard_formula():
    dist = torch.tensor([0.0, 4.999, 5.0, 9.0], dtype=F64)
    assert hard_cutoff(dist, 5.0).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_gradients():
    dist = torch.tensor([0.0, 0.4, 2.5, 4.7, 6.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: cosine_cutoff(d, 5.0), (dist,))
    assert torch.autograd.gradgradcheck(lambda d: cosine_cutoff(d, 5.0), (dist,))


@pytest.mark.parametrize(("module", "function"), [(CosineCutoff, cosine_cutoff), (HardCutoff, hard_cutoff)])
def test_module_is_the_function(module, function):
    dist = torch.rand(4, 5) * 10
    assert torch.equal(module(5.0)(dist), function(dist, 5.0))
    assert repr(module(5)) == f"{module.__name__}(5.0 Å)"
    assert not module(5.0).state_dict()


@pytest.mark.parametrize("cutoff", [0.0, -2.0, float("nan"), float("inf")])
@pytest.mark.parametrize("module", [CosineCutoff, HardCutoff])
def test_bad_cutoff(module, cutoff):
    with pytest.raises(ValueError, match="cutoff must be a positive length in Å"):
        module(cutoff)

import numpy as np
import pytest
import torch
from torch_geometric.nn.models.schnet import GaussianSmearing

from pyg_schnet.nn import GaussianBasis, gaussian_basis
from pyg_schnet.nn.basis import num_gaussians_for_spacing

F64 = torch.float64


def test_formula():
    dist, centers = np.linspace(0, 6, 13), np.array([0.0, 1.5, 4.0])
    expected = np.array([[np.exp(-3.0 * (d - mu) ** 2) for mu in centers] for d in dist])
    found = gaussian_basis(torch.from_numpy(dist), torch.from_numpy(centers), 3.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize(("cutoff", "number"), [(10.0, 50), (5.0, 51), (4.3, 2)])
def test_default_width_is_that_of_pyg(cutoff, number):
    ours, theirs = GaussianBasis(number, cutoff).to(F64), GaussianSmearing(0.0, cutoff, number).to(F64)
    dist = torch.linspace(0, 1.2 * cutoff, 101, dtype=F64)
    # PyG takes the spacing from a float32 grid
    torch.testing.assert_close(ours(dist), theirs(dist), rtol=1e-4, atol=1e-6)
    assert ours.gamma == pytest.approx(-theirs.coeff, rel=1e-6)
    assert torch.equal(ours.centers, theirs.offset)


def test_numbers_of_the_chapter():
    basis = GaussianBasis.from_spacing(0.1, cutoff=5.0)
    assert basis.num_gaussians == 51
    assert basis.gamma == 10.0
    np.testing.assert_allclose(basis.centers.numpy(), 0.1 * np.arange(51), atol=1e-6)
    values = basis(torch.tensor([1.0]))[0]
    assert values[10].item() == pytest.approx(1.0, abs=1e-6)
    assert values[11].item() == pytest.approx(np.exp(-10 * 0.1**2), rel=1e-5)
    assert values[20].item() == pytest.approx(np.exp(-10.0), rel=1e-4)
    assert num_gaussians_for_spacing(0.1, 30.0) == 301


def test_trainable():
    basis = GaussianBasis(5, 4.0, trainable=True)
    assert dict(basis.named_parameters()).keys() == {"centers", "gammas"}
    dist = torch.rand(7) * 4
    torch.testing.assert_close(basis(dist), GaussianBasis(5, 4.0)(dist))
    basis(dist).square().sum().backward()
    assert basis.centers.grad.abs().min() > 0
    assert basis.gammas.grad.abs().min() > 0
    with torch.no_grad():
        basis.centers.add_(0.3)
        basis.gammas.mul_(2.0)
    expected = np.exp(-2 * basis.gamma * (dist.numpy()[:, None] - np.arange(5) - 0.3) ** 2)
    np.testing.assert_allclose(basis(dist).detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    basis.reset_parameters()
    torch.testing.assert_close(basis(dist), GaussianBasis(5, 4.0)(dist))


def test_fixed_by_default():
    basis = GaussianBasis(5, 4.0)
    assert not list(basis.parameters())
    assert set(basis.state_dict()) == {"centers"}


def test_gradients():
    dist = (torch.rand(6, dtype=F64) * 4).requires_grad_()
    basis = GaussianBasis(5, 4.0, gamma=2.0, trainable=True).to(F64)
    inputs = (dist, basis.centers, basis.gammas)
    assert torch.autograd.gradcheck(gaussian_basis, inputs)
    assert torch.autograd.gradgradcheck(gaussian_basis, inputs)


def test_one_gaussian_of_given_width():
    assert GaussianBasis(1, 4.0, gamma=1.0)(torch.tensor([0.0])).tolist() == [[1.0]]


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_cutoff(cutoff):
    with pytest.raises(ValueError, match="cutoff must be a positive length in Å"):
        GaussianBasis(10, cutoff)


def test_bad_numbers():
    with pytest.raises(ValueError, match="num_gaussians must be"):
        GaussianBasis(1, 5.0)
    with pytest.raises(ValueError, match="num_gaussians must be"):
        GaussianBasis(0, 5.0, gamma=1.0)
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="gamma must be a positive inverse squared width"):
            GaussianBasis(10, 5.0, gamma=gamma)


def test_bad_spacing():
    with pytest.raises(ValueError, match=r"cutoff must be a multiple of spacing=0.3 Å"):
        GaussianBasis.from_spacing(0.3, cutoff=5.0)
    with pytest.raises(ValueError, match="spacing must be a positive length"):
        num_gaussians_for_spacing(0.0, 5.0)
    with pytest.raises(ValueError, match="multiple"):
        num_gaussians_for_spacing(0.1, 0.01)


def test_repr():
    assert repr(GaussianBasis(51, 5.0)) == "GaussianBasis(num_gaussians=51, cutoff=5.0 Å, gamma=50 Å⁻²)"
    assert "trainable" in repr(GaussianBasis(51, 5.0, trainable=True))

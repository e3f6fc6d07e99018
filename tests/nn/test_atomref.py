import numpy as np
import pytest
import torch

from pyg_schnet.nn import fit_atom_references
from pyg_schnet.nn.atomref import MAX_Z, element_counts, sum_references

F64 = torch.float64
TRUE = {1: -13.6, 6: -1029.9, 7: -1485.3, 8: -2042.6, 9: -2713.5}


def random_structures(n, seed=0, elements=(1, 6, 7, 8, 9)):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 20, n)
    z = torch.from_numpy(generator.choice(elements, sizes.sum()))
    return z, torch.from_numpy(np.repeat(np.arange(n), sizes))


def test_composition():
    z, batch = torch.tensor([8, 1, 1, 0, 6, 0]), torch.tensor([0, 0, 0, 0, 1, 1])
    counts = element_counts(z, batch, 3)
    assert counts.dtype == F64
    assert counts.shape == (3, MAX_Z + 1)
    expected = np.zeros((3, MAX_Z + 1))
    expected[0, 8], expected[0, 1], expected[1, 6] = 1, 2, 1  # padding does not count
    np.testing.assert_array_equal(counts.numpy(), expected)
    fractions = element_counts(z, batch, 3, mean=True)
    np.testing.assert_allclose(fractions.numpy(), expected / [[3], [1], [1]])


def test_fit_recovers_known_values():
    z, batch = random_structures(200)
    target = torch.tensor([sum(TRUE[int(k)] for k in z[batch == b]) for b in range(200)], dtype=F64)
    references = fit_atom_references(element_counts(z, batch, 200), target)
    assert references.shape == (MAX_Z + 1, 1)
    for number, value in TRUE.items():
        assert references[number].item() == pytest.approx(value, rel=1e-7)
    assert (references != 0).sum() == len(TRUE)


def test_fit_is_least_squares():
    z, batch = random_structures(100, seed=1)
    counts, target = element_counts(z, batch, 100), torch.randn(100, 3, dtype=F64)
    expected, *_ = np.linalg.lstsq(counts[:, [1, 6, 7, 8, 9]].numpy(), target.numpy(), rcond=None)
    found = fit_atom_references(counts, target)
    np.testing.assert_allclose(found[[1, 6, 7, 8, 9]].numpy(), expected, rtol=1e-6, atol=1e-7)


def test_fit_of_large_energies_is_precise():
    # what remains must be the noise that was put in, not the rounding of the fit
    z, batch = random_structures(500, seed=2)
    counts = element_counts(z, batch, 500)
    noise = 1e-3 * torch.randn(500, 1, dtype=F64)
    exact = torch.zeros(MAX_Z + 1, 1, dtype=F64)
    for number, value in TRUE.items():
        exact[number] = value
    references = fit_atom_references(counts, counts @ exact + noise)
    residual = counts @ exact + noise - counts @ references
    assert residual.abs().max() < 1.5 * noise.abs().max()


def test_fit_when_all_structures_are_alike():
    # water only: a_O + 2 a_H is known, the smallest such values are the projection
    z, batch = torch.tensor([8, 1, 1] * 5), torch.arange(5).repeat_interleave(3)
    references = fit_atom_references(element_counts(z, batch, 5), torch.full((5,), -10.0))
    assert torch.isfinite(references).all()
    assert references[8].item() == pytest.approx(-2.0, rel=1e-6)
    assert references[1].item() == pytest.approx(-4.0, rel=1e-6)


def test_fit_of_fixed_ratios():
    # always two hydrogens for each oxygen: rank one of two
    z = torch.tensor([8, 1, 1, 8, 8, 1, 1, 1, 1, 6])
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 2])
    counts = element_counts(z, batch, 3)
    target = torch.tensor([-10.0, -20.0, -7.0])
    references = fit_atom_references(counts, target)
    expected = np.linalg.pinv(counts.numpy()) @ target.numpy()[:, None]
    np.testing.assert_allclose(references.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_fit_gives_float32_numbers():
    z, batch = random_structures(50, seed=3)
    references = fit_atom_references(element_counts(z, batch, 50), 1000 * torch.randn(50, dtype=F64))
    assert references.dtype == F64
    assert torch.equal(references, references.float().double())


def test_fit_of_one_structure():
    counts = element_counts(torch.tensor([6]), torch.tensor([0]), 1)
    assert fit_atom_references(counts, torch.tensor([-5.0]))[6].item() == -5.0


def test_bad_fits():
    counts = element_counts(torch.tensor([6, 1]), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="one row a structure, got 2 and 3"):
        fit_atom_references(counts, torch.zeros(3))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinite"):
            fit_atom_references(counts, torch.tensor([0.0, bad]))


def test_sum_is_exact_where_float32_is_not():
    # a molecule of QM9 size: total energies reach -17,600 eV
    z = torch.tensor([9, 9, 9, 6, 6, 7, 8, 8, 8, 1])
    batch = torch.zeros_like(z)
    atomref = torch.zeros(MAX_Z + 1, 1, dtype=F64)
    for number, value in TRUE.items():
        atomref[number] = value
    atomref = atomref.float().double()
    exact = sum(round(atomref[k].item() * 2**20) for k in z.tolist()) / 2**20  # in integers
    assert exact < -17_600
    assert sum_references(atomref, z, batch, 1).item() == pytest.approx(exact, abs=1e-9)
    assert sum_references(atomref.float(), z, batch, 1).item() == pytest.approx(exact, abs=1e-9)
    assert abs(atomref.float()[z].sum().item() - exact) > 1e-5


def test_sum_equals_a_loop():
    z, batch = random_structures(20, seed=4)
    z[::7] = 0
    atomref = torch.randn(MAX_Z + 1, 2, dtype=F64)
    atoms = [[int(k) for k in z[batch == b] if k > 0] for b in range(20)]
    total = np.array([sum(atomref[k].numpy() for k in members) for members in atoms])
    np.testing.assert_allclose(sum_references(atomref, z, batch, 20), total, rtol=1e-12, atol=1e-12)
    sizes = np.array([[len(members)] for members in atoms])
    np.testing.assert_allclose(sum_references(atomref, z, batch, 20, mean=True), total / sizes, rtol=1e-12, atol=1e-12)
    assert sum_references(atomref.float(), z, batch, 21).shape == (21, 2)
    assert not sum_references(atomref, z, batch, 21)[20].any()


@pytest.mark.parametrize(("z", "batch"), [([MAX_Z + 1], [0]), ([-1], [0]), ([1], [2]), ([1], [-1])])
def test_atoms_that_are_of_no_element_or_structure(z, batch):
    with pytest.raises(IndexError, match="z must lie between 0 and 99 and batch between 0 and 1"):
        sum_references(torch.zeros(MAX_Z + 1, 1), torch.tensor(z), torch.tensor(batch), 2)

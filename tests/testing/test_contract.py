"""The checks must fail on models that are wrong, each in one way."""

import pytest
import torch

from pyg_schnet import testing as contract

F64 = torch.float64
CUTOFF = 3.0


def pooled(values, batch):
    return values.new_zeros(int(batch.max()) + 1, 1).index_add(0, batch, values.unsqueeze(-1))


def distances(pos, batch):
    """Distances of all pairs of a structure, zero for an atom with itself, and which pairs count."""
    vec = pos[:, None] - pos
    pair = (batch[:, None] == batch) & ~torch.eye(len(batch), dtype=torch.bool)
    return torch.where(pair, vec.square().sum(-1), 1.0).sqrt(), pair


def good(z, pos, batch, **kwargs):
    """A pair potential that vanishes smoothly at the cutoff."""
    dist, pair = distances(pos, batch)
    window = torch.where(pair & (dist < CUTOFF), (1 - dist / CUTOFF) ** 3, 0.0)
    return pooled((window * z.outer(z).sqrt()).sum(1) + 0.1 * z, batch)


def good_vector(z, pos, batch):
    """Dipole of charges Z less their mean."""
    n = torch.bincount(batch).to(F64)
    mean = torch.zeros_like(n).index_add(0, batch, z.to(F64)) / n
    return torch.zeros(len(n), 3, dtype=F64).index_add(0, batch, (z - mean[batch]).unsqueeze(-1) * pos)


def chiral(z, pos, batch):
    """Triple product of three bonds of ethanol: rotates, but changes sign in a mirror."""
    value = torch.linalg.det(pos[[1, 2, 4]] - pos[0])
    return good(z, pos, batch) + value


def periodic(z, pos, batch, *, cell, pbc):
    """One harmonic coordinate for each atom, periodic in the lattice."""
    frac = pos @ torch.linalg.inv(cell[0])
    lengths = cell[0].norm(dim=1)
    return pooled((torch.cos(2 * torch.pi * frac * (lengths / 2.0).round()) * pbc[0]).sum(1) * z, batch)


def passes_and_fails(check, right, wrong, match, *args, **kwargs):
    check(right, *args, **kwargs)
    with pytest.raises(AssertionError, match=match):
        check(wrong, *args, **kwargs)


@pytest.fixture
def structure(tensors, ethanol, water):
    return tensors(ethanol, water)


def test_rotation(structure):
    def wrong(z, pos, batch):
        return pooled(pos[:, 0].square(), batch)

    passes_and_fails(contract.check_rotation, good, wrong, "rotation: outputs differ by", **structure)
    contract.check_rotation(good_vector, **structure, vector=True)
    with pytest.raises(AssertionError, match="rotation"):
        contract.check_rotation(good_vector, **structure)


def test_reflection(structure):
    contract.check_rotation(chiral, **structure)
    passes_and_fails(contract.check_reflection, good, chiral, "reflection: outputs differ by", **structure)
    contract.check_reflection(good_vector, **structure, vector=True)


def test_translation(structure):
    def wrong(z, pos, batch):
        return pooled(pos.norm(dim=1), batch)

    passes_and_fails(contract.check_translation, good, wrong, "translation: outputs differ by", **structure)


def test_permutation(structure):
    def wrong(z, pos, batch):
        return pooled(torch.arange(len(z)) * z.to(F64), batch)

    passes_and_fails(contract.check_permutation, good, wrong, "permutation: outputs differ by", **structure)


def test_batching(structure):
    def wrong(z, pos, batch):
        return good(z, pos, batch) / len(z)

    def leaking(z, pos, batch):
        return good(z, pos, batch) + (pos.sum() - pos.sum().detach())

    passes_and_fails(contract.check_batching, good, wrong, "structure 0 alone and in the batch", **structure)
    passes_and_fails(contract.check_batching, good, leaking, "gradient at atoms of other structures", **structure)


def test_extensivity(structure):
    def wrong(z, pos, batch):
        return good(z, pos, batch) / torch.bincount(batch).unsqueeze(-1)

    passes_and_fails(contract.check_extensivity, good, wrong, "far fragments", **structure)


def test_smoothness():
    def jump(z, pos, batch):
        dist, pair = distances(pos, batch)
        return pooled(torch.where(pair & (dist < CUTOFF), dist, 0.0).sum(1), batch)

    def kink(z, pos, batch):
        dist, pair = distances(pos, batch)
        return pooled(torch.where(pair & (dist < CUTOFF), CUTOFF - dist, 0.0).sum(1), batch)

    def constant(z, pos, batch):
        return pooled(z.to(F64) + 0.0 * pos.sum(1), batch)

    contract.check_smoothness(good, CUTOFF)
    for wrong in (jump, kink):
        with pytest.raises(AssertionError, match="not smooth at the cutoff"):
            contract.check_smoothness(wrong, CUTOFF)
    with pytest.raises(AssertionError, match="does not depend on the distance"):
        contract.check_smoothness(constant, CUTOFF)


def test_finite_gradients():
    def wrong_first(z, pos, batch):
        return pooled((pos[:, None] - pos).norm(dim=-1).sum(1) + pos.square().sum(1).sqrt(), batch)

    def wrong_second(z, pos, batch):
        return pooled(pos.square().sum(1).pow(0.75), batch)

    def wrong_value(z, pos, batch):
        return pooled(pos[:, 0].log(), batch)

    z, pos = torch.tensor([6, 8]), torch.zeros(2, 3, dtype=F64)
    for wrong, message in ((wrong_first, "first"), (wrong_second, "derivative"), (wrong_value, "output")):
        with pytest.raises(AssertionError, match=f"{message}.* is not finite"):
            contract.check_finite_gradients(wrong, z, pos)
    contract.check_finite_gradients(good, z, pos + torch.tensor([[0.0], [1.0]]))


def test_finite_gradients_of_weights():
    class Wrong(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros((), dtype=F64))

        def forward(self, z, pos, batch):
            return pooled(pos.square().sum(1) * self.weight.sqrt(), batch)

    with pytest.raises(AssertionError, match="first derivative is not finite"):
        contract.check_finite_gradients(Wrong(), torch.tensor([6]), torch.ones(1, 3, dtype=F64))


def test_derivatives(structure):
    def wrong(z, pos, batch):
        return good(z, pos, batch) + pooled(pos.detach().square().sum(1), batch)

    few = {key: value[:4] for key, value in structure.items()}
    contract.check_derivatives(good, **few)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        contract.check_derivatives(wrong, **few)


def test_supercell(triclinic, periodic_tensors):
    structure = periodic_tensors(triclinic)
    del structure["batch"]

    def extensive(z, pos, batch, *, cell, pbc):
        return pooled(z.to(F64), batch)

    def wrong(z, pos, batch, *, cell, pbc):
        return pooled(z.to(F64), batch) + pos.square().sum()

    passes_and_fails(contract.check_supercell, extensive, wrong, "supercell: outputs differ by", **structure)
    with pytest.raises(AssertionError, match="supercell"):
        contract.check_supercell(extensive, **structure, extensive=False)


def test_supercell_repeats_periodic_axes_only(slab, periodic_tensors):
    structure = periodic_tensors(slab)
    del structure["batch"]
    seen = []

    def count(z, pos, batch, *, cell, pbc):
        seen.append((len(z), cell.clone()))
        return pooled(z.to(F64), batch)

    contract.check_supercell(count, **structure, repeats=(2, 1, 3))
    assert [n for n, _ in seen] == [2 * len(slab), len(slab)]
    torch.testing.assert_close(seen[0][1], seen[1][1] * torch.tensor([2.0, 1.0, 1.0], dtype=F64).view(1, 3, 1))


def test_rewrapping(triclinic, periodic_tensors):
    structure = periodic_tensors(triclinic)
    del structure["batch"]

    def wrong(z, pos, batch, *, cell, pbc):
        return good(z, pos, batch)

    passes_and_fails(contract.check_rewrapping, periodic, wrong, "wrapped by lattice vectors", **structure)


def test_not_a_number_and_wrong_shapes_never_pass(structure):
    with pytest.raises(AssertionError, match="differ by nan"):
        contract.check_translation(lambda z, pos, batch: good(z, pos, batch) * float("nan"), **structure)
    with pytest.raises(AssertionError, match=r"expected shape \(1, 1\), got \(1,\)"):
        contract.check_batching(
            lambda z, pos, batch: good(z, pos, batch)[:, 0] if len(z) < 5 else good(z, pos, batch), **structure
        )


def test_random_rotations():
    rotation = contract.random_rotation(3)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=F64), rtol=0, atol=1e-14)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0)
    assert contract.random_rotation(3, torch.float32).dtype == torch.float32
    mean = torch.stack([contract.random_rotation(seed) for seed in range(2000)]).mean(0)
    assert mean.abs().max() < 0.06  # each entry has variance 1/3

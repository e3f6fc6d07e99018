"""Tensors of constant size, padding and the search for edges, against evaluations by themselves."""

import pytest
import torch

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.interfaces import ReplayedForces, replay

F64 = torch.float64


def model(**options):
    torch.manual_seed(0)
    return SchNet(12, 8, 2, num_gaussians=12, cutoff=3.0, **options).to(F64).eval()


def molecules():
    """Two molecules, one with padding."""
    generator = torch.Generator().manual_seed(1)
    z = torch.tensor([6, 1, 8, 1, 0, 7, 1, 1])
    pos = 2.5 * torch.rand(8, 3, generator=generator, dtype=F64)
    return (z, pos, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])), {"batch_size": 2}


def crystals(pbc=True):
    """A triclinic cell, with an atom outside of it, and a larger one."""
    generator = torch.Generator().manual_seed(2)
    cell = torch.tensor([[[3.5, 0.4, 0.0], [0.0, 3.9, 0.3], [0.2, 0.0, 4.1]]], dtype=F64).repeat(2, 1, 1)
    cell[1] += 0.8 * torch.eye(3, dtype=F64)
    pos = 4.0 * torch.rand(6, 3, generator=generator, dtype=F64)
    boundaries = torch.tensor([[True] * 3, [True, True, pbc]])
    return (torch.tensor([14, 8, 8, 14, 8, 1]), pos, torch.tensor([0, 0, 0, 1, 1, 1])), {
        "batch_size": 2, "cell": cell, "pbc": boundaries,
    }  # fmt: skip


class Recording:
    """Stands in for a CUDA graph: what is replayed reads and writes the tensors that were there at first."""

    def __init__(self):
        self.places = None

    def __call__(self, step, device):
        def replay():
            places = [value.data_ptr() for value in tensors_of(step.__self__)]
            assert self.places in (None, places)
            self.places = places
            step()
            assert [value.data_ptr() for value in tensors_of(step.__self__)] == places

        return replay


def tensors_of(compute):
    kept = (compute._pos, compute._index, compute._shift, *compute._atoms, *compute._lattice.values(), *compute._out)
    return [value for value in kept if value is not None]


@pytest.mark.parametrize("recorded", [False, True], ids=["evaluated", "replayed"])
@pytest.mark.parametrize(
    ("make", "options", "stress"),
    [
        (molecules, {}, False),
        (molecules, {"filters": "exact", "normalize": True}, False),
        (molecules, {"window": "hard", "backend": "reference"}, False),
        (crystals, {}, True),
        (crystals, {"backend": "reference", "normalize": True}, True),
        (lambda: crystals(False), {}, False),
    ],
    ids=["molecules", "exact, divided", "hard window", "crystals", "crystals, divided", "crystal and slab"],
)
def test_the_same_as_by_itself_along_a_walk(make, options, stress, recorded, monkeypatch):
    """Small and large moves, a wrapped atom, the same place again: results are those of the graph of each step."""
    network, ((z, pos, batch), lattice) = model(**options), make()
    compute = ReplayedForces(network, z, pos, batch, **lattice, skin=0.4, stress=stress, capacity=600)
    if recorded:
        compute._replay = Recording()(compute._evaluate, pos.device)
    generator, searches = torch.Generator().manual_seed(3), []
    steps = [0.0, 0.02, 0.02, 0.6, 0.02, 0.0]
    for size in steps:
        pos = pos + size * torch.randn(pos.shape, generator=generator, dtype=F64)
        if size == 0.0 and "cell" in lattice:
            pos = pos + lattice["cell"][batch, 0]  # all atoms cross the boundary
        found = compute(pos)
        expected = energy_forces_stress(network, z, pos, batch, **lattice, stress=stress)
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        searches.append(compute.n_searches)
    assert searches[-1] < len(steps) + 1
    assert searches[3] > searches[2] == searches[1]


def test_padding_has_no_effect():
    network, ((z, pos, batch), lattice) = model(), crystals()
    found = [ReplayedForces(network, z, pos, batch, **lattice, capacity=c)(pos) for c in (400, 1500)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    one = torch.tensor([6]), torch.zeros(1, 3, dtype=F64)
    assert ReplayedForces(network, *one)(one[1]).forces.abs().sum() == 0.0  # nothing but padding


def test_results_are_not_those_of_the_next_step():
    network, ((z, pos, batch), lattice) = model(), molecules()
    compute = ReplayedForces(network, z, pos, batch, **lattice)
    first = compute(pos)
    before = first.forces.clone()
    compute(pos + 0.05 * torch.ones_like(pos).cumsum(0))
    assert torch.equal(first.forces, before)


def test_the_model_and_the_atoms_are_copies():
    network, ((z, pos, batch), lattice) = model(), molecules()
    compute = ReplayedForces(network, z, pos, batch, **lattice)
    expected = compute(pos).energy
    with torch.no_grad():
        network.embedding.weight.zero_()
    z.zero_()
    assert torch.equal(compute(pos).energy, expected)


def test_more_edges_than_room_are_refused_and_later_steps_go_on():
    network, ((z, pos, batch), lattice) = model(), molecules()
    far = pos + 50.0 * torch.arange(8, dtype=F64)[:, None]
    n_edges = radius_graph(pos, 3.5, batch).size(1)
    compute = ReplayedForces(network, z, far, batch, **lattice, capacity=n_edges - 1)
    before = compute(far)
    why = rf"there are {n_edges} edges within .* room for {n_edges - 1}; .*capacity="
    for _ in range(2):
        with pytest.raises(ValueError, match=why):
            compute(pos)
    torch.testing.assert_close(compute(far), before)
    with pytest.raises(ValueError, match="room for 3"):
        ReplayedForces(network, z, pos, batch, **lattice, capacity=3)


def test_what_is_wrong_is_said():
    network, ((z, pos, batch), lattice) = model(), molecules()
    compute = ReplayedForces(network, z, pos, batch, **lattice)
    for wrong in (pos[:3], pos.float(), pos.tolist()):
        with pytest.raises(ValueError, match=r"pos must be \[8, 3\] of torch.float64, as at first; got"):
            compute(wrong)
    with pytest.raises(ValueError, match="pos must be finite"):
        compute(pos * torch.nan)
    with pytest.raises(ValueError, match="has none"):
        ReplayedForces(torch.nn.Identity(), z, pos)
    with pytest.raises(ValueError, match="one atom or more"):
        ReplayedForces(network, z[:0], pos[:0])
    with pytest.raises(ValueError, match="skin must be a positive length"):
        ReplayedForces(network, z, pos, batch, **lattice, skin=0.0)


def test_a_graph_that_cannot_be_recorded_gives_one_warning_and_launches(monkeypatch):
    """On a device, as far as that can be seen without one."""
    network, ((z, pos, batch), lattice) = model(), molecules()
    compute = ReplayedForces(network, z, pos, batch, **lattice)

    class OnDevice(torch.Tensor):
        is_cuda = True

    compute._pos, plain = pos.as_subclass(OnDevice), compute._pos
    monkeypatch.setattr(compute, "_evaluate", lambda: None)

    def refuse(step, device):
        raise RuntimeError("waits\nfor it")

    monkeypatch.setattr(replay, "record", refuse)
    with pytest.warns(RuntimeWarning, match="no CUDA graph could be recorded.*: RuntimeError: waits") as caught:
        replayed = compute._record()
    assert replayed is compute._evaluate
    assert len(caught) == 1
    assert not compute.is_recorded
    recorded = []
    monkeypatch.setattr(replay, "record", lambda step, device: recorded.append)
    assert compute._record() == recorded.append
    assert compute.is_recorded
    compute._pos = plain

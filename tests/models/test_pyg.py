"""Same outputs as PyTorch Geometric's SchNet with the same weights."""

import importlib.util

import pytest
import torch
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import DTNN, InteractionGraph, SchNet

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
VARIANTS = {
    "sum": {},
    "mean": {"readout": "mean"},
    "statistics": {"mean": -1.5, "std": 0.3, "atomref": torch.linspace(-5.0, 5.0, 100).view(-1, 1)},
    "mean with statistics": {"readout": "mean", "mean": 2.0, "std": 3.0, "atomref": torch.arange(100.0).view(-1, 1)},
    "dipole": {"dipole": True},
}


def molecules(seed, dtype, count=20):
    """Random points at chemical distances, as a batch."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 25, (count,), generator=generator)
    batch = torch.repeat_interleave(torch.arange(count), sizes)
    z = torch.tensor([1, 6, 7, 8, 9])[torch.randint(5, (len(batch),), generator=generator)]
    pos = torch.rand(len(batch), 3, generator=generator, dtype=dtype) * sizes[batch].unsqueeze(1) ** (1 / 3) * 1.6
    return z, pos, batch


def dense_cluster(seed, dtype):
    """150 atoms of which each has far more than 32 neighbours, PyG's limit."""
    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(150, 3, generator=generator, dtype=dtype) * 7.0
    return torch.randint(1, 30, (150,), generator=generator), pos, torch.zeros(150, dtype=torch.int64)


def pyg_schnet(dtype, scale=None, **options):
    torch.manual_seed(1)
    model = PyGSchNet(64, 48, 3, 25, 5.0, interaction_graph=InteractionGraph(5.0), **options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # biases are zero at first, which would hide some
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.scale = scale
    return model.eval()


def deviation(a, b):
    """Largest difference, relative to the largest value."""
    return float((a - b).detach().abs().max() / b.detach().abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("structures", [molecules, dense_cluster])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_agree_in_both_directions(variant, structures, dtype):
    theirs = pyg_schnet(dtype, **VARIANTS[variant])
    z, pos, batch = structures(0, dtype)
    expected = theirs(z, pos, batch)
    ours = SchNet.from_pyg(theirs)
    assert ours(z, pos, batch).dtype == dtype
    assert deviation(ours(z, pos, batch), expected) < TOLERANCE[dtype]
    assert deviation(ours.to_pyg()(z, pos, batch), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("variant", ["sum", "dipole"])
def test_forces_agree(variant):
    theirs = pyg_schnet(torch.float64, **VARIANTS[variant])
    z, pos, batch = molecules(1, torch.float64)
    forces = []
    for model in (theirs, SchNet.from_pyg(theirs)):
        pos = pos.detach().requires_grad_(True)
        forces.append(torch.autograd.grad(model(z, pos, batch).sum(), pos)[0].nan_to_num())
    assert deviation(forces[1], forces[0]) < 1e-10


def test_scale_is_carried_over():
    theirs = pyg_schnet(torch.float64, scale=4.8, **VARIANTS["statistics"])
    z, pos, batch = molecules(2, torch.float64)
    ours = SchNet.from_pyg(theirs)
    assert deviation(ours(z, pos, batch), theirs(z, pos, batch)) < 1e-10
    assert deviation(ours.to_pyg()(z, pos, batch), theirs(z, pos, batch)) < 1e-10
    dipole = pyg_schnet(torch.float64, scale=4.8, dipole=True)
    assert deviation(SchNet.from_pyg(dipole)(z, pos, batch), dipole(z, pos, batch)) < 1e-10


def test_pyg_itself_drops_neighbours_that_we_keep():
    from torch_geometric.nn.models.schnet import RadiusInteractionGraph

    theirs = pyg_schnet(torch.float64)
    z, pos, batch = dense_cluster(0, torch.float64)

    class First32(torch.nn.Module):
        def forward(self, pos, batch):
            edge_index, dist = InteractionGraph(5.0)(pos, batch)
            keep = torch.cat([(edge_index[1] == i).nonzero()[:32, 0] for i in range(len(pos))])
            return edge_index[:, keep], dist[keep]

    assert RadiusInteractionGraph().max_num_neighbors == 32
    complete = SchNet.from_pyg(theirs)(z, pos, batch)
    theirs.interaction_graph = First32()
    assert deviation(theirs(z, pos, batch), complete) > 1e-3


def test_precision_mode_and_weights_are_those_of_the_given_model():
    theirs = pyg_schnet(torch.float64).train()
    ours = SchNet.from_pyg(theirs)
    assert ours.training
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float64}
    before = theirs.lin1.weight.clone()
    with torch.no_grad():
        ours.readout.network.lin1.weight.zero_()
    assert torch.equal(theirs.lin1.weight, before)


def test_shared_weights_become_copies():
    torch.manual_seed(0)
    ours = SchNet(16, 16, 3, 10, 5.0, activate_filters=False, shared_weights=True).double()
    theirs = ours.to_pyg()
    assert len(theirs.interactions) == 3
    z, pos, batch = molecules(3, torch.float64)
    assert deviation(theirs(z, pos, batch), ours(z, pos, batch)) < 1e-10


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"activate_filters": True}, "softplus after the filter network"),
        ({"window": "hard"}, "window other than the cosine"),
        ({"normalize": True}, "divided by the number of neighbours"),
        ({"trainable_gaussians": True}, "trainable Gaussians"),
        ({"readout": "spatial_extent"}, "ElectronicSpatialExtentReadout"),
        ({"readout": "dipole"}, "corrected charges"),
        ({"out_channels": 2}, "2 outputs"),
    ],
)
def test_what_pyg_lacks_is_refused(options, lacking):
    model = SchNet(16, 16, 1, 10, 5.0, **{"activate_filters": False, **options})
    with pytest.raises(ValueError, match=lacking):
        model.to_pyg()


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"takes a torch_geometric\.nn\.models\.SchNet, got DTNN"):
        SchNet.from_pyg(DTNN())
    theirs = PyGSchNet(16, 16, 1, 10, 5.0, readout="max", interaction_graph=InteractionGraph(5.0))
    with pytest.raises(ValueError, match="must be a sum or a mean"):
        SchNet.from_pyg(theirs)


@pytest.mark.skipif(importlib.util.find_spec("qm9pack") is None, reason="needs QM9: pip install pyg_schnet[qm9]")
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_200_molecules_of_qm9(dtype):
    from pyg_schnet.data import QM9, collate_indices

    dataset = QM9(progress=False)
    batch = collate_indices(dataset, torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:200])
    torch.manual_seed(0)
    theirs = PyGSchNet(cutoff=10.0, interaction_graph=InteractionGraph(10.0)).to(dtype).eval()
    pos = batch.pos.to(dtype)
    with torch.no_grad():
        ours, expected = (model(batch.z, pos, batch.batch) for model in (SchNet.from_pyg(theirs), theirs))
    assert float(((ours - expected).abs() / expected.abs()).max()) < TOLERANCE[dtype]

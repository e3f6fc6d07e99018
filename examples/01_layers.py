"""SchNet's layers by themselves: what each does to a water dimer, and how they make a model.

Run: python examples/01_layers.py
"""

import torch
from ase.build import molecule
from torch_geometric.index import index2ptr
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import InteractionGraph, SchNet, nn, radius_graph
from pyg_schnet.data import to_data
from pyg_schnet.geometry import edge_distances
from pyg_schnet.neighbors import radius


def water_dimer():
    atoms = molecule("H2O")
    other = atoms.copy()
    other.translate([2.9, 0.0, 0.3])
    return to_data(atoms + other)


def main():
    torch.manual_seed(0)
    data = water_dimer()

    # 1. The graph: every pair within the cutoff, sorted by target, as (source j, target i).
    cutoff = 5.0
    edge_index = radius_graph(data.pos, cutoff)
    edge_dist = edge_distances(data.pos, edge_index)
    print(f"graph: {data.num_nodes} atoms, {edge_index.size(1)} edges, longest {edge_dist.max():.2f} Å")

    # 2. The filter (eq. 14 to 16): distance -> Gaussians -> two dense layers -> window. It ends at zero.
    filters = nn.FilterNetwork(
        num_filters=64, basis=nn.GaussianBasis.from_spacing(0.1, cutoff), window=nn.CosineCutoff(cutoff)
    )
    largest = [f"{filters(torch.tensor([d])).abs().max():.1e}" for d in (1.0, 3.0, 4.9, 5.0)]
    print("largest filter at 1, 3, 4.9 and 5 Å:", ", ".join(largest))

    # 3. The continuous-filter convolution (eq. 9): sum over neighbours of features times filters.
    x = torch.randn(data.num_nodes, 64)
    conv = nn.CFConv(filters)
    ptr = index2ptr(edge_index[1], data.num_nodes)  # begin and end of each target's edges
    convolved = conv(x, edge_index, edge_dist, ptr)
    expected = torch.stack(
        [
            sum(x[j] * filters(torch.linalg.norm(data.pos[j] - data.pos[i]).view(1))[0] for j in range(6) if j != i)
            for i in range(6)
        ]
    )
    print(f"cfconv: {tuple(convolved.shape)}, differs from the double loop by {(convolved - expected).abs().max():.1e}")

    # 4. The same convolution at points in space where no atom is (eq. 8).
    points = torch.randn(1000, 3) + data.pos.mean(0)
    to_points = radius(data.pos, points, cutoff)
    field = conv(
        (x, None),
        to_points,
        torch.linalg.norm(data.pos[to_points[0]] - points[to_points[1]], dim=-1),
        size=(data.num_nodes, len(points)),
    )
    print(f"cfconv at {len(points)} points: {tuple(field.shape)}")

    # 5. An interaction block (dense, cfconv, dense, softplus, dense, residual) and a readout make a model.
    block = nn.SchNetInteraction(64, filters)
    readout = nn.SumReadout(64)
    batch = torch.zeros_like(data.z)
    energy = readout(block(x, edge_index, edge_dist, ptr), data.z, data.pos, batch, batch_size=1)
    print(f"one block and a readout: {tuple(energy.shape)}")

    # 6. The models do this for batches, with PyG's call; and they exchange weights with PyG's SchNet.
    theirs = PyGSchNet(64, 64, 3, 50, cutoff, interaction_graph=InteractionGraph(cutoff)).double()
    ours = SchNet.from_pyg(theirs)
    pos = data.pos.double()
    difference = (ours(data.z, pos) - theirs(data.z, pos)).abs().max()
    print(
        f"SchNet.from_pyg: {sum(p.numel() for p in ours.parameters()):,} parameters, outputs differ by {difference:.1e}"
    )


if __name__ == "__main__":
    main()

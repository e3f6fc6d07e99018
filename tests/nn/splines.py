"""Small splined networks to test."""

import torch

from pyg_schnet.nn import CFConv, CosineCutoff, FilterNetwork, GaussianBasis

F64 = torch.float64
CUTOFF = 5.0
BASES = {
    "chapter": lambda: GaussianBasis.from_spacing(0.1, CUTOFF),
    "pyg": lambda: GaussianBasis(50, CUTOFF),
    "coarse": lambda: GaussianBasis(10, CUTOFF),
}


def make_network(seed=0, basis="coarse", window=CosineCutoff, num_filters=6, dtype=F64, **options):
    torch.manual_seed(seed)
    network = FilterNetwork(num_filters, BASES[basis](), window(CUTOFF), **options)
    with torch.no_grad():
        for bias in (network.lin1.bias, network.lin2.bias):
            bias.normal_(std=0.2)
    return network.to(dtype)


def make_conv(seed=0, dtype=F64, num_grid_points=60, **options):
    return CFConv(make_network(seed, dtype=dtype), filters="spline", num_grid_points=num_grid_points, **options)

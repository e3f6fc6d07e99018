"""Random graphs for splined convolutions, and the form whose derivatives they are."""

from typing import NamedTuple

import numpy as np
import torch
from torch_geometric.index import index2ptr

from pyg_schnet.ops import SplineGraph, spline_graph

F64 = torch.float64


class Case(NamedTuple):
    """Arguments of the form L(g, x, C, h) and its edges."""

    g: torch.Tensor
    x: torch.Tensor
    table: torch.Tensor
    basis: torch.Tensor
    graph: SplineGraph


def make_case(
    n_edges=37,
    n_sources=9,
    n_targets=7,
    n_intervals=11,
    *,
    features=5,
    dtype=F64,
    sort=False,
    orders=False,
    targets=None,
    seed=0,
):
    """A random case; ``targets`` are those that edges end at, ``orders`` whether all orders are there."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=F64).to(dtype)

    ends = torch.arange(n_targets) if targets is None else torch.tensor(targets)
    target = ends[torch.randint(len(ends), (n_edges,), generator=random)]
    target = target.sort().values if sort else target
    source = torch.randint(n_sources, (n_edges,), generator=random)
    interval = torch.randint(n_intervals, (n_edges,), generator=random)
    basis = draw(n_edges, 4)
    basis[torch.rand(n_edges, generator=random) < 0.2] = 0.0  # edges beyond the cutoff
    ptr = index2ptr(target, n_targets) if sort else None
    graph = spline_graph(interval, torch.stack([source, target]), n_targets, ptr)
    if orders:
        graph = graph.with_sources(n_sources).with_intervals(n_intervals)
    return Case(draw(n_targets, features), draw(n_sources, features), draw(n_intervals + 3, features), basis, graph)


CASES = {
    "unsorted": {},
    "sorted": {"sort": True, "orders": True},
    "one feature": {"features": 1},
    "many features": {"features": 85, "sort": True},
    "whole vectors": {"features": 128},
    "more targets": {"n_sources": 3, "n_targets": 20},
    "lonely targets": {"targets": [1, 4], "sort": True},
    "one interval": {"n_intervals": 1, "n_edges": 30},
    "one edge": {"n_edges": 1},
    "no edges": {"n_edges": 0},
    "no edges in order": {"n_edges": 0, "sort": True, "orders": True},
    "crowded": {"n_edges": 1500, "targets": [2], "features": 3},
}
LARGE = {"n_edges": 6001, "n_sources": 300, "n_targets": 290, "n_intervals": 60, "features": 96}
"""Enough work for several threads."""
FEW = {"n_edges": 6, "n_sources": 3, "n_targets": 4, "n_intervals": 3, "features": 2}
"""Few enough for all elements of second derivatives."""


def form(case, output):
    """Derivative of the form in float64, one sum over matrices of zeros and ones that say what belongs to what.

    Args:
        case: Arguments and edges.
        output: Indices of the derivative: ``"if"`` with respect to g, ``"jf"`` to x, ``"kf"`` to C, ``"em"`` to h.
    """
    g, x, c, h = (value.detach().double().numpy() for value in case[:4])
    interval, source, target = (value.numpy() for value in case.graph[:3])
    factors = {
        "if": g,
        "jf": x,
        "kf": c,
        "em": h,
        "ei": np.eye(len(g))[target],
        "ej": np.eye(len(x))[source],
        "emk": np.eye(len(c))[interval[:, None] + np.arange(4)],
    }
    del factors[output]
    return np.einsum(f"{','.join(factors)}->{output}", *factors.values(), optimize=True)

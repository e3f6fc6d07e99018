"""Random graphs for the kernels, and the form whose derivatives they are."""

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
    coefficients: torch.Tensor
    weights: torch.Tensor
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
    undirected=False,
    targets=None,
    seed=0,
):
    """A random case; ``targets`` are those that edges end at."""
    if undirected:
        n_targets, sort = n_sources, True
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=F64).to(dtype)

    ends = torch.arange(n_targets) if targets is None else torch.tensor(targets)
    target = ends[torch.randint(len(ends), (n_edges,), generator=random)]
    target = target.sort().values if sort else target
    source = torch.randint(n_sources, (n_edges,), generator=random)
    bins = torch.randint(n_intervals, (n_edges,), generator=random)
    weights = draw(n_edges, 4)
    weights[torch.rand(n_edges, generator=random) < 0.2] = 0.0  # edges beyond the cutoff
    ptr = index2ptr(target, n_targets) if sort else None
    return Case(
        draw(n_targets, features),
        draw(n_sources, features),
        draw(n_intervals + 3, features),
        weights,
        spline_graph(bins, torch.stack([source, target]), n_targets, ptr, undirected=undirected),
    )


CASES = {
    "unsorted": {},
    "sorted": {"sort": True},
    "more targets": {"n_sources": 3, "n_targets": 20},
    "lonely targets": {"targets": [1, 4], "sort": True},
    "one interval": {"n_intervals": 1, "n_edges": 30},
    "one edge": {"n_edges": 1},
    "no edges": {"n_edges": 0},
    "no edges in order": {"n_edges": 0, "sort": True},
    "undirected": {"undirected": True, "n_edges": 60},
    "undirected, one interval": {"undirected": True, "n_intervals": 1},
    "undirected, atoms and their images": {"undirected": True, "n_sources": 1},
    "undirected, no edges": {"undirected": True, "n_edges": 0},
}
LARGE = {"n_edges": 6001, "n_sources": 300, "n_targets": 290, "n_intervals": 60, "features": 96}
"""Enough work for several threads."""


def both_directions(case):
    """The directed case of an undirected one: all edges, and then all of them in the other direction."""
    bins, source, target = (value.numpy() for value in case.graph[:3])
    source, target = torch.from_numpy(np.append(source, target)), torch.from_numpy(np.append(target, source))
    graph = spline_graph(torch.from_numpy(np.append(bins, bins)), torch.stack([source, target]), len(case.x))
    return case._replace(weights=case.weights.repeat(2, 1), graph=graph)


def form(case, output):
    """Derivative of the form in float64, one sum over matrices of zeros and ones that say what belongs to what.

    Args:
        case: Arguments and edges.
        output: Indices of the derivative: ``"if"`` by g, ``"jf"`` by x, ``"kf"`` by C, ``"em"`` by h.
    """
    if case.graph.undirected:
        found = form(both_directions(case), output)
        return found[: len(case.weights)] + found[len(case.weights) :] if output == "em" else found
    g, x, c, h = (value.double().numpy() for value in case[:4])
    bins, source, target = (value.numpy() for value in case.graph[:3])
    factors = {
        "if": g,
        "jf": x,
        "kf": c,
        "em": h,
        "ei": np.eye(len(g))[target],
        "ej": np.eye(len(x))[source],
        "emk": np.eye(len(c))[bins[:, None] + np.arange(4)],
    }
    del factors[output]
    return np.einsum(f"{','.join(factors)}->{output}", *factors.values(), optimize=True)

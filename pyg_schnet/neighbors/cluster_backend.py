"""Open boundaries with torch-cluster, an optional package."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.neighbors._checks import Structures
from pyg_schnet.neighbors.criterion import edge_exists


def cluster_open(structures: Structures, cutoff: float) -> Tensor:
    """Edges of open structures, ``[2, E]``, sorted by target.

    torch-cluster silently drops points beyond ``max_num_neighbors``, so the limit is set to the
    size of the largest structure; on a GPU this costs memory proportional to the number of atoms times that size.

    Raises:
        ImportError: If torch-cluster is not installed.
    """
    try:
        from torch_cluster import radius
    except ImportError as error:
        raise ImportError(
            "backend='torch_cluster' needs the package torch-cluster, which is not installed; run "
            "pip install pyg_schnet[ext], or use backend='torch', which finds the same edges"
        ) from error
    pos, batch, _ = structures
    target, source = radius(
        pos,
        pos,
        cutoff * (1 + 1e-5),
        batch,
        batch,
        max_num_neighbors=int(structures.n_points.max()),
        batch_size=structures.batch_size,
    )
    edge_index = torch.stack([source, target])
    edge_index = edge_index[:, (source != target) & edge_exists(pos, edge_index, cutoff)]
    return edge_index[:, edge_index[1].argsort(stable=True)]

"""Which rows of a batch belong to which structure: what PyG notes when it joins structures.

``Batch.to_data_list()`` and ``batch[i]`` cut a batch by it. PyG has no public function to set it, so its private names
are used here and nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch_geometric.data import Batch


class Slices(NamedTuple):
    """Notes on the rows of each attribute.

    Attributes:
        bounds: Where the rows of each structure begin and end, ``[B + 1]``, by attribute.
        increments: What was added to the values of each structure, ``[B]``, by attribute; ``None`` for what is no
            tensor.
    """

    bounds: dict[str, Tensor]
    increments: dict[str, Tensor | None]


def slices_of(batch: Batch) -> Slices | None:
    """Copies of the notes of a batch; ``None`` where it has none, as one that was not made by a loader."""
    if not hasattr(batch, "_slice_dict"):
        return None
    return Slices(dict(batch._slice_dict), dict(batch._inc_dict))


def set_slices(batch: Batch, slices: Slices, num_graphs: int) -> None:
    """Note which rows of a batch belong to which of its ``num_graphs`` structures."""
    batch._num_graphs, batch._slice_dict, batch._inc_dict = num_graphs, slices.bounds, slices.increments

"""Transforms of structures and of whole batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from pyg_schnet.data._batch import set_slices, slices_of
from pyg_schnet.data.atoms import positions_of
from pyg_schnet.neighbors import radius_graph
from pyg_schnet.neighbors.backend import Backend
from pyg_schnet.ops.dispatch import is_at_hand

MARK = "neighbor_list"
"""Attribute of structures whose edges :class:`NeighborList` made: cutoff in Å and number of edges, ``[B, 2]``."""


_KNOWN = "_edges_known"  # number of edges and cutoff as numbers of Python, so that a device need not be asked


class NeighborList(BaseTransform):
    """Add the complete radius graph: ``edge_index`` ``[2, E]``, and ``edge_shift`` ``[E, 3]`` where it is periodic.

    It works on a single structure and on a whole batch; the latter, as ``transform`` of a
    :class:`~pyg_schnet.data.StructureLoader`, is the fast way. Both attributes batch by PyG's rules for their names:
    the indices count on from structure to structure, the shifts are only joined. A third one, ``neighbor_list``
    ``[1, 2]``, notes the cutoff and the number of edges: by it training knows these edges from others, see
    ``cutoff_of_edges``. Positions must not change afterwards, so take it as the last transform.

    Args:
        cutoff: Cutoff in Å.
        periodic: ``None`` looks for periodic directions in the data and adds ``edge_shift`` if there is one, anywhere
            in the batch. ``True`` adds it always; take this for single structures, some of them molecules, that are
            batched afterwards. ``False`` never does, and refuses periodic structures.
        backend: Of :func:`pyg_schnet.neighbors.radius_graph`.

    Raises:
        ValueError: If the cutoff is not positive, ``periodic=False`` meets a periodic structure, a periodic one has
            no cell, or one has no positions.

    Example:
        >>> data = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]))
        >>> NeighborList(cutoff=5.0)(data).edge_index
        tensor([[1, 0],
                [0, 1]])
    """

    def __init__(self, cutoff: float, periodic: bool | None = None, backend: Backend = "auto") -> None:
        if not cutoff > 0:
            raise ValueError(f"cutoff must be a positive length in Å, got {cutoff!r}")
        self.cutoff, self.periodic, self.backend = float(cutoff), periodic, backend

    def forward(self, data: Data) -> Data:
        """Add the edges to ``data`` in place, and return it; calling the transform does so on a shallow copy."""
        pos = positions_of(data)
        n_structures = data.num_graphs if isinstance(data, Batch) else 1
        batch = data.batch if isinstance(data, Batch) else None
        pbc = data.get("pbc")
        has_pbc = pbc is not None and bool(pbc.any())
        if has_pbc and self.periodic is False:
            raise ValueError("periodic=False, but a structure is periodic; take periodic=None or set its pbc to False")
        shift = None
        if has_pbc or self.periodic:
            cell, pbc = self._lattice(data, pbc, n_structures)
            index, shift = radius_graph(
                pos, self.cutoff, batch, batch_size=n_structures, cell=cell, pbc=pbc, backend=self.backend
            )
        else:
            index = radius_graph(pos, self.cutoff, batch, batch_size=n_structures, backend=self.backend)
        data.edge_index = index
        if shift is not None:
            data.edge_shift = shift
        elif "edge_shift" in data:
            del data.edge_shift
        if batch is None:
            counts = torch.tensor([index.size(1)], device=pos.device)
        else:
            counts = torch.bincount(batch[index[1]], minlength=n_structures)
        cutoff = torch.full((n_structures,), self.cutoff, device=counts.device)
        data[MARK] = torch.stack([cutoff, counts.to(cutoff.dtype)], dim=1)
        data.__dict__[_KNOWN] = index.size(1), float(f"{self.cutoff:.7g}")
        if isinstance(data, Batch):
            _note_edges(data, counts, shift)
        return data

    def _lattice(self, data: Data, pbc: Tensor | None, n_structures: int) -> tuple[Tensor, Tensor]:
        if pbc is None:  # molecules, asked for shifts
            pbc = torch.zeros(n_structures, 3, dtype=torch.bool, device=data.pos.device)
        cell = data.get("cell")
        if cell is None:
            if bool(pbc.any()):
                raise ValueError("a structure has periodic directions but no `cell` [1, 3, 3] in Å")
            cell = data.pos.new_zeros(n_structures, 3, 3)
        return cell, pbc

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cutoff={self.cutoff} Å)"


def _note_edges(batch: Batch, counts: Tensor, shift: Tensor | None) -> None:
    """Tell PyG which edges are whose, so that ``batch[i]`` and ``to_data_list()`` give them too."""
    slices = slices_of(batch)
    if slices is None:
        return
    bounds = torch.zeros(batch.num_graphs + 1, dtype=torch.int64)
    torch.cumsum(counts.cpu(), 0, out=bounds[1:])
    none = torch.zeros(batch.num_graphs, dtype=torch.int64)
    slices.bounds["edge_index"], slices.increments["edge_index"] = bounds, batch.ptr[:-1].cpu()
    slices.bounds.pop("edge_shift", None)
    if shift is not None:
        slices.bounds["edge_shift"], slices.increments["edge_shift"] = bounds, none
    slices.bounds[MARK], slices.increments[MARK] = torch.arange(batch.num_graphs + 1), none
    set_slices(batch, slices, batch.num_graphs)


def cutoff_of_edges(data: Data) -> float | None:
    """Cutoff in Å of edges that :class:`NeighborList` made; the smallest one in a batch.

    A device is asked only if it was not known before edges were moved there.

    Args:
        data: A ``Data`` or ``Batch``.

    Returns:
        ``None`` where there are no edges, or others: bonds as in PyTorch Geometric's QM9, those of another transform,
        or some that were added or taken away since.

    Example:
        >>> data = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]))
        >>> cutoff_of_edges(NeighborList(cutoff=5.0)(data))
        5.0
        >>> cutoff_of_edges(Data(edge_index=torch.tensor([[1, 0], [0, 1]]))) is None
        True
    """
    mark, index = data.get(MARK), data.get("edge_index")
    if not isinstance(mark, Tensor) or mark.dim() != 2 or mark.size(1) != 2 or not isinstance(index, Tensor):
        return None
    if mark.size(0) != (data.num_graphs if isinstance(data, Batch) else 1):
        return None
    known = data.__dict__.get(_KNOWN)
    if known is not None and known[0] == index.size(-1) and not is_at_hand(mark):
        return known[1]
    if int(mark[:, 1].long().sum()) != index.size(-1):
        return None
    cutoff = float(f"{float(mark[:, 0].min()):.7g}")  # as it was given: the mark has single precision
    data.__dict__[_KNOWN] = index.size(-1), cutoff
    return cutoff

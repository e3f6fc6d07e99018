"""Data sets kept as one concatenated store, with named targets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data, InMemoryDataset

from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.properties import Property, find_property, target_mask, target_values


class StructureDataset(InMemoryDataset):
    """A PyG data set in memory that knows the names and units of its targets.

    Subclasses fill it with :meth:`set_store`. Selecting (``dataset[:100]``, ``dataset[mask]``) and shuffling are PyG's,
    and share the memory of the full set.

    Args:
        root: Folder of the cached file, for subclasses that have one.
        transform: Applied to every single structure on access. Give transforms of whole batches, such as
            :class:`~pyg_schnet.data.NeighborList`, to :class:`~pyg_schnet.data.StructureLoader` instead, which is
            many times faster.
    """

    properties: dict[str, Property] = {}  # noqa: RUF012 - replaced by subclasses or instances, never edited

    def __init__(self, root: str | None = None, transform: Callable | None = None) -> None:
        super().__init__(root, transform)

    def set_store(
        self, n_atoms: Tensor, atoms: Mapping[str, Tensor], structures: Mapping[str, Tensor | Sequence[str]]
    ) -> None:
        """Take over concatenated columns as the content of the data set.

        Args:
            n_atoms: Atoms of each structure, shape ``[B]``.
            atoms: Columns with one row per atom, each ``[N, ...]``.
            structures: Columns with one row per structure, each a tensor ``[B, ...]`` or a list of ``B`` strings.

        Raises:
            ValueError: If there is no structure, or a column has another number of rows.
        """
        self._data_list = None  # structures that PyG has already cut out of the old content
        count, total = n_atoms.numel(), int(n_atoms.sum())
        if count == 0:
            raise ValueError("the data set has no structures")
        for columns, rows in ((atoms, total), (structures, count)):
            for name, column in columns.items():
                if len(column) != rows:
                    raise ValueError(f"column {name!r} has {len(column)} rows, expected {rows}")
        lists = {name: list(column) for name, column in structures.items() if not isinstance(column, Tensor)}
        data = Data(**atoms, **{**structures, **lists})
        if count == 1:  # PyG's form of a data set with one structure: the structure itself, and no slices
            for name, column in lists.items():
                data[name] = column[0]
            self._data, self.slices = data, None
            return
        per_atom = torch.zeros(count + 1, dtype=torch.int64)
        torch.cumsum(n_atoms, 0, out=per_atom[1:])
        per_structure = torch.arange(count + 1)
        self._data = data
        self.slices = dict.fromkeys(atoms, per_atom) | dict.fromkeys(structures, per_structure)

    def to(self, device: int | str | torch.device) -> StructureDataset:
        """Move the store, and with it that of all selections from this data set, to a device; batches are made there.

        Args:
            device: For example ``"cuda"``, to which QM9 brings 100 MB.

        Returns:
            This data set.

        Raises:
            ValueError: For a selection; move the whole data set.

        Example:
            >>> dataset = StructureDataset()
            >>> dataset.set_store(torch.tensor([1, 2]), {"pos": torch.zeros(3, 3)}, {"energy": torch.zeros(2)})
            >>> collate_indices(dataset.to("meta"), [1, 0]).pos.device
            device(type='meta')
        """
        self._data_list = None  # structures that were cut out before
        return super().to(device)

    def values(self, name: str) -> Tensor:
        """All stored values of the target ``name`` (of those structures that have it), in its unit.

        The ``transform`` of the data set is not applied.

        Raises:
            ValueError: If there is no such target.
        """
        target = find_property(self, name)
        wanted = {target.attribute, f"has_{target.attribute}", "pos"}  # pos: PyG counts atoms by it
        stored = copy.copy(self)
        stored.transform = None
        batch = collate_indices(stored, range(len(self)), exclude_keys=set(self._data.keys()) - wanted)
        values, mask = target_values(batch, target), target_mask(batch, target)
        if mask is None:
            return values
        return values[mask] if target.level == "structure" else values[mask[batch.batch]]

    def mean(self, name: str) -> float:
        """Mean of the target ``name`` over the structures (or atoms, or components) that have it, in its unit."""
        return float(self.values(name).double().mean())

    def std(self, name: str) -> float:
        """Standard deviation, with the divisor n - 1, of what :meth:`mean` averages."""
        return float(self.values(name).double().std())

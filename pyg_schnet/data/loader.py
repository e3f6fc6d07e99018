"""Batches straight from the concatenated store of an in-memory data set, without a loop over structures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset
from torch_geometric.data import Batch, Data, Dataset, InMemoryDataset, OnDiskDataset

from pyg_schnet.data._batch import Slices, set_slices
from pyg_schnet.ops import rows_of

_NODE_KEYS = ("x", "pos")  # those by which PyG counts the nodes of a structure
_SPECIAL_KEYS = ("num_nodes", "ptr", "feat", "node_type", "n_id")  # those that PyG treats in ways of their own


def collate_indices(
    dataset: Any,
    indices: Sequence[int] | Tensor,
    exclude_keys: Iterable[str] | None = None,
    follow_batch: Iterable[str] | None = None,
) -> Batch:
    """Batch of the structures ``indices`` of a data set, equal to PyG's ``Batch.from_data_list``.

    An :class:`~torch_geometric.data.InMemoryDataset` keeps all structures in one concatenated ``Data``. A batch is
    then a few index selections from it, whatever the number of structures, where PyG cuts out one ``Data`` for each
    structure and joins them again. ``Batch.to_data_list()`` and ``batch[i]`` work as usual.

    The store may be on a device (``dataset.to("cuda")``; QM9 takes 100 MB): batches are gathered there, and nothing but
    the numbers of rows is copied to it.

    The fast way is open to any in-memory data set of ``Data`` with plain tensors and strings, indexed or shuffled or
    not, also inside :class:`torch.utils.data.Subset`. Everything else goes through PyG's own collation: data sets that
    are not in memory, have a ``transform`` for each structure, override ``get``, or hold nested, sparse or
    self-incrementing attributes. There, structures without ``cell``, ``pbc``, ``origin`` or ``edge_shift`` beside
    others that have them are molecules: they get zeros.

    Args:
        dataset: Data set to take from.
        indices: Which structures, in this order; repeats and negative numbers are allowed.
        exclude_keys: Attributes to leave out.
        follow_batch: Attributes for which to note whose each row is, as ``<name>_batch`` and ``<name>_ptr``.

    Returns:
        The batch, with ``batch`` ``[N]`` and ``ptr`` ``[B + 1]``.

    Raises:
        ValueError: If ``indices`` is empty, or structures do not have the same attributes.
        TypeError: If ``indices`` are not whole numbers.
        IndexError: If an index is out of range.

    Example:
        >>> from pyg_schnet.data.base import StructureDataset
        >>> dataset = StructureDataset()
        >>> dataset.set_store(torch.tensor([1, 2, 1]), {"pos": torch.zeros(4, 3)}, {"energy": torch.arange(3.0)})
        >>> collate_indices(dataset, [1, 0]).batch
        tensor([0, 0, 1])
    """
    index = indices if isinstance(indices, Tensor) else torch.from_numpy(np.array(indices).reshape(-1))
    if index.numel() == 0:
        raise ValueError("indices is empty; a batch needs at least one structure")
    if index.dtype == torch.bool or index.is_floating_point():
        raise TypeError(f"indices must be whole numbers, got {index.dtype}; for a mask, select dataset[mask] first")
    index = _in_range(index.flatten().to(torch.int64), len(dataset))
    dataset, index = _unwrap(dataset, index)
    exclude, follow = frozenset(exclude_keys or ()), frozenset(follow_batch or ())
    if not can_gather(dataset):
        return _join(_one_by_one(dataset, index.tolist()), exclude, follow)
    if dataset._indices is not None:
        chosen = dataset._indices
        index = torch.from_numpy(np.array([chosen[i] for i in index.tolist()], np.int64))
    return _gather(dataset._data, dataset.slices, index, exclude, follow)


def _in_range(index: Tensor, size: int) -> Tensor:
    lowest, highest = (int(end) for end in torch.aminmax(index))
    if lowest < -size or highest >= size:
        raise IndexError(f"indices run from {lowest} to {highest}; the data set has {size} structures")
    return torch.where(index < 0, index + size, index) if lowest < 0 else index


def _unwrap(dataset: Any, index: Tensor) -> tuple[Any, Tensor]:
    """Look through :class:`torch.utils.data.Subset`."""
    while isinstance(dataset, Subset):
        chosen = dataset.indices
        index = torch.tensor([int(chosen[i]) for i in index.tolist()])
        dataset = dataset.dataset
    return dataset, index


def _one_by_one(dataset: Any, index: list[int]) -> list[Data]:
    if isinstance(dataset, OnDiskDataset):  # one query for all
        chosen = dataset.indices()
        return dataset.multi_get([chosen[i] for i in index])
    return [dataset[i] for i in index]


def _join(structures: list[Data], exclude: frozenset[str], follow: frozenset[str]) -> Batch:
    """PyG's own collation, where structures without cell, boundaries or origin are molecules about zero."""
    structures = _alike(structures, exclude)
    try:
        return Batch.from_data_list(structures, follow_batch=list(follow), exclude_keys=list(exclude))
    except KeyError as error:
        raise ValueError(
            f"structures of one batch must have the same attributes, but some have no {error.args[0]!r}; leave it out "
            "with exclude_keys, or give it to all"
        ) from error
    except AttributeError as error:
        kind = type(structures[0]).__name__
        if isinstance(structures[0], Data):
            raise
        raise ValueError(f"structures must be torch_geometric.data.Data with z and pos, got a {kind}") from error


def _alike(structures: list[Data], exclude: frozenset[str]) -> list[Data]:
    """Structures that all have a lattice, if one has: PyG would leave it out where the first one has none."""
    for name in ("cell", "pbc", "origin", "edge_shift"):
        given = [isinstance(data, Data) and name in data for data in structures]
        if name in exclude or all(given) or not any(given):
            continue
        example = structures[given.index(True)][name]
        if not isinstance(example, Tensor) or example.dim() == 0:
            continue
        structures = [
            data if has or not isinstance(data, Data) else _with_zeros(data, name, example)
            for data, has in zip(structures, given, strict=True)
        ]
    return structures


def _with_zeros(data: Data, name: str, example: Tensor) -> Data:
    edge_index = data.get("edge_index")
    if name != "edge_shift":
        rows = 1
    elif edge_index is None:
        return data
    else:
        rows = edge_index.size(1)
    data = copy.copy(data)
    data[name] = example.new_zeros(rows, *example.shape[1:])
    return data


def can_gather(dataset: Any) -> bool:
    """Whether index selection gives what PyG's collation would."""
    if not isinstance(dataset, InMemoryDataset) or dataset.transform is not None or dataset.slices is None:
        return False
    if type(dataset).get is not InMemoryDataset.get or type(dataset).__getitem__ is not Dataset.__getitem__:
        return False
    data = dataset._data
    if not isinstance(data, Data) or type(data).__inc__ is not Data.__inc__:
        return False
    if type(data).__cat_dim__ is not Data.__cat_dim__ or set(data.keys()) != set(dataset.slices):
        return False
    if not any(key in dataset.slices for key in _NODE_KEYS):
        return False
    if len({value.device for value in data.to_dict().values() if isinstance(value, Tensor)}) > 1:
        return False
    for key, value in data.items():
        if key in _SPECIAL_KEYS or "batch" in key or not isinstance(dataset.slices[key], Tensor):
            return False
        if type(value) is Tensor:
            if value.layout != torch.strided or value.is_nested or value.dim() == 0:
                return False
        elif not (isinstance(value, list) and isinstance(value[0], str)):
            return False
    return True


@lru_cache(maxsize=16)
def _empty_batch(base: type[Data]) -> Batch:
    """Batch without anything; PyG makes a new class for each, which takes as long as a selection."""
    return Batch(_base_cls=base)


def _sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers of the CPU on a device, without waiting for it."""
    if device.type == "cpu":
        return numbers
    return (numbers.pin_memory() if device.type == "cuda" else numbers).to(device, non_blocking=True)


def device_of(dataset: Any) -> torch.device:
    """Device of the store of a data set in memory, and of the batches that are gathered from it; others are of CPUs.

    Example:
        >>> device_of([Data(pos=torch.zeros(1, 3))])
        device(type='cpu')
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    pos = getattr(getattr(dataset, "_data", None), "pos", None)
    return pos.device if isinstance(pos, Tensor) else torch.device("cpu")


def _gather(
    data: Data, slices: dict[str, Tensor], index: Tensor, exclude: frozenset[str], follow: frozenset[str]
) -> Batch:
    size = index.numel()
    base: Any = type(data)
    out = copy.copy(_empty_batch(base))
    slice_dict: dict[str, Tensor] = {}
    inc_dict: dict[str, Tensor | None] = {}
    plans: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # columns that share one slices tensor are planned once

    def plan(key: str) -> tuple[Tensor, Tensor, Tensor]:
        """Rows to take, the place of their structure in the batch, and where the rows of each place begin."""
        bounds = slices[key]
        if id(bounds) not in plans:
            rows, owner, ptr = rows_of(bounds, index)
            plans[id(bounds)] = rows if device.type == "cpu" else _sent(rows, device), owner, ptr
        return plans[id(bounds)]

    node_key = next(key for key in slices if key in _NODE_KEYS)
    device = data[node_key].device  # rows are planned on the CPU, where the slices are
    _, batch, ptr = plan(node_key)
    first_atom = ptr[:-1]
    no_increment = torch.zeros(size, dtype=torch.int64)
    for key in slices:
        if key in exclude:
            continue
        value = data[key]
        if isinstance(value, list):
            out[key] = [value[i] for i in index.tolist()]
            slice_dict[key], inc_dict[key] = torch.arange(size + 1), None
            continue
        rows, owner, key_ptr = plan(key)
        dim = data.__cat_dim__(key, value)
        if dim == 0:  # rows on the last dimension are those whose name PyG takes for an index of nodes
            out[key], inc_dict[key] = value.index_select(0, rows), no_increment
        else:
            out[key] = value.index_select(dim, rows) + _sent(first_atom.index_select(0, owner), device)
            inc_dict[key] = first_atom
        slice_dict[key] = key_ptr
        if key in follow:
            out[f"{key}_batch"], out[f"{key}_ptr"] = _sent(owner, device), _sent(key_ptr, device)
    out.batch, out.ptr = _sent(batch, device), _sent(ptr, device)
    set_slices(out, Slices(slice_dict, inc_dict), size)
    return out


class _BatchSource(torch.utils.data.Dataset):
    """Gives torch's loader whole batches: it asks ``__getitems__`` for a list of indices, once per batch."""

    def __init__(
        self, dataset: Any, transform: Callable | None, exclude_keys: Iterable[str], follow_batch: Iterable[str]
    ) -> None:
        self.dataset, self.transform = dataset, transform
        self.exclude_keys, self.follow_batch = tuple(exclude_keys), tuple(follow_batch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Any) -> Batch:
        batch = collate_indices(self.dataset, indices, self.exclude_keys, self.follow_batch)
        return batch if self.transform is None else self.transform(batch)

    def __getitem__(self, index: int | Sequence[int]) -> Batch:  # batch_size=None: the sampler gives lists of indices
        return self.__getitems__(np.atleast_1d(index))


def _as_is(batch: Batch) -> Batch:
    return batch


class StructureLoader(torch.utils.data.DataLoader):
    """Torch's data loader, with batches from ``collate_indices`` and transforms of whole batches.

    Shuffling, generators, samplers, ``drop_last``, pinned memory and worker processes are torch's. From a data set that
    was moved to a device (``dataset.to("cuda")``), batches are gathered there. Data sets for which
    ``collate_indices`` has no fast way are collated as PyG does, and so give the same batches, slower.

    Args:
        dataset: Data set to draw from. :attr:`structures` gives it back; ``loader.dataset`` is a thin wrapper.
        batch_size: Structures per batch.
        shuffle: Whether to draw in a new order in every epoch.
        transform: Applied to every batch as a whole, for example ``NeighborList(cutoff=5.0)``.
        exclude_keys: Attributes to leave out.
        follow_batch: Attributes for which to note whose each row is, as ``<name>_batch`` and ``<name>_ptr``.
        **kwargs: Other arguments of :class:`torch.utils.data.DataLoader`.

    Raises:
        ValueError: For worker processes with a data set on another device than the CPU.

    Example:
        >>> from pyg_schnet.data.base import StructureDataset
        >>> dataset = StructureDataset()
        >>> dataset.set_store(torch.tensor([1, 2, 1]), {"pos": torch.zeros(4, 3)}, {"energy": torch.arange(3.0)})
        >>> [batch.energy.tolist() for batch in StructureLoader(dataset, batch_size=2)]
        [[0.0, 1.0], [2.0]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool = False,
        transform: Callable | None = None,
        exclude_keys: Iterable[str] | None = None,
        follow_batch: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("collate_fn", None)  # Lightning hands it back when it rebuilds a loader with another sampler
        if isinstance(dataset, _BatchSource):  # and so the wrapper
            dataset = dataset.dataset
        device = device_of(dataset)
        if device.type != "cpu":
            if kwargs.get("num_workers"):
                raise ValueError(
                    f"the data set is on {device}, where batches are gathered without worker processes; take "
                    "num_workers=0, or dataset.cpu()"
                )
            kwargs["pin_memory"] = False  # there is nothing to copy
        self.transform = transform
        self.exclude_keys, self.follow_batch = tuple(exclude_keys or ()), tuple(follow_batch or ())
        source = _BatchSource(dataset, transform, self.exclude_keys, self.follow_batch)
        super().__init__(source, batch_size, shuffle, collate_fn=_as_is, **kwargs)

    @property
    def structures(self) -> Any:
        """The data set that the loader was made with."""
        source: Any = self.dataset
        return source.dataset

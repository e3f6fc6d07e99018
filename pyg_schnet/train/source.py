"""What tasks ask of training data that come from other data modules or from plain data loaders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler
from torch_geometric.data import Batch

from pyg_schnet.data import Property, StructureLoader, find_property, properties_of
from pyg_schnet.train.datamodule import StructureDataModule

_OF_ALL = (SequentialSampler, RandomSampler, DistributedSampler)  # that take every structure of a data set


class LoaderSource(StructureDataModule):
    """The training structures of any data loader, with the statistics of a :class:`StructureDataModule`.

    Args:
        loader: Loader of batches of ``Data`` with ``z`` and ``pos``: PyTorch Geometric's ``DataLoader`` or a
            :class:`pyg_schnet.data.StructureLoader`.
        target: What is learned; a name where the data set knows its targets, ``None`` where it has one.

    Raises:
        ValueError: If there are several loaders, or the target is not known.
    """

    def __init__(self, loader: DataLoader, target: Property | str | None) -> None:
        LightningDataModule.__init__(self)
        if isinstance(loader, (list, tuple, dict)):
            raise ValueError(f"training takes one data loader, got {len(loader)}; join the data sets in one")
        self.loader = loader
        self.dataset = loader.structures if isinstance(loader, StructureLoader) else getattr(loader, "dataset", None)
        self.train_set = self.dataset
        self.property = _target_of(self.dataset, target)

    def _pieces(self) -> Iterator[Batch]:
        if _takes_all(self.loader):
            yield from super()._pieces()
            return
        with torch.random.fork_rng(devices=[]):  # looking at the data changes no later draw
            for batch in self.loader:
                if not isinstance(batch, Batch):
                    raise ValueError(
                        f"batches must be torch_geometric.data.Batch, got a {type(batch).__name__}; use the DataLoader "
                        "of torch_geometric.loader or the StructureLoader of pyg_schnet.data"
                    )
                yield batch


def source_of(trainer: Trainer, target: Property | str | None) -> StructureDataModule:
    """The training structures of a trainer that is about to fit.

    Args:
        trainer: Trainer, its data attached.
        target: What is learned, where the task knows it.

    Returns:
        The data module, if it is one of this package, or what its training loader or the given one loads.
    """
    module = getattr(trainer, "datamodule", None)
    if isinstance(module, StructureDataModule):
        return module
    trainer.fit_loop.setup_data()
    return LoaderSource(trainer.train_dataloader, target)


def _takes_all(loader: Any) -> bool:
    """Whether a loader draws every structure of a data set that can be asked for each of them."""
    return (
        isinstance(loader, DataLoader)
        and hasattr(loader.dataset, "__getitem__")
        and hasattr(loader.dataset, "__len__")
        and type(loader.batch_sampler) in (BatchSampler, type(None))
        and isinstance(loader.sampler, _OF_ALL)
        and getattr(loader.sampler, "num_samples", len(loader.dataset)) is not None
        and not getattr(loader.sampler, "replacement", False)
    )


def _target_of(dataset: Any, target: Property | str | None) -> Property:
    if target is not None:
        return find_property(dataset, target)
    known = properties_of(dataset)
    if len(known) != 1:
        raise ValueError(
            f"say which target is learned, PropertyTask(network, target=...); the data set has {', '.join(known)}"
        )
    return next(iter(known.values()))

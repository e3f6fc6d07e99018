"""What tasks ask of training data that come from other data modules or from plain data loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler
from torch_geometric.data import Batch, Data

from pyg_schnet.data import Property, StructureLoader, target_values
from pyg_schnet.data.atoms import atoms_of
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.properties import find_properties, properties_of
from pyg_schnet.train.datamodule import StructureDataModule

Target = Property | str | Sequence[Property | str] | None
_OF_ALL = (SequentialSampler, RandomSampler, DistributedSampler)  # that take every structure of a data set


class LoaderSource(StructureDataModule):
    """The training structures of any data loader, with the statistics of a :class:`StructureDataModule`.

    Args:
        loader: Loader of batches of ``Data`` with ``z`` and ``pos``: PyTorch Geometric's ``DataLoader`` or a
            :class:`pyg_schnet.data.StructureLoader`.
        target: What is learned, one or a list; names where the data set knows its targets, ``None`` where it has one.

    Raises:
        ValueError: If there are several loaders, or the target is not known.
    """

    def __init__(self, loader: DataLoader, target: Target) -> None:
        LightningDataModule.__init__(self)
        if isinstance(loader, (list, tuple, dict)):
            raise ValueError(f"training takes one data loader, got {len(loader)}; join the data sets in one")
        self.dataset = loader.structures if isinstance(loader, StructureLoader) else getattr(loader, "dataset", None)
        self.properties = _targets_of(self.dataset, target)
        self.property = self.properties[0]
        self.train_set = self.dataset if _takes_all(loader) else _drawn(loader)
        self.val_set = self.test_set = []
        self._surveyed = None
        atoms_of(self.train_set[0])

    def target_widths(self, targets: Sequence[Property]) -> list[int]:
        """Numbers of each target that each structure has."""
        first = collate_indices(self.train_set, [0])
        return [target_values(first, target).numel() for target in targets]


def _drawn(loader: DataLoader) -> list[Data]:
    """What a loader draws in one epoch."""
    structures: list[Data] = []
    with torch.random.fork_rng(devices=[]):  # looking at the data changes no later draw
        for batch in loader:
            if not isinstance(batch, Batch):
                raise ValueError(
                    f"batches must be torch_geometric.data.Batch, got a {type(batch).__name__}; use the DataLoader "
                    "of torch_geometric.loader or the StructureLoader of pyg_schnet.data"
                )
            structures += batch.to_data_list()
    return structures


def source_of(trainer: Trainer, target: Target) -> StructureDataModule:
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
    loader: Any = trainer.train_dataloader
    return LoaderSource(loader, target)


def check_stated(target: Property | None) -> None:
    """Raise unless it is known what is compared, where no data module of this package says it.

    Raises:
        ValueError: If it is not.
    """
    if target is None:
        raise ValueError(
            "this data module does not say what is compared: PropertyTask(network, target=...) takes a Property "
            'such as Property("y", "eV", column=0)'
        )


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


def _targets_of(dataset: Any, target: Target) -> list[Property]:
    if target is not None:
        return find_properties(dataset, target)
    known = properties_of(dataset)
    if len(known) != 1:
        raise ValueError(
            f"say which target is learned, PropertyTask(network, target=...); the data set has {', '.join(known)}"
        )
    return list(known.values())

"""Which structures are learned from, and in which batches, as a LightningDataModule."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ase.data import atomic_numbers
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch_geometric.data import Batch, Dataset

from pyg_schnet.data import Property, Split, StructureLoader, random_split, target_mask
from pyg_schnet.data import target_values as values_of
from pyg_schnet.data.atoms import atoms_of
from pyg_schnet.data.graphs import MAX_BYTES, size_of_graphs, with_graphs
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.properties import find_properties
from pyg_schnet.data.split import fingerprint, group_split, grown_split, random_split_indices
from pyg_schnet.data.transforms import cutoff_of_edges
from pyg_schnet.models.domain import Domain
from pyg_schnet.nn.atomref import element_counts
from pyg_schnet.train.batches import EpochShuffle, ResumedBatches, TrainingLoader
from pyg_schnet.train.checks import absent_sentence, check_labels
from pyg_schnet.train.coverage import domain_of
from pyg_schnet.train.inputs import NetworkInputs
from pyg_schnet.train.origin import check_origin, origin_of
from pyg_schnet.train.parts import GivenBatches, RankBatches, evaluation_parts, loads_in_memory
from pyg_schnet.train.ranks import are_several, leaves_looking, once
from pyg_schnet.train.survey import Survey, absent, check_places, num_shared, pieces, survey, texts_of

_PIECE = 10_000  # structures read at a time for statistics


class StructureDataModule(LightningDataModule):
    """Training, validation and test structures of one data set, and the property or properties to learn.

    Args:
        dataset: Data set of structures with ``z`` and ``pos``: those of :mod:`pyg_schnet.data`, PyG's ``QM9`` or
            ``MD17``, others whose attribute ``properties`` names their targets, or, if ``target`` is a ``Property``,
            any other: of PyG, a list of ``Data``, a ``Subset`` or a ``ConcatDataset``.
        target: Name of the property to learn, for example ``"U0"``, or, if the data set does not know its unit, a
            ``Property("y", "eV", column=7)``; or a list of them, ``["homo", "lumo"]``, to be learned together.
        num_train: Number of training structures; by default all others.
        num_val: Number of validation structures.
        num_test: Number of test structures; by default all others.
        seed: Seed of the split and of the order of batches.
        split: Saved split (file, or :class:`pyg_schnet.data.Split`) instead of a random one; with ``split_by`` also one
            of the first structures, see ``pyg_schnet.data.split.grown_split``.
        split_by: Attribute with a whole number for each structure, such as ``"molecule"`` of
            :class:`~pyg_schnet.data.ReferenceData`; structures with the same one are in the same part, and pairs of
            molecules whose partner is in validation or test are not learned from.
        batch_size: Structures in a training batch of each process; with several processes, batches are divided so
            that all have as many edges (or atoms, where edges are not kept).
        eval_batch_size: Structures in a batch for validation and test.
        test_dataset: Data set to test on, instead of a part of the first one.
        num_workers: Processes that prepare batches; 0, the main process, is fastest for data in memory.
        keep_graphs: Whether neighbours of training and validation structures are searched once and kept in memory, 11
            bytes for each edge, instead of in every epoch. By default this is done for data in memory with periodic
            structures, where it saves 7 % of the time with crystals of five atoms, if it needs at most 1 GiB.

    Raises:
        ValueError: If the data set has no such target, sizes do not fit, or structures of ``test_dataset`` are also
            learned from.
    """

    allow_zero_length_dataloader_with_multiple_devices = True  # fewer structures to validate on than processes

    def __init__(
        self,
        dataset: Dataset,
        target: str | Property | list[str | Property],
        *,
        num_train: int | None = None,
        num_val: int = 1000,
        num_test: int | None = None,
        seed: int = 0,
        split: str | os.PathLike[str] | None = None,
        split_by: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 250,
        test_dataset: Dataset | None = None,
        num_workers: int = 0,
        keep_graphs: bool | None = None,
    ) -> None:
        super().__init__()
        _check_numbers(batch_size=batch_size, eval_batch_size=eval_batch_size)
        if len(dataset) > 0:
            atoms_of(dataset[0])
        self.dataset = dataset
        self.properties = find_properties(dataset, target)
        self.property = self.properties[0]
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.keep_graphs = num_workers, keep_graphs
        self._with_graphs: dict[str, tuple[float, Dataset]] = {}  # by part, with the cutoff
        self.seed = seed
        if test_dataset is not None:
            for ours, theirs in zip(self.properties, find_properties(test_dataset, target), strict=True):
                if ours.unit != theirs.unit:
                    raise ValueError(
                        f"{ours.name} is in {ours.unit} in the data set for training but in {theirs.unit} in the one "
                        "for testing"
                    )
            num_test = num_test or 0
        if split is None:
            self.split = _draw(dataset, num_train, num_val, num_test, seed, split_by)
        else:
            given = split if isinstance(split, Split) else Split.load(split)  # the command line gives files
            self.split = given if split_by is None else grown_split(given, dataset, split_by)
        if leaves_looking():
            self.split = replace(self.split, fingerprint=None)  # the first process compares, and tells it in setup
        self.train_set, self.val_set, self.test_set = self.split.apply(dataset)
        if self.split.fingerprint is None and not leaves_looking():  # to tell it from one of other structures
            self.split = replace(self.split, fingerprint=fingerprint(dataset))
        if test_dataset is not None:
            self.test_set = test_dataset
            seen = 0 if leaves_looking() else num_shared(test_dataset, [self.train_set, self.val_set])
            if seen:
                raise ValueError(
                    f"{seen:,} of the {len(test_dataset):,} structures of test_dataset are also among those for "
                    "training or validation, so their errors would tell nothing; leave them out of one of the two"
                )
        self._surveyed: tuple[list[Property], dict[str, Survey]] | None = None
        self.loads: np.ndarray | None = None  # of training structures that were read, told by the first process

    @property
    def num_processes(self) -> int:
        """Processes of the run, each of which takes ``batch_size`` structures in a step."""
        return getattr(self.trainer, "world_size", 1)

    def surveyed_loads(self) -> np.ndarray | None:
        """Edges or atoms of each training structure, if they have been looked at, shape ``[n]``."""
        return None if self._surveyed is None else self._surveyed[1]["training"].loads

    def save_split(self, path: str | os.PathLike[str]) -> Path:
        """Write the indices of the split, to be used again by ``split=``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.split.save(path)
        return path

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep: what is learned from which structures."""
        return origin_of(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise unless the run of a checkpoint has learned the same from the same structures."""
        check_origin(state_dict, origin_of(self))

    def target_widths(self, targets: Sequence[Property]) -> list[int]:
        """Numbers of each target that each structure has."""
        first = collate_indices(self.dataset, [0])
        return [values_of(first, target).numel() for target in targets]

    def check(self, needed: Sequence[Property]) -> list[str]:
        """Raise where labels are missing; see ``check_labels``.

        Args:
            needed: Targets that are learned.

        Returns:
            Sentences on what is left out of the test, and on elements that no labelled training structure has.
        """
        parts = self._surveys(needed)
        known = parts["training"].taught
        others = {name: absent(part, known) for name, part in parts.items() if name != "training"}
        return check_labels(parts, needed) + [
            absent_sentence(name, missing, parts[name].size) for name, missing in others.items() if missing
        ]

    def check_places(self, network: nn.Module, *, test_only: bool = False) -> None:
        """Raise where dipoles or spatial extents are not defined; see ``check_places``.

        Args:
            network: The network.
            test_only: Whether only test structures count.
        """
        parts = {"test": self.test_set}
        if not test_only:
            parts = {"training": self.train_set, "validation": self.val_set, **parts}
        check_places(getattr(network, "readout", None), parts)

    def absent_elements(self, known: Iterable[str]) -> str | None:
        """Sentence on elements of test structures that are not among those known; ``None`` where there are none."""
        part = survey(self.test_set, [])
        missing = absent(part, set(known))
        return absent_sentence("test", missing, part.size) if missing else None

    def _surveys(self, targets: Sequence[Property]) -> dict[str, Survey]:
        if self._surveyed is None or self._surveyed[0] != list(targets):
            parts = {"training": self.train_set, "validation": self.val_set, "test": self.test_set}
            self._surveyed = list(targets), {name: survey(part, targets) for name, part in parts.items()}
        return self._surveyed[1]

    def training_targets(self, targets: Sequence[Property] | None = None) -> tuple[Tensor, Tensor]:
        """Composition and properties of all labelled training structures, for statistics; read in pieces.

        Args:
            targets: What is learned, in the order of the columns; ``None`` takes all properties in theirs.

        Returns:
            Atoms of each element ``[B, MAX_Z + 1]``, and property ``[B]``, or ``[B, C]`` where it is C numbers or
            several properties with so many numbers, in float64 and their units; NaN where a structure has no label of
            one of them.
        """
        counts, labels = [], []
        for batch in pieces(self.train_set, _PIECE):
            values, keep = labels_of(batch, self.properties if targets is None else targets)
            counts.append(element_counts(batch.z, batch.batch, batch.num_graphs)[keep])
            labels.append(values[keep])
        target = torch.cat(labels)
        return torch.cat(counts), target.squeeze(1) if target.size(1) == 1 else target

    def training_pieces(self) -> Iterator[Batch]:
        """All training structures in batches, in their order, for statistics."""
        return pieces(self.train_set, _PIECE)

    def training_elements(self, targets: Sequence[Property] | None = None) -> list[str]:
        """Symbols of the elements in the training structures that have one of the targets, by atomic number.

        Args:
            targets: What is learned; ``None`` takes all properties.
        """
        taught = self._surveys(self.properties if targets is None else targets)["training"].taught
        return sorted(taught, key=atomic_numbers.__getitem__)

    def training_domain(self, **labels: Any) -> Domain:
        """What the training structures are like, for the card of the model; arguments of ``domain_of``."""
        return domain_of(StructureLoader(self.train_set, 1000, exclude_keys=texts_of(self.dataset)), **labels)

    def training_rms(self, target: Property) -> float:
        """Root mean square of another target over all training structures that have it; zero where none has."""
        square, count = 0.0, 0
        for batch in pieces(self.train_set, _PIECE):
            values, mask = values_of(batch, target).to(torch.float64), target_mask(batch, target)
            if mask is not None:
                values = values[mask[batch.batch] if target.level == "atom" else mask]
            square, count = square + float(values.square().sum()), count + values.numel()
        return (square / count) ** 0.5 if count else 0.0

    def setup(self, stage: str) -> None:
        """Search graphs that are to be kept."""
        if are_several(self.trainer):
            self.split = replace(self.split, fingerprint=once(self.trainer, lambda: self.split.fingerprint))
            if stage == "fit":
                once(self.trainer, lambda: check_shared(self))
        # Not when loaders are asked for: Lightning patches them meanwhile, and an error would leave them so.
        if stage == "fit" and self.keep_graphs is not False:
            self._kept("training", self.train_set)
            self._kept("validation", self.val_set)

    def train_dataloader(self) -> StructureLoader:
        """Batches of training structures in a new order in every epoch; without texts such as names."""
        order, size = EpochShuffle(len(self.train_set), self.seed), self.batch_size * self.num_processes
        batches = ResumedBatches(order, size, drop_last=len(order) >= size)
        structures = self._kept("training", self.train_set)
        drawn: dict[str, Any] = {"batch_sampler": batches}
        if (trainer := self.trainer) is not None and self.num_processes > 1:
            loads = loads_in_memory(structures)
            own = RankBatches(batches, self.loads if loads is None else loads, trainer.world_size, trainer.global_rank)
            drawn = {"batch_size": None, "sampler": own}
        return TrainingLoader(
            structures,
            exclude_keys=texts_of(self.dataset),
            **drawn,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=_is_copied(self.trainer),
            generator=torch.Generator(),
        )

    def val_dataloader(self) -> StructureLoader:
        """Batches of validation structures."""
        return self._ordered(self._kept("validation", self.val_set))

    def test_dataloader(self) -> StructureLoader:
        """Batches of test structures."""
        return self._ordered(self.test_set)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch as Lightning does, unless it is there; asking each of its tensors takes a while.

        What steps ask of a batch is looked at before, so that they do not wait for the device: the cutoff of its edges,
        and whether labels are missing; masks that leave nothing out stay behind.
        """
        if batch.pos.device == device:
            return batch
        if batch.pos.device.type == "cpu":
            cutoff_of_edges(batch)
            for name in [key for key in batch.keys() if key.startswith("has_")]:  # noqa: SIM118 - a Batch has its own
                mask = batch[name]
                if isinstance(mask, Tensor) and mask.dtype == torch.bool and bool(mask.all()):
                    delattr(batch, name)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _kept(self, part: str, structures: Dataset) -> Dataset:
        """The structures with their graphs, where these are to be kept."""
        cutoff = _cutoff_of(self.trainer)
        if self.keep_graphs is False or cutoff is None or len(structures) == 0:
            return structures
        if self.keep_graphs is None and not _is_periodic(structures):
            return structures
        known = self._with_graphs.get(part)
        if known is None or known[0] != cutoff:
            found = with_graphs(structures, cutoff, MAX_BYTES if self.keep_graphs is None else None)
            if found is None and self.keep_graphs and getattr(structures[0], "edge_index", None) is None:
                raise ValueError(
                    "keep_graphs=True needs a data set in memory without a transform; for one on disk, write the "
                    f"graphs with it: StructureStore.create(..., pre_transform=NeighborList({cutoff:g}, periodic=True))"
                )
            if found is not None:
                megabytes = size_of_graphs(found) / 1e6
                rank_zero_info(f"Graphs of {len(found):,} {part} structures are kept: {megabytes:,.0f} MB")
            known = self._with_graphs[part] = cutoff, structures if found is None else found
        return known[1]

    def _ordered(self, structures: Dataset) -> StructureLoader:
        generator = torch.Generator()  # of its own: whether there is a validation changes no later draw in training
        drawn: dict[str, Any] = {"batch_size": self.eval_batch_size}
        if (trainer := self.trainer) is not None and self.num_processes > 1:  # each structure in one process
            number, rank = trainer.world_size, trainer.global_rank
            parts = evaluation_parts(len(structures), self.eval_batch_size, number)
            drawn = {"batch_size": None, "sampler": GivenBatches(parts[rank], number, rank)}
        drawn |= {"num_workers": self.num_workers, "pin_memory": _is_copied(self.trainer)}
        return StructureLoader(structures, **drawn, generator=generator)


def labels_of(batch: Batch, targets: Sequence[Property]) -> tuple[Tensor, Tensor]:
    """Labels of targets in float64, ``[B, C]``, NaN where they are missing; and which structures have any, ``[B]``."""
    columns = []
    labelled = torch.zeros(batch.num_graphs, dtype=torch.bool)
    for target in targets:
        values = values_of(batch, target).reshape(batch.num_graphs, -1).to(torch.float64)
        mask = target_mask(batch, target)
        columns.append(values if mask is None else torch.where(mask.view(-1, 1), values, torch.nan))
        labelled |= True if mask is None else mask.view(-1)
    return torch.cat(columns, 1), labelled


def _cutoff_of(trainer: Trainer | None) -> float | None:
    """Cutoff in Å of a trainer's network, if this takes edges."""
    network: Any = getattr(getattr(trainer, "lightning_module", None), "network", None)
    cutoff = getattr(network, "cutoff", None)
    if not isinstance(cutoff, (int, float)) or "edge_index" not in NetworkInputs(network).names:
        return None
    return float(cutoff)


def _is_copied(trainer: Trainer | None) -> bool:
    """Whether batches are copied to a CUDA device, which is faster, and not waited for, from pinned memory."""
    device = getattr(getattr(trainer, "strategy", None), "root_device", None)
    return getattr(device, "type", None) == "cuda"


def _is_periodic(dataset: Dataset) -> bool:
    """Whether a data set in memory has periodic structures."""
    pbc = getattr(getattr(dataset, "_data", None), "pbc", None)
    return pbc is not None and bool(pbc.any())


def check_shared(data: StructureDataModule) -> None:
    """Raise where the structures cannot be divided among the processes of a run.

    Raises:
        ValueError: If there are fewer training structures than processes, or the trainer repeats batches.
    """
    if len(data.train_set) < data.num_processes:
        raise ValueError(
            f"{len(data.train_set):,} training structures cannot be divided among {data.num_processes} processes; "
            "use fewer (--trainer.devices) or learn from more (--data.num_train)"
        )
    if getattr(data.trainer, "overfit_batches", 0):
        raise ValueError("--trainer.overfit_batches is for one process; leave it out, or set --trainer.devices=1")


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be a number of structures, at least 1, got {value}")


def _draw(
    dataset: Dataset, num_train: int | None, num_val: int, num_test: int | None, seed: int, by: str | None
) -> Split:
    if num_train is None and num_test is None:
        raise ValueError("give num_train or num_test; the other one is what remains")
    if by is not None:
        return group_split(dataset, by, num_train, num_val, num_test, seed)
    if num_train is None:
        num_train = len(dataset) - num_val - cast(int, num_test)
    if leaves_looking():  # the fingerprint is told by the first process
        return random_split_indices(len(dataset), num_train, num_val, num_test, seed)
    return random_split(dataset, num_train, num_val, num_test, seed)

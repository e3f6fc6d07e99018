"""Batches of training structures, in an order that a resumed run goes on with where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler, Sampler

from pyg_schnet.data import StructureLoader


class EpochShuffle(Sampler[int]):
    """Random order that depends on seed and epoch alone, so that a resumed run goes on with the orders of the first.

    Args:
        size: Number of structures.
        seed: Of the orders.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        return iter(generator.permutation(self.size).tolist())


class ResumedBatches(BatchSampler):
    """Torch's batches of indices, of which the first ones of one epoch can be left out."""

    _done: tuple[int, int] = (-1, 0)  # epoch, and how many of its batches are learned from

    @property
    def epoch(self) -> int:
        """Epoch that is drawn from, as the sampler knows it."""
        return getattr(self.sampler, "epoch", 0)

    def leave_out(self, epoch: int, batches: int) -> None:
        """Leave out the first ``batches`` of one epoch; others are whole."""
        self._done = epoch, batches

    def num_left_out(self) -> int:
        """Batches that are left out of the present epoch."""
        epoch, batches = self._done
        return batches if epoch == self.epoch else 0

    def __iter__(self) -> Iterator[list[int]]:
        return islice(super().__iter__(), self.num_left_out(), None)


class TrainingLoader(StructureLoader):
    """Batches of training structures; checkpoints keep how many of the epoch have been taken.

    Lightning reads and sets what is kept. Batches come from :class:`ResumedBatches`, by itself as ``batch_sampler`` or
    within a ``sampler`` of lists of indices that takes a part of each.

    Example:
        >>> import torch
        >>> from pyg_schnet.data.base import StructureDataset
        >>> dataset = StructureDataset()
        >>> n_atoms = torch.ones(4, dtype=torch.int64)
        >>> dataset.set_store(n_atoms, {"pos": torch.zeros(4, 3)}, {"energy": torch.arange(4.0)})
        >>> loader = TrainingLoader(dataset, batch_sampler=ResumedBatches(EpochShuffle(4), 1, drop_last=False))
        >>> whole = [batch.energy.item() for batch in loader]
        >>> loader.load_state_dict({"epoch": 0, "batches": 3})
        >>> [batch.energy.item() for batch in loader] == whole[3:]
        True
    """

    taken = 0

    @property
    def batches(self) -> Any:
        """What draws the indices of each batch."""
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def __iter__(self) -> Any:
        if self.generator is not None:
            self.generator.manual_seed(self.batches.sampler.epoch)  # workers are seeded from it, in each epoch alike
        self.taken = self.batches.num_left_out()
        for batch in super().__iter__():
            self.taken += 1
            yield batch
        self.batches.leave_out(-1, 0)

    def state_dict(self) -> dict[str, int]:
        """Epoch, and how many of its batches have been taken."""
        return {"epoch": self.batches.sampler.epoch, "batches": self.taken}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Leave out the batches that had been taken, in the epoch at hand."""
        self.batches.leave_out(state_dict["epoch"], state_dict["batches"])

"""A loss that several processes have together, so that they learn what one process with all their structures would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pyg_schnet.train.finite import FiniteModule
from pyg_schnet.train.ranks import added, are_several, once

T = TypeVar("T")

SHOWN_EVERY = 10
"""Steps from one drawing of the progress bar to the next."""


class SharedModule(FiniteModule):
    r"""A module whose loss is a mean over the structures of all processes of a run.

    Processes average their gradients. Parts of a batch have different numbers of structures, atoms and labels, so the
    mean of P processes, with n_p values and mean loss ℓ_p, is that of all values together where each process takes

    .. math:: \ell_p' = \frac{P\, n_p}{\sum_q n_q}\, \ell_p
    """

    _are_shared = False  # whether the loss of this step has been weighted by what was counted
    _own_structures = 0  # of the batch
    structures_of_step = 0
    """Structures that all processes have learned from in the newest step; 0 where there is one process."""

    def shares(self, counts: Sequence[float]) -> list[float]:
        """Factors on mean losses of a training batch: 1 in a run of one process.

        Args:
            counts: Number of values, or sum of their weights, that each mean is of in this process.

        Returns:
            A factor for each; 0 where no process has a value.
        """
        trainer = self._trainer
        if trainer is None or not (self.training and are_several(trainer) and trainer.training):
            return [1.0] * len(counts)
        self._are_shared = True
        structures, *sums = added(trainer, [float(self._own_structures), *counts])
        self.structures_of_step = round(structures)
        size = trainer.world_size
        return [size * own / total if total > 0 else 0.0 for own, total in zip(counts, sums, strict=True)]

    def shares_of(self, pairs: Sequence[tuple[Tensor, ...]]) -> list[float]:
        """The same for predicted and true values, and weights of their rows where there are any."""
        return self.shares([self.count_of(pair) for pair in pairs])

    def count_of(self, pair: tuple[Tensor, ...]) -> float:
        """Number of values of a pair, or the sum of their weights; that is not read in a run of one process."""
        if len(pair) == 2 or not are_several(self._trainer):
            return float(pair[0].numel())
        return float(pair[2].expand_as(pair[0]).sum())

    def learned_once(self, look: Callable[[], T]) -> T:
        """What the first process finds by looking at all data, told to the others with the buffers that it has set."""
        several = are_several(self._trainer)

        def all_of_it() -> tuple[T, dict[str, Tensor]]:
            found = look()
            return found, {name: value.cpu() for name, value in self.named_buffers()} if several else {}

        found, buffers = once(self._trainer, all_of_it)
        for name, value in self.named_buffers():
            if name in buffers:
                value.copy_(buffers[name])
        return found

    def begin_step(self, n_structures: int) -> None:
        """Note how many structures the batch has."""
        self._are_shared, self._own_structures = False, n_structures

    def shared(self, loss: Tensor) -> Tensor:
        """Loss of a batch; weighted by numbers of structures where none of its parts has been weighted."""
        share = 1.0 if self._are_shared else self.shares([self._own_structures])[0]
        return loss if share == 1.0 else share * loss

    def is_shown(self) -> bool:
        """Whether the progress bar or a logger is going to show this step; noting a value takes a while."""
        every = getattr(self._trainer, "log_every_n_steps", None)
        if every is None:  # not in a fit
            return True
        number = self.trainer.global_step + 1
        drawn = self.trainer.progress_bar_callback is not None and number % SHOWN_EVERY == 1
        return drawn or (every > 0 and number % every == 0)

    def keep_buffers(self) -> None:
        """Have buffers left as they are: they are equal in all processes, and copying makes plans of engines void.

        Not where a layer keeps statistics of batches in them.
        """
        wrapped = self.trainer.strategy.model
        changing = any(name.endswith("running_mean") for name, _ in self.named_buffers())
        if isinstance(wrapped, DistributedDataParallel) and not changing:
            wrapped.broadcast_buffers = False

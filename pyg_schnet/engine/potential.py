"""Energies of small structures and their gradients in one call of a kernel, without autograd."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from pyg_schnet.derivatives import EnergyGradients
from pyg_schnet.engine.interactions import Stack
from pyg_schnet.nn.readout import MeanReadout, SumReadout
from pyg_schnet.nn.versioned_cache import VersionedCache
from pyg_schnet.ops import cpu_kernels, is_dense_cpu
from pyg_schnet.ops.standard import ModuleSnapshot


class SmallStructures:
    """Modules as one kernel, for structures that would spend more time between kernels than in them.

    What was found out about the modules is kept until they change. Copies start empty.

    Args:
        stack: Blocks as one step, whose packed weights are used.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._ends: _Ends | None = None

    def __reduce__(self) -> tuple[type[SmallStructures], tuple[Stack]]:
        return SmallStructures, (self._stack,)

    def forget(self) -> None:
        """Find out again what there is to know when it is needed next."""
        self._ends = None

    def prepare(self, blocks: list[nn.Module], embedding: nn.Module, readout: nn.Module) -> Prepared | None:
        """The modules for the kernel.

        Args:
            blocks: The blocks in the order they act.
            embedding: Embedding of the elements.
            readout: From atom features to the energy.

        Returns:
            ``None`` where they are to be called themselves: in training, with hooks, with parts that are exchanged.
        """
        plan, ends = self._stack.plan(blocks), self._ends
        if ends is None or ends.modules != (embedding, readout) or (self._stack.looks and not ends.seen.unchanged()):
            ends = self._ends = _Ends.of(embedding, readout, self._stack.looks)
        grid = plan.grid
        if not ends.usable or grid is None:
            return None
        weights, head = plan.packed(embedding.weight), ends.head()
        return None if weights is None or head is None else Prepared(weights, head, grid, readout.reduce == "mean")


class Prepared(NamedTuple):
    """Weights of blocks and readout as kernels take them, the grid of filters, and whether the readout is a mean."""

    weights: Any
    head: Any
    grid: Any
    mean: bool

    def __call__(
        self,
        pos: Tensor,
        z: Tensor,
        batch: Tensor,
        batch_size: int,
        index: Tensor,
        ptr: Tensor,
        offset: Tensor | None,
        strain: bool,
    ) -> EnergyGradients | None:
        """Energies and their gradients; ``None`` where an index names nothing that is there.

        Args:
            pos: Positions in Å, shape ``[N, 3]``.
            z: Atomic numbers, shape ``[N]``.
            batch: Structure of each atom, shape ``[N]``.
            batch_size: Number of structures B.
            index: ``(j, i)``, one edge for both directions, sorted by i, shape ``[2, P]``.
            ptr: Begin and end of each target's edges, shape ``[N + 1]``.
            offset: Lattice vectors crossed by each edge in Å, shape ``[P, 3]``; ``None`` for open boundaries.
            strain: Whether gradients by strains are wanted.
        """
        arguments = pos, z, batch, batch_size, index, ptr, offset, self.grid, self.weights, self.head
        found = cpu_kernels().potential(*arguments, mean=self.mean, strain=strain)
        return None if found is None else EnergyGradients(*found)


class _Ends(NamedTuple):
    """What is known of embedding and readout until they change."""

    modules: tuple[nn.Module, nn.Module]
    seen: ModuleSnapshot
    usable: bool
    weights: list[Tensor]
    kept: VersionedCache

    @classmethod
    def of(cls, embedding: nn.Module, readout: nn.Module, looks: bool = True) -> _Ends:
        modules, seen, weights = (embedding, readout), ModuleSnapshot([embedding, readout]), []
        usable = (
            seen.standard
            and type(embedding) is nn.Embedding
            and embedding.max_norm is None
            and is_dense_cpu(embedding.weight)
            and type(readout) in (SumReadout, MeanReadout)
            and readout.is_written_out(embedding.weight)
        )
        if usable:
            lin1, lin2 = readout.network.lin1, readout.network.lin2
            weights = [lin1.weight, lin1.bias, lin2.weight, lin2.bias, readout.scale, readout.shift, readout.atomref]
            usable = readout.out_channels == 1 and len({weight.dtype for weight in weights}) == 1
        return cls(modules, seen, usable, weights, VersionedCache(looks))

    def head(self) -> Any:
        """Weights of the readout as the kernel takes them; ``None`` where changes of them cannot be seen."""
        return self.kept.get(self.weights, None, lambda: cpu_kernels().Head.pack(*self.weights))

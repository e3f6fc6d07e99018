"""Energies and forces of the same atoms at many positions: one CUDA graph, recorded once and replayed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.derivatives import EnergyForcesStress, energy_forces_stress
from pyg_schnet.engine import freeze
from pyg_schnet.neighbors import radius_graph
from pyg_schnet.ops.checks import described, positive_length, whole_number

SPARE = 1.25
"""Room for edges over the number at the first positions."""


class ReplayedForces:
    r"""Energies, forces and stress of the same atoms at many positions, without a launch of each kernel in every step.

    A GPU computes small structures faster than Python launches its kernels. So the whole evaluation is recorded once,
    as a CUDA graph, and replayed with other positions. That needs tensors of constant sizes: edges are those within
    cutoff and skin at the positions of the last search, followed by padding, edges from atoms to themselves, which are
    put at the cutoff where filters vanish:

    .. math:: E = E(\{ (j, i, \mathbf{S}) : d_{ij}^0 < r_\mathrm{cut} + s \} \cup \{ (k, k, \mathbf{0}), \ldots \})

    Edges beyond the cutoff have no effect. They are searched again, into the same tensors, once an atom has moved by
    half of the skin; one number is read in every step for it. More edges than there is room for are an error, never
    left out. On other devices than GPUs the same tensors are evaluated in the same way, only not recorded.

    Atoms, cell and boundaries are constant; make another one for others.

    Args:
        model: Energy model with a ``cutoff``, as :class:`~pyg_schnet.SchNet`; a frozen copy is used.
        z: Atomic numbers, shape ``[N]``.
        pos: First positions in Å, of the precision and on the device of the model, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``; ``None`` for one structure.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
        pbc: Periodic axes, shape ``[B, 3]``; needed with ``cell``.
        batch_size: Number of structures B.
        skin: Distance s in Å beyond the cutoff within which edges are kept.
        capacity: Room for edges; ``None`` takes 1.25 times as many as there are at the first positions.
        stress: Whether the stress is computed as well.

    Attributes:
        n_searches: How often edges were searched, the first time included.
        capacity: Room for edges.
        is_recorded: Whether a CUDA graph is replayed.

    Raises:
        ValueError: If there are no atoms, the model has no cutoff, or there are more edges than ``capacity``; else as
            ``radius_graph`` and the model.

    Example:
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 2, cutoff=5.0)
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> compute = ReplayedForces(model, torch.tensor([8, 1, 1]), pos)
        >>> for _ in range(3):
        ...     energy, forces, _ = compute(pos)
        ...     pos = pos + 0.01 * forces
        >>> energy.shape, forces.shape, compute.n_searches
        (torch.Size([1]), torch.Size([3, 3]), 1)
    """

    def __init__(
        self,
        model: Any,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        batch_size: int = 1,
        skin: float = 0.5,
        capacity: int | None = None,
        stress: bool = False,
    ) -> None:
        cutoff = getattr(model, "cutoff", None)
        if cutoff is None:
            raise ValueError(f"edges are searched within the cutoff of the model, but {type(model).__name__} has none")
        if not isinstance(pos, Tensor) or pos.dim() != 2 or pos.size(1) != 3 or pos.size(0) == 0:
            raise ValueError(f"pos must hold positions of one atom or more in Å, [N, 3]; got {described(pos)}")
        self.model = freeze(model)
        self.skin = positive_length(skin, "skin")
        self.n_searches = 0
        self.is_recorded = False
        self._reach = float(cutoff) + self.skin
        self._lattice = {"cell": _kept(cell), "pbc": _kept(pbc)} if cell is not None or pbc is not None else {}
        self._atoms = _kept(z), _kept(batch)
        self._size, self._stress = batch_size, stress
        self._pos, self._reference = _kept(pos), torch.full_like(pos.detach(), torch.inf)
        edges = self._search()
        if capacity is None:
            capacity = math.ceil(SPARE * edges[0].size(1)) + pos.size(0)
        self.capacity = whole_number(capacity, "capacity", 1)
        padding = torch.arange(self.capacity, device=pos.device) % pos.size(0)
        self._padding = padding.expand(2, -1)
        self._index = self._padding.contiguous()
        self._shift = None if edges[1] is None else edges[1].new_zeros(self.capacity, 3)
        self._put(edges)
        self._out: tuple[Tensor, ...] | None = None
        self._replay = self._record()

    def __repr__(self) -> str:
        return f"ReplayedForces(capacity={self.capacity}, skin={self.skin}, n_searches={self.n_searches})"

    @torch.no_grad()
    def __call__(self, pos: Tensor) -> EnergyForcesStress:
        """Energies ``[B]``, forces ``[N, 3]`` and stress ``[B, 3, 3]`` (or ``None``) at positions ``[N, 3]`` in Å.

        Raises:
            ValueError: If positions are of another number of atoms, precision or device, or there are more edges than
                room for them.
        """
        known = self._pos
        if not isinstance(pos, Tensor) or (pos.shape, pos.dtype, pos.device) != (
            known.shape,
            known.dtype,
            known.device,
        ):
            raise ValueError(f"pos must be {described(known)}, as at first; got {described(pos)}")
        known.copy_(pos)
        moved = float((known - self._reference).square().sum(1).max().sqrt())
        if not 2.0 * moved < (1.0 - 1e-3) * self.skin:  # also where it is not a number
            self._put(self._search())
        self._replay()
        assert self._out is not None
        energy, forces, *others = (value.clone() for value in self._out)
        return EnergyForcesStress(energy, forces, others[0] if others else None)

    def _search(self) -> tuple[Tensor, Tensor | None]:
        """Edges within cutoff and skin at the present positions."""
        found = radius_graph(self._pos, self._reach, self._atoms[1], batch_size=self._size, **self._lattice)
        self.n_searches += 1
        return found if isinstance(found, tuple) else (found, None)

    def _put(self, edges: tuple[Tensor, Tensor | None]) -> None:
        """Write edges into the tensors that are replayed, and padding behind them."""
        index, shift = edges
        n_edges = index.size(1)
        if n_edges > self.capacity:
            raise ValueError(
                f"there are {n_edges} edges within cutoff and skin ({self._reach:g} Å), but room for {self.capacity}; "
                f"make another ReplayedForces, with capacity={math.ceil(SPARE * n_edges)} or the positions of now"
            )
        self._index[:, :n_edges] = index
        self._index[:, n_edges:] = self._padding[:, n_edges:]
        if shift is not None and self._shift is not None:
            self._shift[:n_edges] = shift
            self._shift[n_edges:] = 0
        self._reference.copy_(self._pos)

    def _evaluate(self) -> None:
        """Compute from the tensors that are constant in size, into others of that kind."""
        z, batch = self._atoms
        lattice = dict(self._lattice) if self._shift is None else {**self._lattice, "edge_shift": self._shift}
        found = energy_forces_stress(
            self.model,
            z,
            self._pos,
            batch,
            edge_index=self._index,
            batch_size=self._size,
            stress=self._stress,
            **lattice,
        )
        values = [value.detach() for value in found if value is not None]
        if self._out is None:
            self._out = tuple(value.clone() for value in values)
        else:
            for kept, value in zip(self._out, values, strict=True):
                kept.copy_(value)

    def _record(self) -> Callable[[], None]:
        """Function that evaluates: a replayed graph on GPUs, where one can be recorded."""
        self._evaluate()  # compiles kernels, makes the results
        if not self._pos.is_cuda:
            return self._evaluate
        try:
            replay = record(self._evaluate, self._pos.device)
        except Exception as error:  # a part of the model that waits for the device, for example
            reason = str(error).split("\n")[0]
            warnings.warn(
                f"no CUDA graph could be recorded, so every kernel is launched: {type(error).__name__}: {reason}",
                RuntimeWarning,
                stacklevel=3,
            )
            return self._evaluate
        self.is_recorded = True
        return replay


def record(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record what a function launches on a GPU, as torch's notes on CUDA graphs ask for it.

    Args:
        step: Reads and writes the same tensors in every call, and never waits for the device.
        device: The GPU.

    Returns:
        Function that launches all of it at once.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _kept(value: Any) -> Any:
    """A copy of a tensor, at a place that stays; other values as they are."""
    return value.detach().clone() if isinstance(value, Tensor) else value

"""Reuse of a neighbour list while atoms and cell move a little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from pyg_schnet.neighbors._checks import (
    Structures,
    check_batch,
    check_batch_form,
    check_cell_form,
    check_form,
    check_positions,
)
from pyg_schnet.neighbors.backend import Backend
from pyg_schnet.neighbors.criterion import edge_exists
from pyg_schnet.neighbors.lattice import Lattice, open_lattice, rounding_numbers
from pyg_schnet.neighbors.on_device import is_waited_for, places
from pyg_schnet.neighbors.periodic import check_periodic
from pyg_schnet.neighbors.radius import radius_graph
from pyg_schnet.neighbors.search import wide_dtype
from pyg_schnet.ops.checks import positive_length
from pyg_schnet.ops.dispatch import list_of


class Reference(NamedTuple):
    """The configuration at which the list was built, and the list."""

    structures: Structures
    lattice: Lattice
    frac: Tensor  # [N, 3] coordinates along the completed lattice vectors
    edge_index: Tensor  # [2, E] pairs closer than cutoff + skin
    edge_shift: Tensor | None  # [E, 3]; None with open boundaries
    cell: Tensor | None  # as it was given


class VerletList:
    r"""Neighbour list for dynamics: built with a skin, filtered at every step, rebuilt when a pair could be missing.

    Every call returns the edges that :func:`~pyg_schnet.neighbors.radius_graph` would return for the positions and cell
    given. The present positions are those of the reference, strained with the cell, displaced and wrapped:

    .. math:: \mathbf{r}_i = \mathbf{r}_i^0 \mathbf{A} + \boldsymbol{\delta}_i + \mathbf{k}_i \mathbf{H},
              \qquad \mathbf{H} = \mathbf{H}^0 \mathbf{A}

    with integer :math:`\mathbf{k}_i`. Shifts then follow as
    :math:`\mathbf{S}_{ij} = \mathbf{S}_{ij}^0 + \mathbf{k}_i - \mathbf{k}_j`, so wrapped atoms need
    no rebuild. A pair that is not in the list was at least cutoff + skin apart and is now at least
    :math:`\sigma_\mathrm{min}(\mathbf{A}) (r_\mathrm{cut} + s) - 2 \max_i |\boldsymbol{\delta}_i|`, with the smallest
    singular value of the deformation; the list is rebuilt when this is less than the cutoff. At constant cell this is
    the usual criterion, half the skin. A common drift of a structure is subtracted first.

    The list is also rebuilt when the number of atoms, ``batch``, ``pbc``, the dtype or the device changes. Swapped
    atoms need no check of their own, since they have moved.

    Args:
        cutoff: Cutoff in Å.
        skin: Extra distance s in Å; larger means fewer rebuilds and more pairs to filter.
        backend: How to build, see :func:`~pyg_schnet.neighbors.radius_graph`.

    Attributes:
        n_rebuilds: Number of times the list was built, including the first.

    Raises:
        ValueError: If ``cutoff`` or ``skin`` is not a positive finite length; on calls as ``radius_graph``.

    Example:
        >>> neighbors = VerletList(cutoff=2.0, skin=0.5)
        >>> cell, pbc = 3.0 * torch.eye(3), torch.tensor([True, True, True])
        >>> pos = torch.tensor([[0.1, 0.0, 0.0], [1.6, 0.0, 0.0]])
        >>> edge_index, edge_shift = neighbors(pos, cell, pbc)
        >>> wrapped = torch.tensor([[2.95, 0.0, 0.0], [1.5, 0.0, 0.0]])  # the first atom left through x = 0
        >>> edge_index, edge_shift = neighbors(wrapped, cell, pbc)
        >>> neighbors.n_rebuilds
        1
    """

    def __init__(self, cutoff: float, skin: float, backend: Backend = "auto"):
        self.cutoff = positive_length(cutoff)
        self.skin = positive_length(skin, "skin")
        self.backend = backend
        self.n_rebuilds = 0
        self._reference: Reference | None = None

    def __repr__(self) -> str:
        return f"VerletList(cutoff={self.cutoff}, skin={self.skin}, n_rebuilds={self.n_rebuilds})"

    @property
    def built_for(self) -> dict[str, Tensor] | None:
        """What the list was built for, as arguments of a call; ``None`` before the first one.

        A new list that is called with these goes on as this one does, with its edges in the same order: sums over edges
        are then equal to the last bit, as a simulation that is interrupted and resumed needs it.

        Example:
            >>> neighbors = VerletList(cutoff=2.0, skin=0.5)
            >>> edge_index = neighbors(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
            >>> sorted(neighbors.built_for)
            ['batch', 'pos']
        """
        if self._reference is None:
            return None
        structures, cell = self._reference.structures, self._reference.cell
        found = {"pos": structures.pos, "batch": structures.batch}
        if cell is not None:
            found |= {"cell": cell, "pbc": self._reference.lattice.pbc}
        return found

    @overload
    def __call__(self, pos: Tensor, cell: None = None, pbc: None = None, batch: Tensor | None = None) -> Tensor: ...

    @overload
    def __call__(
        self, pos: Tensor, cell: Tensor, pbc: Tensor | Sequence[bool], batch: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...

    @torch.no_grad()
    def __call__(
        self,
        pos: Tensor,
        cell: Tensor | None = None,
        pbc: Tensor | Sequence[bool] | None = None,
        batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the graph at these positions; arguments, result and errors as for ``radius_graph``.

        On devices a step that reuses the list waits once, for the number of its edges and whether the list is still
        good; one that builds it waits some times more.
        """
        found = None if self._reference is None else self._reused(self._reference, pos, cell, pbc, batch)
        if found is not None:
            return found
        if cell is None and pbc is None:
            structures = check_batch(check_positions(pos), batch, None)
            lattice = open_lattice(structures.batch_size, structures.pos.to(wide_dtype(pos)))
        else:
            structures, cell, lattice = check_periodic(pos, cell, pbc, batch)
        edge_index, edge_shift = self._build(structures, cell, lattice)
        keep = edge_exists(structures.pos, edge_index, self.cutoff, edge_shift, cell, structures.batch)
        kept = torch.nonzero(keep).squeeze(1)
        edge_index = edge_index.index_select(1, kept)
        return edge_index if edge_shift is None else (edge_index, edge_shift.index_select(0, kept))

    def _reused(
        self,
        old: Reference,
        pos: Tensor,
        cell: Tensor | None,
        pbc: Tensor | Sequence[bool] | None,
        batch: Tensor | None,
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """The graph from the list; ``None`` if the list may miss a pair, or where something is wrong.

        All conditions are one number, which is read in between on CPUs, and on devices together with that of the edges.
        """
        pos, owner, is_open = check_form(pos), old.structures.batch, cell is None and pbc is None
        before, edge_index = old.structures.pos, old.edge_index
        now, then = (pos.shape, pos.dtype, pos.device), (before.shape, before.dtype, before.device)
        if now != then or is_open != (old.edge_shift is None) or pos.size(0) == 0:
            return None
        if batch is None and old.structures.batch_size != 1:
            return None
        good, is_read = torch.isfinite(pos).all(), not is_waited_for(pos)
        if batch is not None:
            good = good & (check_batch_form(pos, batch) == owner).all()
        lattice, place = old.lattice, pos.to(old.lattice.cell.dtype)
        least: Any = 1.0
        allowance: Any = 1e-5 * self.cutoff
        if not is_open:
            cell, pbc = check_cell_form(cell, pbc, pos)
            if cell.shape != old.lattice.cell.shape:
                return None
            lattice = Lattice.from_cell(cell.to(place.dtype), pbc)
            good = good & torch.isfinite(cell).all() & (pbc == old.lattice.pbc).all()
            good = good & (lattice.orthogonality > 1e-6).all()
            if is_read and not bool(good):
                return None
            least = _least_stretch(old.lattice, lattice)
            rounding = rounding_numbers(place, owner, lattice, self.cutoff + self.skin, pos.dtype)
            good = good & (rounding[0] <= self.cutoff + self.skin) & (rounding[1] <= 2**30)
            allowance = allowance + 2 * rounding[0]
        wrap, longest = _displacements(old, lattice, lattice.fractional(place, owner))
        nearest = least * (self.cutoff + self.skin) - 2 * longest  # of the pairs that are not in the list
        good = good & (nearest > self.cutoff + allowance).all()
        if is_read and not bool(good):
            return None
        shift = old.edge_shift
        if shift is not None and not (is_read and not bool(wrap.any())):
            wrap = wrap.to(torch.int32)
            shift = shift + wrap.index_select(0, edge_index[1]) - wrap.index_select(0, edge_index[0])
        keep = edge_exists(pos, edge_index, self.cutoff, shift, cell, owner)
        if is_read:
            kept = torch.nonzero(keep).squeeze(1)
        else:
            n_edges, is_good = list_of(torch.stack([keep.sum(), good.to(torch.int64)]))
            if not is_good:
                return None
            kept = places(keep.cumsum(0), n_edges)
        edge_index = edge_index.index_select(1, kept)
        return edge_index if shift is None else (edge_index, shift.index_select(0, kept))

    def _build(self, structures: Structures, cell: Tensor | None, lattice: Lattice) -> tuple[Tensor, Tensor | None]:
        """Take this configuration as the reference; returns its edges within cutoff and skin, and their shifts."""
        pos, batch, _ = structures
        pbc = None if cell is None else lattice.pbc
        graph = radius_graph(
            pos,
            self.cutoff + self.skin,
            batch,
            batch_size=structures.batch_size,
            cell=cell,
            pbc=pbc,
            backend=self.backend,
        )
        edge_index, edge_shift = (graph, None) if isinstance(graph, Tensor) else graph
        frac = lattice.fractional(pos.to(lattice.cell.dtype), batch)
        # the caller may move its atoms in place, so that nothing of the reference may be a view of them
        structures = Structures(pos.clone(), batch.clone(), structures.ptr)
        lattice = lattice._replace(cell=lattice.cell.clone(), pbc=lattice.pbc.clone())
        given = None if cell is None else cell.clone()
        self._reference = Reference(structures, lattice, frac, edge_index, edge_shift, given)
        self.n_rebuilds += 1
        return edge_index, edge_shift


def _least_stretch(old: Lattice, new: Lattice) -> Any:
    r"""Smallest singular value of each deformation on CPUs, shape ``[B]``; on devices a lower bound.

    .. math:: \sigma_\mathrm{min}(\mathbf{A}) \ge s - \lVert \mathbf{A} - s\,\mathbf{1} \rVert, \qquad
              s = \tfrac{1}{3} \operatorname{tr} \mathbf{A}

    with the Frobenius norm, for which a device need not wait for a decomposition; it is exact where the cell is scaled.
    """
    is_read = not is_waited_for(new.cell)
    if is_read and torch.equal(new.cell, old.cell):
        return 1.0
    deformation = old.dual.mT @ new.cell
    if is_read:
        return torch.linalg.svdvals(deformation)[:, -1]
    scale = deformation.diagonal(dim1=1, dim2=2).mean(1)
    rest = deformation - scale[:, None, None] * torch.eye(3, dtype=scale.dtype, device=scale.device)
    return scale - torch.linalg.vector_norm(rest, dim=(1, 2))


def _displacements(old: Reference, lattice: Lattice, frac: Tensor) -> tuple[Tensor, Tensor]:
    """Lattice vectors by which atoms were wrapped, ``[N, 3]``, and how far they moved at most, ``[B]``."""
    index, n_atoms = old.structures.batch, old.structures.n_points.clamp(min=1)
    moved = frac - old.frac
    wrap = torch.where(lattice.pbc.index_select(0, index), moved.round(), 0.0)
    step = lattice.cartesian(moved - wrap, index)
    drift = step.new_zeros(n_atoms.size(0), 3).index_add(0, index, step) / n_atoms[:, None]
    length = torch.linalg.vector_norm(step - drift.index_select(0, index), dim=1)
    return wrap, step.new_zeros(n_atoms.size(0)).scatter_reduce(0, index, length, "amax")

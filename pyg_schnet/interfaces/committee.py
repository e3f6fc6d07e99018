"""One or several models on batches of structures, for engines that evaluate many of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.derivatives import EnergyForcesStress
from pyg_schnet.engine.frozen import FrozenModel
from pyg_schnet.interfaces.members import Members
from pyg_schnet.models import AtomisticModel
from pyg_schnet.neighbors import VerletList
from pyg_schnet.ops.checks import positive_length
from pyg_schnet.potential import EnergySource, Potential

_FEW_ATOMS = 50  # up to so many of a molecule, all pairs are looked at faster than a list is checked


class Committee:
    r"""Energies, forces and stress of a batch in eV and Å: of each model, with the graph built once for all.

    .. math:: E_k = E_\text{model k}(\mathbf{r}), \qquad \bar E = \frac{1}{M} \sum_{k=1}^{M} E_k

    Graphs of periodic and of large structures come from one :class:`~pyg_schnet.neighbors.VerletList` over the whole
    batch, and are reused between steps; small molecules need none. Structures are compared with those of training when
    their elements or boundaries differ from those of the last call.

    Args:
        model: Model, model file, name of a pretrained one, or several of them; a file may hold a committee.
        unit: Unit of the models' output, where they do not know it.
        skin: Distance in Å that atoms may move, half of it each, before the neighbour list is built again.
        dtype: Precision of the networks, float64 or float32; ``None`` takes float64 where the device has it.
        device: Device of the networks; ``None`` takes that of the models.
        untrained_forces: Whether to give derivatives of models that were trained on energies alone.

    Attributes:
        members: The models and their factors.
        check: Compares structures with those that the models were trained on.

    Raises:
        TypeError: If something given is no model.
        ValueError: If no model is given, or one does not predict energies; see
            :class:`pyg_schnet.potential.Potential`.

    Example:
        >>> from pyg_schnet import SchNet
        >>> committee = Committee([SchNet(16, 16, 2, cutoff=5.0), SchNet(16, 16, 2, cutoff=5.0)], unit="eV")
        >>> z, pos = torch.tensor([1, 1, 1, 1]), torch.tensor([[0.0, 0, 0], [0.7, 0, 0], [0.0, 0, 0], [0.8, 0, 0]])
        >>> energy, forces, stress = committee(z, pos, torch.tensor([0, 0, 1, 1]), 2)
        >>> energy.shape, forces.shape
        (torch.Size([2, 2]), torch.Size([2, 4, 3]))
    """

    def __init__(
        self,
        model: EnergySource | Sequence[EnergySource],
        unit: str | None = None,
        *,
        skin: float = 0.3,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        untrained_forces: bool = False,
    ) -> None:
        options: dict[str, Any] = {"dtype": dtype, "device": device, "untrained_forces": untrained_forces}
        self.members = Members(model, unit, any_model=True, **options)
        self.check, self._skin = self.members.check, positive_length(skin, "skin")
        self._neighbors: VerletList | None = None
        self._last: tuple[Tensor, Tensor, Tensor | None] | None = None

    @property
    def potentials(self) -> list[Potential]:
        """The potential of each model; what is put in the place of one is called."""
        return self.members.potentials

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.potentials[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the networks."""
        return self.potentials[0].dtype

    def __len__(self) -> int:
        return len(self.potentials)

    def __call__(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor,
        batch_size: int,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        forces: bool = True,
        stress: bool = False,
    ) -> EnergyForcesStress:
        """What each of M models says.

        Args:
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``; atoms may lie outside of the cell.
            batch: Structure of each atom in ascending order, shape ``[N]``.
            batch_size: Number of structures B.
            cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
            pbc: Periodic directions, shape ``[B, 3]``.
            forces: Whether to compute forces.
            stress: Whether to compute the stress; zeros where nothing is periodic.

        Returns:
            Energies in eV ``[M, B]``, forces in eV/Å ``[M, N, 3]``, stress in eV/Å³ ``[M, B, 3, 3]``.

        Raises:
            ValueError: As :class:`~pyg_schnet.potential.Potential`; or if a model was not trained on an element.
        """
        z, pos, batch = z.to(self.device, torch.int64), pos.to(self.device, self.dtype), batch.to(self.device)
        lattice: dict[str, Tensor] = {}
        if cell is not None and pbc is not None and bool(pbc.any()):
            # contiguous, since kernels take rows as they lie in memory
            lattice = {"cell": cell.to(self.device, self.dtype).contiguous(), "pbc": pbc.to(self.device).contiguous()}
        self._compare(z, pos, batch, batch_size, lattice)
        if forces or stress:
            self.check.derivatives("forces and stress")
        graph = {**lattice, **self._graph(pos, batch, batch_size, lattice)}
        with_stress = stress and bool(lattice)
        found = self.members(z, pos, batch, **graph, batch_size=batch_size, forces=forces, stress=with_stress)
        nothing = found.energy.new_zeros(*found.energy.shape, 3, 3) if stress and not with_stress else None
        return found if nothing is None else found._replace(stress=nothing)

    def calibrated(self, found: EnergyForcesStress) -> EnergyForcesStress:
        r"""The same means, with deviations of the models from them in the size of errors.

        .. math:: q_k' = \bar q + \alpha_q (q_k - \bar q)

        The factors α are those that :func:`pyg_schnet.interfaces.calibrate` has noted, 1 where there are none.

        Args:
            found: What the last call has given, shapes ``[M, ...]``.

        Warns:
            UserWarning: Once, if the models disagree on a force by more than twice what they do on any structure of the
                calibration; it names the structure and the atom.
        """
        scaled = self.members.calibrated(found)
        if scaled.forces is not None and len(self) > 1:
            batch = None if self._last is None else self._last[1]
            owner = None if batch is None or len(batch) != scaled.forces.size(1) else batch.cpu().numpy()
            self.members.look_at_spread(scaled.forces.std(0, correction=0).cpu().numpy(), owner)
        return scaled

    def _graph(self, pos: Tensor, batch: Tensor, batch_size: int, lattice: dict[str, Tensor]) -> dict[str, Tensor]:
        """Edges, none where the models find them faster."""
        if not lattice and len(pos) <= _FEW_ATOMS * batch_size:
            return {}
        if not all(map(_takes_edges, self.potentials)):
            return {}
        cutoff, neighbors = self.members.cutoff, self._neighbors
        if neighbors is None or neighbors.cutoff != cutoff:
            neighbors = self._neighbors = VerletList(cutoff, self._skin)
        if not lattice:
            return {"edge_index": neighbors(pos, batch=batch)}
        edge_index, edge_shift = neighbors(pos, lattice["cell"], lattice["pbc"], batch)
        return {"edge_index": edge_index, "edge_shift": edge_shift}

    def _compare(self, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int, lattice: dict[str, Tensor]) -> None:
        """Refuse or warn where elements, sizes or boundaries are others than in the last call."""
        pbc, last = lattice.get("pbc"), self._last
        if last is not None and torch.equal(z, last[0]) and torch.equal(batch, last[1]):
            before = last[2]
            if (pbc is None and before is None) or (
                pbc is not None and before is not None and torch.equal(pbc, before)
            ):
                return
        counts = torch.bincount(batch.cpu(), minlength=batch_size)
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.check.batch(Batch(z=z, pos=pos, batch=batch, ptr=ptr, **lattice))
        self._last = z.clone(), batch.clone(), None if pbc is None else pbc.clone()


def _takes_edges(potential: Potential) -> bool:
    """Whether the model is one of this package; others need not know given edges."""
    model = potential.model
    return isinstance(model, FrozenModel) and isinstance(model.model, AtomisticModel)

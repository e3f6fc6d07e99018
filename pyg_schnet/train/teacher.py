"""A trained model whose answers another one learns."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.data import Property, Split
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.models import as_one, load
from pyg_schnet.models.atomref import averaged_references, pop_atomref
from pyg_schnet.models.card import unit_of
from pyg_schnet.models.identity import Identity
from pyg_schnet.models.targets import one_target, units_of_targets
from pyg_schnet.nn.atomref import sum_references
from pyg_schnet.train.split_note import check_untrained
from pyg_schnet.units import factor


class Teacher:
    """A frozen model that predicts a property; of committees the mean.

    Args:
        source: Model file, or name of a pretrained model.

    Raises:
        FileNotFoundError: If there is no such file.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.model = as_one(load(source))
        self.source, self.card, self.identity = source, self.model.card, Identity.of(source)

    def set_target(self, target: Property) -> None:
        """Say what is learned, and in which unit answers are wanted; of a teacher of several properties one is taken.

        Args:
            target: What is learned from it.

        Raises:
            ValueError: If the teacher predicts another property.
        """
        known = list(units_of_targets(self.card)) or [self.card.get("target") or target.name]
        if target.name not in known:
            raise ValueError(
                f"the teacher {self.source} predicts {', '.join(known)}, but {target.name} is to be learned"
            )
        model = copy.deepcopy(one_target(self.model, target.name) if len(known) > 1 else self.model)
        self._factor = factor(unit_of(model.card, None), target.unit)
        self._averaged = averaged_references(model.readout)
        self._atomref = pop_atomref(model)
        self._network = freeze(model)

    def check(self, split: Split) -> None:
        """Raise for a model that has learned from the test structures of a split.

        Args:
            split: The split.

        Raises:
            ValueError: If it has, or is of other structures.
        """
        check_untrained(self.card, split)

    def __call__(self, batch: Batch, pos: Tensor, *, gradients: bool) -> tuple[Tensor, Tensor | None]:
        """Property of structures in the unit of the target, in float64 ``[B]`` or ``[B, C]``, and forces ``[N, 3]``.

        Args:
            batch: Structures; their edges are not used.
            pos: Positions in Å, shape ``[N, 3]``.
            gradients: Whether forces are wanted.
        """
        network, size = self._network.to(pos.device), batch.num_graphs
        dtype = next(network.parameters()).dtype
        lattice = {}
        if batch.get("pbc") is not None and bool(batch.pbc.any()):
            lattice = {"cell": batch.cell.to(dtype), "pbc": batch.pbc}
        pos, forces = pos.detach().to(dtype), None
        if gradients:
            found: Any = energy_forces_stress(network, batch.z, pos, batch.batch, **lattice, batch_size=size)
            value, forces = found.energy, self._factor * found.forces
        else:
            with torch.no_grad():
                value = network(batch.z, pos, batch.batch, **lattice, batch_size=size)
                value = value.squeeze(-1) if value.size(-1) == 1 else value
        value = value.to(torch.float64)
        if self._atomref is not None:
            references = sum_references(self._atomref.to(pos.device), batch.z, batch.batch, size, mean=self._averaged)
            value = value + references.reshape(value.shape)
        return self._factor * value, forces

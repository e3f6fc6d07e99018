"""What of a batch a network is called with."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Batch

from pyg_schnet.data.atoms import atoms_of
from pyg_schnet.data.transforms import cutoff_of_edges
from pyg_schnet.models import AtomisticModel
from pyg_schnet.ops.dispatch import is_at_hand

_OPTIONAL = ("cell", "pbc", "batch_size", "edge_index", "edge_shift")


class NetworkInputs:
    """Positions, structure of each atom, and what else a network takes by name.

    Args:
        network: Module with the call ``network(z, pos, batch)``.
    """

    def __init__(self, network: nn.Module) -> None:
        self.names = _names(network)
        self._says_nothing = False  # of edges that are ignored; once is enough

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Positions in the precision of the network, structure of each atom, and what else it takes.

        Raises:
            ValueError: If a structure is periodic and the network takes no cell, atoms have no numbers or positions,
                or edges were made for a smaller cutoff than the network's or lost their shifts.
        """
        _, pos = atoms_of(batch)
        if "pbc" not in self.names and batch.get("pbc") is not None and bool(batch.pbc.any()):
            raise ValueError(
                f"a {type(network).__name__} takes no cell and would see periodic structures as clusters; "
                "use a model of pyg_schnet, or structures without periodic boundaries"
            )
        dtype = next(network.parameters()).dtype
        given = {"cell": batch.get("cell"), "pbc": batch.get("pbc"), "batch_size": batch.num_graphs}
        given.update(self._edges(network, batch))
        extra = {name: given[name] for name in self.names if given.get(name) is not None}
        if "cell" in extra:
            extra["cell"] = extra["cell"].to(dtype)
        return pos.to(dtype), batch.batch, extra

    def _edges(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Edges that were made for the network; see ``cutoff_of_edges``."""
        if "edge_index" not in self.names or batch.get("edge_index") is None:
            return {}
        found, needed = cutoff_of_edges(batch), getattr(network, "cutoff", None)
        if found is None:
            self._say_that_edges_are_ignored(needed)
            return {}
        if isinstance(needed, (int, float)) and found < needed * (1 - 1e-6):
            raise ValueError(
                f"edges were made by NeighborList({found}) but the network has a cutoff of {needed} Å, so neighbours "
                f"in between would be missing; take NeighborList({needed}), or no edges: the network makes its own"
            )
        pbc = batch.get("pbc")  # on a device the model looks, without waiting, and gives NaN
        if "edge_shift" not in batch and pbc is not None and is_at_hand(pbc) and bool(pbc.any()):
            raise ValueError(
                "a batch with periodic structures has edges without edge_shift, which PyTorch Geometric's loader "
                "leaves out where the first structure has none; take pyg_schnet.data.StructureLoader, or "
                "NeighborList(cutoff, periodic=True)"
            )
        return {name: batch[name] for name in ("edge_index", "edge_shift") if name in batch}

    def _say_that_edges_are_ignored(self, cutoff: float | None) -> None:
        if self._says_nothing:
            return
        self._says_nothing = True
        range_ = "" if cutoff is None else f" within {cutoff} Å"
        warnings.warn(
            "edge_index of the batches was not made by pyg_schnet.data.NeighborList, or was changed since (PyTorch "
            f"Geometric's QM9 has bonds there); it is ignored, and all neighbours{range_} are taken",
            stacklevel=3,
        )


def _names(network: nn.Module) -> list[str]:
    parameters = inspect.signature(network.forward).parameters
    if isinstance(network, AtomisticModel) and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return list(_OPTIONAL)  # a subclass that passes on what it is given
    return [name for name in _OPTIONAL if name in parameters]

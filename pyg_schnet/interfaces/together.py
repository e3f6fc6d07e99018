"""Several potentials on the same structures, whose neighbours are searched for once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.derivatives import EnergyForcesStress
from pyg_schnet.models import SchNet
from pyg_schnet.models.graph import Graph, find_edges
from pyg_schnet.potential import Potential


class _OnGraph:
    """A frozen SchNet whose edges were searched for already."""

    def __init__(self, model: Any, half_list: Graph) -> None:
        self.model, self.half_list = model, half_list

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.model(*args, **kwargs)

    def energy_and_gradients(self, *args: Any, **kwargs: Any) -> Any:
        """As that of the model, without the search."""
        return self.model.energy_and_gradients(*args, half_list=self.half_list, **kwargs)


def evaluate_together(
    potentials: Sequence[Potential],
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    forces: bool = True,
    stress: bool = False,
    **graph: Any,
) -> list[EnergyForcesStress]:
    """What each of several potentials says of the same structures; neighbours are searched for once.

    SchNets of one cutoff on a CPU share the search and the order of edges; others are evaluated one by one.

    Args:
        potentials: The potentials.
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``.
        forces: Whether to compute forces.
        stress: Whether to compute the stress.
        **graph: Lattice, edges and ``batch_size``, as in the call of a :class:`Potential`.

    Returns:
        A result for each potential.

    Raises:
        ValueError: As the call of a :class:`Potential`.

    Example:
        >>> from pyg_schnet import SchNet
        >>> potentials = [Potential(SchNet(16, 16, 2, cutoff=5.0), "eV") for _ in range(2)]
        >>> z, pos = torch.tensor([1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]])
        >>> [found.forces.shape for found in evaluate_together(potentials, z, pos)]
        [torch.Size([2, 3]), torch.Size([2, 3])]
    """
    first, half_list = potentials[0], None
    alike = [(p.device, p.dtype, _cutoff_of_schnet(p.model)) for p in potentials]
    if len(potentials) > 1 and (forces or stress) and alike[0][2] is not None and len(set(alike)) == 1:
        inputs = first._inputs(z, pos, batch, **graph)
        half_list = _half_list_of(first.model, *inputs)
    models = [None if half_list is None else _OnGraph(each.model, half_list) for each in potentials]
    return [
        each._evaluate(z, pos, batch, graph, forces, stress, model)
        for each, model in zip(potentials, models, strict=True)
    ]


def _cutoff_of_schnet(model: Any) -> float | None:
    """Cutoff in Å of a frozen SchNet whose energies and gradients are computed on half lists; ``None`` otherwise."""
    network = getattr(model, "model", None)
    return network.cutoff if type(network) is SchNet and network.backend != "reference" else None


def _half_list_of(model: Any, z: Tensor, pos: Tensor, batch: Tensor | None, given: dict[str, Any]) -> Graph | None:
    """One edge of each pair of directions; ``None`` where a model says what is wrong with its input, or uses none."""
    if pos.device.type != "cpu" or torch.is_inference_mode_enabled():
        return None
    owner, size = model.model._check(z, pos, batch, given.get("batch_size"))
    names = ("edge_index", "edge_shift", "cell", "pbc")
    lattice = {name: given.get(name) for name in names}
    return find_edges(z, pos, owner, model.cutoff, **lattice, batch_size=size, backend=model.backend)[0]

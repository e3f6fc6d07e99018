"""Repulsion of close atoms beside what a model has learned."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyg_schnet.geometry import apply_strain, edge_distances
from pyg_schnet.models.graph import Edges, Graph
from pyg_schnet.nn import MeanReadout, SumReadout, ZBLRepulsion
from pyg_schnet.ops.potential import EnergyGradients
from pyg_schnet.units import dimension, factor

Model = TypeVar("Model", bound=nn.Module)


def make_repulsion(given: bool | dict[str, float] | None, readout: nn.Module) -> ZBLRepulsion | None:
    """The repulsion of a model from the argument ``repulsion``.

    Args:
        given: Whether there is one, or its arguments.
        readout: Readout of the model.

    Raises:
        ValueError: If the model does not predict energies, or there is no such argument.
    """
    if given is None or given is False:
        return None
    if not isinstance(given, (bool, dict)):
        raise ValueError(f"repulsion must be True, False or a dictionary of arguments of ZBLRepulsion, got {given!r}")
    if not isinstance(readout, (SumReadout, MeanReadout)) or readout.out_channels != 1:
        raise ValueError(f"a repulsion is added to energies, sums or means of one property; the readout is {readout}")
    options: dict[str, float] = given if isinstance(given, dict) else {}
    if unknown := sorted(set(options) - {"outer", "inner"}):
        raise ValueError(f"repulsion has the arguments outer and inner, got {', '.join(unknown)}")
    return ZBLRepulsion(**options)


def describe_repulsion(repulsion: Any) -> dict[str, Any]:
    """The entry of a model's ``config``; none without a repulsion, as in files of earlier versions."""
    if not isinstance(repulsion, ZBLRepulsion):
        return {}
    return {"repulsion": {"outer": repulsion.outer, "inner": repulsion.inner}}


def with_repulsion(model: Any, *, outer: float = 0.8, inner: float = 0.4) -> Any:
    """A copy of a trained model with the repulsion of close atoms added, see :class:`pyg_schnet.nn.ZBLRepulsion`.

    Energies of structures whose atoms are all farther apart than ``outer`` sums of covalent radii do not change. Choose
    it below the shortest bonds of the training data.

    Args:
        model: SchNet of energies; the unit of its output is that of its card, eV where there is none.
        outer: Where the repulsion ends, in sums of covalent radii.
        inner: Up to where it is not switched, in sums of covalent radii.

    Raises:
        ValueError: If the model does not predict energies.

    Example:
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 2, cutoff=5.0).eval()
        >>> z, pos = torch.tensor([6, 6]), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
        >>> bool(with_repulsion(model)(z, pos) > model(z, pos) + 50.0)
        True
    """
    built = type(model)(**{**model.config, "repulsion": {"outer": outer, "inner": inner}})
    built = built.to(next(model.parameters()))
    missing = built.load_state_dict(model.state_dict(), strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"the model has weights that its config does not describe: {missing.unexpected_keys}")
    built.card = dict(model.card)
    unit = built.card.get("unit") or "eV"
    built.repulsion.scale.fill_(factor("eV/atom" if dimension(unit) == "energy per atom" else "eV", unit))
    return built.train(model.training)


def repulsion_of_structures(model: Any, z: Tensor, edges: Edges, batch: Tensor, batch_size: int) -> Tensor:
    """Repulsion of each structure in the unit of a model, shape ``[B, 1]``.

    Args:
        model: Model with a repulsion.
        z: Atomic numbers, shape ``[N]``.
        edges: Edges of the batch.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
    """
    return _pooled(model, repulsion_of_atoms(model, z, edges), z, batch, batch_size).unsqueeze(1)


def repulsion_of_atoms(model: Any, z: Tensor, edges: Edges) -> Tensor:
    """Repulsion of each atom in the unit of a model, shape ``[N]``; arguments of :func:`repulsion_of_structures`."""
    half = edges.half_list
    graph = edges.directed if half is None else half
    return model.repulsion(z, graph.index, graph.dist, half is not None)


def _pooled(model: Any, energies: Tensor, z: Tensor, batch: Tensor, batch_size: int) -> Tensor:
    total = energies.new_zeros(batch_size).index_add(0, batch, energies)
    if not isinstance(model.readout, MeanReadout):
        return total
    n_atoms = total.new_zeros(batch_size).index_add(0, batch, (z > 0).to(total.dtype))
    return total / n_atoms.clamp(min=1.0)


def add_repulsion(
    model: Any,
    found: EnergyGradients,
    z: Tensor,
    pos: Tensor,
    batch: Tensor,
    batch_size: int,
    graph: Graph,
    cell: Tensor | None,
) -> EnergyGradients:
    """Energies and gradients with those of the repulsion, which few edges have.

    Args:
        model: Model with a repulsion.
        found: Energies and gradients of the rest.
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        graph: Half list of edges.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
    """
    pos, index, shift = pos.detach(), graph.index, graph.edge_shift
    if type(model.repulsion) is ZBLRepulsion:
        dist = edge_distances(pos, index, shift, cell, batch) if graph.dist is None else graph.dist
        near = model.repulsion.near(z, index, dist)
        if not near.numel():
            return found
        index, shift = index.index_select(1, near), None if shift is None else shift.index_select(0, near)
    with torch.enable_grad():
        pos = pos.clone().requires_grad_()
        strain = None if found.grad_strain is None else torch.zeros_like(found.grad_strain).requires_grad_()
        moved, lattice = pos, cell
        if strain is not None:
            box = torch.zeros_like(strain) if cell is None else cell.detach().reshape(-1, 3, 3)
            moved, box = apply_strain(pos, box, 0.5 * (strain + strain.mT), batch)
            lattice = None if cell is None else box
        dist = edge_distances(moved, index, shift, lattice, batch)
        energy = _pooled(model, model.repulsion(z, index, dist, True), z, batch, batch_size)
        inputs = [pos] if strain is None else [pos, strain]
        grads = torch.autograd.grad(energy.sum(), inputs, materialize_grads=True)
    return EnergyGradients(
        found.energy + energy.detach(),
        None if found.grad_pos is None else found.grad_pos + grads[0],
        None if found.grad_strain is None else found.grad_strain + grads[1],
    )

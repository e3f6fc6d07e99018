"""Energies, virials and features of single atoms, in the unit of a model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_schnet.geometry import edge_vectors
from pyg_schnet.models.graph import Edges, Graph, check_atoms, find_edges, prepare_edges
from pyg_schnet.models.repulsion import repulsion_of_atoms
from pyg_schnet.nn import MeanReadout, SumReadout
from pyg_schnet.ops.checks import check_batch_size, check_prediction
from pyg_schnet.ops.sort_edges import check_keys

_NO_GRAPH = dict.fromkeys(("edge_index", "edge_shift", "cell", "pbc"))


class _Structures(NamedTuple):
    z: Tensor
    pos: Tensor
    owner: Tensor  # structure of each atom
    given: dict[str, Any]  # lattice and number of structures


def has_atomwise(model: Any) -> bool:
    """Whether a model has features and energies of atoms: one of this package with a sum or mean as readout."""
    return getattr(model, "represent", None) is not None and isinstance(
        getattr(model, "readout", None), (SumReadout, MeanReadout)
    )


def atom_features(model: Any, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
    """Features of each atom after all interactions, shape ``[N, hidden_channels]``.

    Args:
        model: Model of this package.
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``.
        **graph: ``cell``, ``pbc``, ``edge_index``, ``edge_shift`` and ``batch_size``, as in the call of a model.

    Raises:
        TypeError: If the model has no features of atoms.
    """
    given = _structures(model, z, pos, batch, graph)
    features = model.represent(z, prepare_edges(z, pos, given.owner, model.cutoff, **given.given))
    check_prediction(features, "features of atoms")
    return features


def atom_energies(model: Any, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
    """Contribution of each atom to the sum or mean, shape ``[N]``; arguments and errors of :func:`atom_features`."""
    given = _structures(model, z, pos, batch, graph)
    values = _energies(model, z, prepare_edges(z, pos, given.owner, model.cutoff, **given.given))
    check_prediction(values, "energies of atoms")
    return values


def atom_virials(model: Any, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
    r"""Share of each atom in the virial of the sum of atom energies, shape ``[N, 3, 3]``, symmetric.

    .. math::
        \mathbf{W}_i = -\frac{1}{2} \sum_{e \ni i} \frac{\partial E}{\partial d_e}\,
        \frac{\mathbf{v}_e \otimes \mathbf{v}_e}{d_e}, \qquad
        \sum_i \mathbf{W}_i = -\frac{\partial E}{\partial \boldsymbol\varepsilon}

    over all directed edges e, of vector v and length d, that begin or end at atom i: half of the force along each
    edge times its vector goes to either end. Energies depend on lengths alone, so nothing else contributes. Arguments
    and errors of :func:`atom_features`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        z, pos, owner, given = _structures(model, z, pos.detach().clone(), batch, graph)
        _, directed = find_edges(z, pos, owner, model.cutoff, **{**_NO_GRAPH, **given})
        edges = directed()
        given |= {"edge_index": edges.index, "edge_shift": edges.edge_shift}
        measured = prepare_edges(z, pos, owner, model.cutoff, **given).directed
        dist = measured.dist.detach().clone().requires_grad_()
        energy = _energies(model, z, Edges(measured.index, dist, measured.ptr)).sum()
        slope = torch.autograd.grad(energy, dist, materialize_grads=True)[0]
        virials = _share_of_atoms(slope / dist.detach(), edges, pos, given.get("cell"), owner)
    check_prediction(virials, "virials of atoms")
    return virials


def _energies(model: Any, z: Tensor, edges: Edges) -> Tensor:
    """Contribution of each atom, repulsion included, shape ``[N]``."""
    values = model.readout.atom_values(model.represent(z, edges), z)[:, 0]
    return values if model.repulsion is None else values + repulsion_of_atoms(model, z, edges)


def _structures(model: Any, z: Tensor, pos: Tensor, batch: Tensor | None, graph: dict[str, Any]) -> _Structures:
    """Checked inputs, with what was left out."""
    if not has_atomwise(model):
        raise TypeError(
            "energies, virials and features of atoms are those of models of this package with a SumReadout or "
            f"MeanReadout, got {type(model).__name__}"
        )
    check_atoms(z, pos, batch)
    given = {name: value for name, value in graph.items() if value is not None}
    owner = torch.zeros_like(z) if batch is None else batch
    size = given.pop("batch_size", None)
    size = (int(owner.max()) + 1 if len(z) else 1) if size is None else size
    check_batch_size(size)
    check_keys(owner, size, "atoms name structures")
    return _Structures(z, pos, owner, {**given, "batch_size": size})


def _share_of_atoms(weight: Tensor, edges: Graph, pos: Tensor, cell: Tensor | None, owner: Tensor) -> Tensor:
    """Half of ``-weight`` times the square of each edge vector at either end, shape ``[N, 3, 3]``."""
    vec = edge_vectors(pos, edges.index, edges.edge_shift, cell, owner)
    share = torch.einsum("e,ea,eb->eab", -0.5 * weight, vec, vec)
    return pos.new_zeros(pos.size(0), 3, 3).index_add(0, edges.index[0], share).index_add(0, edges.index[1], share)

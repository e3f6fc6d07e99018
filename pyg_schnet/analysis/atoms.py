"""What a model says about single atoms: their latent energies, and how far these look."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.analysis._model import (
    Source,
    check_of,
    own_energy_model,
    place_of,
    structure_of,
    to_numpy,
)
from pyg_schnet.engine import FrozenModel
from pyg_schnet.geometry import edge_vectors
from pyg_schnet.models.graph import prepare_edges
from pyg_schnet.neighbors import radius_graph
from pyg_schnet.nn import MeanReadout

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class AtomContributions:
    """Latent energies of the atoms of one structure.

    Attributes:
        energies: Contribution of each atom in eV, its element's reference included, shape ``[N]``.
        references: The reference of each atom's element in eV, shape ``[N]``.
        prediction: The model's output for the structure: the sum of the contributions in eV, or their mean in eV/atom.
        pooling: Which of the two, ``"sum"`` or ``"mean"``.
        numbers: Atomic numbers, shape ``[N]``.
        positions: Positions in Å, shape ``[N, 3]``.
    """

    energies: np.ndarray
    references: np.ndarray
    prediction: float
    pooling: Literal["sum", "mean"]
    numbers: np.ndarray
    positions: np.ndarray

    @property
    def without_references(self) -> np.ndarray:
        """What the network says of each atom in eV, scale and shift included, shape ``[N]``."""
        return self.energies - self.references


@dataclass(frozen=True, eq=False)
class Locality:
    """How the energies of atoms change when all other atoms beyond a radius are removed.

    Attributes:
        radii: In Å, shape ``[R]``.
        changes: Energy of each atom among those closer than the radius, minus that in the whole structure, in eV, shape
            ``[A, R]``.
        n_neighbors: How many atoms, periodic images counted one by one, are closer than the radius, shape ``[A, R]``.
        energies: Energy of each atom in the whole structure in eV, shape ``[A]``.
        indices: Which atoms, shape ``[A]``.
        numbers: Their atomic numbers, shape ``[A]``.
        cutoff: Cutoff of the model in Å.
        horizon: Number of interactions times cutoff in Å; atoms beyond have no influence at all.
    """

    radii: np.ndarray
    changes: np.ndarray
    n_neighbors: np.ndarray
    energies: np.ndarray
    indices: np.ndarray
    numbers: np.ndarray
    cutoff: float
    horizon: float


def atom_contributions(model: Source, atoms: Atoms, *, unit: str | None = None) -> AtomContributions:
    r"""Latent energies of atoms, which add up to the energy, eq. (1), or average to it, eq. (2) of Schütt et al.

    .. math::
        E = \sum_i E_i \quad\text{or}\quad \frac{E}{n} = \frac{1}{n} \sum_i E_i, \qquad
        E_i = s\, p(\mathbf{x}_i) + t + a_{Z_i}

    (`Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_), with scale s, shift t and the reference a of the
    element (:class:`pyg_schnet.nn.SumReadout`). Only their sum was learned from data: how it is divided is the model's
    own choice.

    Args:
        model: Model with a sum or mean readout, its file, or the name of a pretrained one.
        atoms: Structure.
        unit: Unit of the model's output, where the model does not know it (``model.card["unit"]``).

    Returns:
        Arrays in float64.

    Raises:
        TypeError: If the model is not one of this package.
        ValueError: If the unit is missing, the model does not predict energies or energies per atom, or it was not
            trained on an element.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> parts = atom_contributions(SchNet(16, 16, 2, 20, 5.0), molecule("H2O"), unit="eV")
        >>> bool(abs(parts.energies.sum() - parts.prediction) < 1e-9)
        True
    """
    network, to_ev = own_energy_model(model, unit, "atom_contributions")
    check_of(network).atoms(atoms, distances=True)
    z, pos, lattice = structure_of(atoms, *place_of(network))
    with torch.no_grad():
        total = network(z, pos, batch_size=1, **lattice)[0, 0]
        energies = _atom_energies(network, z, pos, torch.zeros_like(z), 1, **lattice)
        references = network.readout.atomref[z, 0]
    return AtomContributions(
        energies=to_ev * to_numpy(energies),
        references=to_ev * to_numpy(references),
        prediction=to_ev * float(total),
        pooling="mean" if isinstance(network.readout, MeanReadout) else "sum",
        numbers=to_numpy(z),
        positions=to_numpy(pos),
    )


def locality(
    model: Source,
    atoms: Atoms,
    radii: np.ndarray | Sequence[float] | None = None,
    *,
    indices: Sequence[int] | None = None,
    unit: str | None = None,
    max_atoms: int = 20_000,
) -> Locality:
    r"""How the energy of an atom depends on what is farther away than a radius.

    .. math::
        \Delta E_i(R) = E_i\bigl(\{ j : \lVert \mathbf{r}_j - \mathbf{r}_i \rVert < R \}\bigr) - E_i(\text{all})

    All atoms at distance R or more from atom i are removed, nothing relaxes, and the latent energy of atom i
    (:func:`atom_contributions`) is compared with that in the whole structure. Of a periodic structure, what is left is
    a cluster with open boundaries in which every periodic image is an atom of its own. From T interactions times the
    cutoff on the change is exactly zero; it usually is small much earlier.

    All atoms and radii are evaluated together, those that leave the same atoms only once.

    Args:
        model: Model with a sum or mean readout, its file, or the name of a pretrained one.
        atoms: Structure.
        radii: In Å; ``None`` takes every 0.25 Å up to T times the cutoff, or to the size of a molecule.
        indices: Which atoms i; ``None`` takes all.
        unit: Unit of the model's output, where the model does not know it.
        max_atoms: More atoms than that, over all clusters, are evaluated in several batches, to bound the memory.

    Returns:
        Arrays in float64.

    Raises:
        TypeError: If the model is not one of this package.
        ValueError: If the unit is missing, the model does not predict energies or energies per atom or was not trained
            on an element, or a radius is not positive.
        IndexError: If there is no atom of an index.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> found = locality(SchNet(16, 16, 2, 20, 5.0), molecule("C6H6"), [2.0, 10.0], unit="eV", indices=[0])
        >>> found.n_neighbors, bool(abs(found.changes[0, 1]) < 1e-12)
        (array([[ 3, 11]]), True)
    """
    network, to_ev = own_energy_model(model, unit, "locality")
    check_of(network).atoms(atoms, distances=True)
    z, pos, lattice = structure_of(atoms, *place_of(network))
    horizon = network.num_interactions * network.cutoff
    radii = _radii(radii, pos, horizon, bool(lattice))
    places = np.arange(len(z))[slice(None) if indices is None else list(indices)]
    chosen = torch.as_tensor(places, device=z.device)
    clusters, counts, which = _clusters(z, pos, lattice, chosen, radii)
    with torch.no_grad():
        whole = _atom_energies(network, z, pos, torch.zeros_like(z), 1, **lattice)[chosen]
        alone = torch.cat([_center_energies(network, part) for part in _batches(clusters, max_atoms)])
    return Locality(
        radii=radii,
        changes=to_ev * to_numpy(alone[which] - whole.unsqueeze(1)),
        n_neighbors=to_numpy(counts),
        energies=to_ev * to_numpy(whole),
        indices=places,
        numbers=to_numpy(z[chosen]),
        cutoff=network.cutoff,
        horizon=horizon,
    )


def _atom_energies(
    network: FrozenModel, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int, **lattice: Any
) -> Tensor:
    """Contribution of each atom in the unit of the model, shape ``[N]``."""
    edges = prepare_edges(z, pos, batch, network.cutoff, batch_size=batch_size, **lattice)
    return network.readout.atom_values(network.represent(z, edges), z)[:, 0]


def _radii(radii: np.ndarray | Sequence[float] | None, pos: Tensor, horizon: float, periodic: bool) -> np.ndarray:
    if radii is None:
        size = horizon if periodic else min(horizon, float((pos - pos.mean(0)).norm(dim=1).max()) * 2)
        return 0.25 * np.arange(1, math.ceil(size / 0.25) + 2)
    radii = np.array(radii, dtype=np.float64)
    if radii.ndim != 1 or not radii.size or not (np.isfinite(radii) & (radii > 0)).all():
        raise ValueError(f"radii must be positive and in Å, [R]; got {radii.tolist()}")
    return radii


Cluster = tuple[Tensor, Tensor]  # atomic numbers and positions, the atom in the middle first


def _clusters(
    z: Tensor, pos: Tensor, lattice: dict[str, Any], chosen: Tensor, radii: np.ndarray
) -> tuple[list[Cluster], Tensor, Tensor]:
    """What is left around the chosen atoms.

    Returns:
        All different clusters, the number of neighbours ``[A, R]``, and which cluster is left ``[A, R]``.
    """
    graph = radius_graph(pos, float(radii.max()), **lattice)
    edge_index, edge_shift = graph if lattice else (graph, None)
    vec = edge_vectors(pos, edge_index, edge_shift, lattice.get("cell"))
    limits = torch.as_tensor(radii, device=pos.device).to(pos.dtype)
    clusters: list[Cluster] = []
    counts, which = [], []
    for i in chosen:
        mine = (edge_index[1] == i).nonzero().squeeze(1)
        dist, order = vec[mine].norm(dim=1).sort(stable=True)
        count = torch.searchsorted(dist, limits)  # how many are closer
        sizes, inverse = count.unique(return_inverse=True)
        which.append(len(clusters) + inverse)
        counts.append(count)
        for size in sizes.tolist():
            edges = mine[order[:size]]
            numbers = torch.cat([z[i].view(1), z[edge_index[0, edges]]])
            clusters.append((numbers, torch.cat([torch.zeros_like(pos[:1]), vec[edges]])))
    return clusters, torch.stack(counts), torch.stack(which)


def _batches(clusters: list[Cluster], max_atoms: int) -> Iterator[list[Cluster]]:
    """Clusters in their order, as many at a time as have at most ``max_atoms`` atoms, but at least one."""
    part: list[Cluster] = []
    n_atoms = 0
    for cluster in clusters:
        if part and n_atoms + len(cluster[0]) > max_atoms:
            yield part
            part, n_atoms = [], 0
        part.append(cluster)
        n_atoms += len(cluster[0])
    yield part


def _center_energies(network: FrozenModel, clusters: list[Cluster]) -> Tensor:
    """Energy of the first atom of each cluster in the unit of the model, shape ``[number of clusters]``."""
    z, pos = (torch.cat(parts) for parts in zip(*clusters, strict=True))
    sizes = torch.tensor([len(numbers) for numbers, _ in clusters], device=z.device)
    batch = torch.arange(len(clusters), device=z.device).repeat_interleave(sizes)
    return _atom_energies(network, z, pos, batch, len(clusters))[sizes.cumsum(0) - sizes]

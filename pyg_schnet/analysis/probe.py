"""Local chemical potentials: what a model says of a probe atom anywhere around a structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor
from torch_geometric.index import index2ptr

from pyg_schnet.analysis._model import (
    Source,
    check_of,
    own_energy_model,
    place_of,
    to_numpy,
)
from pyg_schnet.analysis._surroundings import Surroundings
from pyg_schnet.analysis.surface import LEVEL, Surface, molecular_surface
from pyg_schnet.data import to_data
from pyg_schnet.engine import FrozenModel
from pyg_schnet.models.card import check_elements
from pyg_schnet.models.graph import embed, prepare_edges
from pyg_schnet.nn import CFConv, DTNNInteraction, SchNetInteraction
from pyg_schnet.nn.atomref import MAX_Z

if TYPE_CHECKING:
    from ase import Atoms

_DENSEST = 0.25
"""Atoms in an Å³, more than in diamond (0.176) or any other solid at ambient pressure."""


@dataclass(frozen=True, eq=False)
class ProbePotential:
    """Energy of a probe atom at P points around a structure of N atoms.

    Attributes:
        points: Where the probe was, in Å, shape ``[P, 3]``; the vertices of the surface where one was asked for.
        energies: Energy of the probe in eV, its element's reference included, shape ``[P]``.
        reference: That reference in eV.
        probe: Chemical symbol of the probe.
        surface: The surface that the points are on, or ``None``.
        numbers: Atomic numbers of the structure, shape ``[N]``.
        positions: Positions of its atoms in Å, shape ``[N, 3]``.
        cell: Its lattice vectors in rows in Å, shape ``[3, 3]``.
        pbc: Its periodic axes, shape ``[3]``.
    """

    points: np.ndarray
    energies: np.ndarray
    reference: float
    probe: str
    surface: Surface | None
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray

    @property
    def without_reference(self) -> np.ndarray:
        """What the network says of the probe in eV, scale and shift included, shape ``[P]``."""
        return self.energies - self.reference


def probe_potential(
    model: Source,
    atoms: Atoms,
    probe: str | int = "H",
    *,
    points: np.ndarray | Tensor | None = None,
    isosurface: float | Surface | None = None,
    unit: str | None = None,
    memory: float = 256.0,
) -> ProbePotential:
    r"""Local chemical potential: the energy of a probe atom that feels a structure and does not act on it.

    Eq. (19) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_, and `Schütt et al. (2017)
    <https://doi.org/10.1038/ncomms13890>`_:

    .. math::
        \mathbf{x}_p^0 = \mathbf{A}_{Z_p}, \qquad
        \mathbf{x}_p^{t+1} = \mathbf{x}_p^t + \mathbf{v}^t\Bigl( \sum_j \mathbf{x}_j^t \circ
        W^t(\lVert \mathbf{r}_j - \mathbf{r}_p \rVert) \Bigr), \qquad
        \Omega(\mathbf{r}_p) = s\, p(\mathbf{x}_p^T) + t + a_{Z_p}

    with the features :math:`\mathbf{x}_j^t` of the structure as they are without the probe, which are computed once:
    messages go from atoms to probes, between two sets of points (eq. 8), and from probes nowhere. So this is the
    contribution of the probe to the energy of a structure of which it is an atom, with its outgoing edges cut. Scale s,
    shift t and the reference a of the element are those of the readout (:class:`pyg_schnet.nn.SumReadout`); s p + t is
    what differs between points, see :attr:`ProbePotential.without_reference`.

    A normalised convolution, eq. (18), divides by the number of atoms within the cutoff of the probe. In periodic
    structures the probe feels every image of the atoms, and has no images itself.

    Args:
        model: Model with a sum or mean readout, its file, or the name of a pretrained one.
        atoms: Structure, periodic along any axes.
        probe: Chemical symbol or atomic number of the probe.
        points: Where to put it, in Å, anywhere, shape ``[P, 3]``.
        isosurface: Surface to put it on instead: one made already, or the level in Å⁻² of
            :func:`~pyg_schnet.analysis.molecular_surface`. Without points it is that at 3.8 Å⁻².
        unit: Unit of the model's output, where the model does not know it (``model.card["unit"]``).
        memory: How much the evaluation may need at a time, in MiB, roughly; more points are cut into parts.

    Returns:
        Arrays in float64.

    Raises:
        TypeError: If the model is not one of this package, or has interactions other than those of SchNet and DTNN.
        ValueError: If the probe is no element, or an element the model was not trained on; if points are no ``[P, 3]``
            finite numbers, or there are both points and a surface; if the unit is missing, or the model does not
            predict energies or energies per atom.
        ImportError: If a surface is to be made and scikit-image is not installed.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 2, 20, 5.0)
        >>> result = probe_potential(model, molecule("H2O"), "H", points=[[0.0, 0.0, 3.0], [0.0, 0.0, 99.0]], unit="eV")
        >>> result.energies.shape
        (2,)
    """
    network, to_ev = own_energy_model(model, unit, "probe_potential")
    _check_interactions(network)
    number = _number_of(probe)
    check = check_of(network)
    check_elements(network.card, [number])
    check.atoms(atoms, distances=True)
    if not memory > 0:
        raise ValueError(f"memory must be a positive number of MiB, got {memory!r}")
    device, dtype = place_of(network)
    surface = _surface(atoms, points, isosurface)
    given: Any = points if surface is None else surface.vertices
    points = _points(given, device, dtype)
    with torch.no_grad():
        energies = _Probe(network, atoms, memory)(number, points)
        reference = network.readout.atomref[number, 0]
    return ProbePotential(
        points=to_numpy(points),
        energies=to_ev * to_numpy(energies),
        reference=to_ev * float(reference),
        probe=chemical_symbols[number],
        surface=surface,
        numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=atoms.get_positions(),
        cell=np.array(atoms.cell.array),
        pbc=np.array(atoms.pbc, dtype=bool),
    )


class _Probe:
    """The features that a structure has before each interaction, and the probes that see them."""

    def __init__(self, network: FrozenModel, atoms: Atoms, memory: float) -> None:
        data = to_data(atoms, dtype=network.embedding.weight.dtype).to(network.embedding.weight.device)
        lattice = {"cell": data.cell, "pbc": data.pbc} if atoms.pbc.any() else {}
        edges = prepare_edges(data.z, data.pos, torch.zeros_like(data.z), network.cutoff, batch_size=1, **lattice)
        self.network = network
        self.blocks = network.blocks()
        self.features = [embed(network.embedding, data.z)]
        for block in self.blocks[:-1]:
            self.features.append(block(self.features[-1], *edges.directed))
        self.origin = data.origin.reshape(3)
        self.around = Surroundings(data.pos, data.cell, data.pbc, network.cutoff)
        self.chunk = self._chunk(memory)

    def __call__(self, number: int, points: Tensor) -> Tensor:
        """Energy of a probe of an element at each point in the unit of the model, shape ``[P]``."""
        points = (points - self.origin).to(points.dtype)
        return torch.cat([self._energies(number, part) for part in points.split(self.chunk)])

    def _chunk(self, memory: float) -> int:
        """How many points fit: features of the widest layer for each point, and for each edge unless they are fused."""
        n_neighbors = min(len(self.around.pos), int(_DENSEST * 4 / 3 * np.pi * self.around.reach**3) + 1)
        width = max(weight.size(0) for weight in self.network.interactions.parameters())
        convs = [getattr(block, "conv", None) for block in self.blocks]
        fused = all(isinstance(conv, CFConv) and conv.is_splined() for conv in convs)
        return max(1, int(memory * 2**20 / (80 * width + (200 if fused else 80 * width) * n_neighbors)))

    def _energies(self, number: int, points: Tensor) -> Tensor:
        pairs, vec = self.around.pairs(points)
        index, dist = torch.stack([self.around.atom.index_select(0, pairs[0]), pairs[1]]), vec.norm(dim=1)
        ptr = index2ptr(pairs[1], len(points))
        z = torch.full((len(points),), number, device=points.device)
        x = embed(self.network.embedding, z)
        for block, features in zip(self.blocks, self.features, strict=True):
            x = block((features, x), index, dist, ptr)
        return self.network.readout.atom_values(x, z)[:, 0]


def _check_interactions(network: FrozenModel) -> None:
    for block in network.interactions:
        if not isinstance(block, (SchNetInteraction, DTNNInteraction)):
            raise TypeError(
                "probe_potential needs interactions between two sets of points, SchNetInteraction or DTNNInteraction; "
                f"this model has {type(block).__name__}"
            )


def _number_of(probe: str | int) -> int:
    number = atomic_numbers.get(probe, 0) if isinstance(probe, str) else int(probe)
    if not 1 <= number <= MAX_Z:
        raise ValueError(f"probe must be the symbol or atomic number of an element up to Z = {MAX_Z}, got {probe!r}")
    return number


def _surface(atoms: Atoms, points: np.ndarray | Tensor | None, isosurface: float | Surface | None) -> Surface | None:
    if points is not None:
        if isosurface is not None:
            raise ValueError("points and isosurface both say where to put the probe; give one of them")
        return None
    if isinstance(isosurface, Surface):
        return isosurface
    return molecular_surface(atoms, LEVEL if isosurface is None else isosurface)


def _points(points: np.ndarray | Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    points = torch.as_tensor(points, dtype=dtype, device=device)
    if points.dim() != 2 or points.size(1) != 3 or not bool(torch.isfinite(points).all()):
        raise ValueError(f"points must be finite positions in Å, [P, 3]; got shape {list(points.shape)}")
    return points

"""What training structures are like: systems, sizes, compositions and shortest distances, for the card of a model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.data import Property, target_mask
from pyg_schnet.data.check import edges_within
from pyg_schnet.models.domain import MAX_COMPOSITIONS, REACH, SYSTEMS, Coverage, Domain, Gradients, formula
from pyg_schnet.nn.atomref import MAX_Z, element_counts


def domain_of(
    batches: Iterable[Batch],
    *,
    forces: Property | None = None,
    stress: Property | None = None,
    relaxed: bool = False,
) -> Domain:
    """Look at all training structures once.

    Args:
        batches: The structures, some at a time.
        forces: Label of forces, where a model is trained on them.
        stress: Label of the stress, where a model is trained on it.
        relaxed: Whether a model is told that gradients vanish at all structures.

    Returns:
        The domain; trained on forces, or stress, if at least one structure has such labels.

    Example:
        >>> from pyg_schnet.data import AtomsDataset, StructureLoader
        >>> from ase.build import molecule
        >>> domain = domain_of(StructureLoader(AtomsDataset([molecule("H2O")]), batch_size=1))
        >>> domain.systems["molecule"].compositions, domain.gradients
        (('H2O',), 'none')
    """
    parts = [_Part(name) for name in SYSTEMS]
    pairs = torch.full(((MAX_Z + 1) ** 2,), torch.inf, dtype=torch.float64)
    labelled = {"forces": False, "stress": False}
    for batch in batches:
        pbc = batch.get("pbc")
        n_periodic = torch.zeros(batch.num_graphs, dtype=torch.int64) if pbc is None else pbc.view(-1, 3).sum(1).cpu()
        counts = element_counts(batch.z, batch.batch, batch.num_graphs).cpu()
        counts[:, 0] = 0.0  # padding
        for k, part in enumerate(parts):
            part.add(counts[n_periodic == k])
        add_shortest(pairs, batch)
        for name, target in (("forces", forces), ("stress", stress)):
            labelled[name] |= target is not None and _has_labels(batch, target)
    gradients: Gradients = "forces" if labelled["forces"] else "relaxed" if relaxed else "none"
    systems = {part.name: part.coverage() for part in parts if part.structures}
    return Domain(gradients, labelled["stress"], systems, _by_pair(pairs))


def add_shortest(pairs: Tensor, batch: Batch) -> None:
    """Lower ``pairs`` ``[(MAX_Z + 1)²]`` to the shortest distances in Å of a batch, for each pair of elements."""
    edge_index, dist = edges_within(batch, REACH)
    which = batch.z[edge_index[0]] * (MAX_Z + 1) + batch.z[edge_index[1]]
    pairs.scatter_reduce_(0, which.cpu(), dist.to("cpu", pairs.dtype), "amin")


def _has_labels(batch: Batch, target: Property) -> bool:
    if batch.get(target.attribute) is None:
        return False
    mask = target_mask(batch, target)
    return mask is None or bool(mask.any())


def _by_pair(pairs: Tensor) -> dict[tuple[int, int], float]:
    table = pairs.view(MAX_Z + 1, MAX_Z + 1)
    found = torch.nonzero(table < torch.inf).tolist()
    return {(a, b): float(min(table[a, b], table[b, a])) for a, b in found if 0 < a <= b}


class _Part:
    """Structures of one kind of system, seen some at a time."""

    def __init__(self, name: str) -> None:
        self.name, self.structures = name, 0
        self.atoms = (MAX_Z**9, 0)
        self.rows: np.ndarray | None = np.zeros((0, MAX_Z + 1), dtype=np.int64)  # different compositions; None: many
        self.low = torch.full((MAX_Z + 1,), torch.inf, dtype=torch.float64)
        self.high = torch.zeros(MAX_Z + 1, dtype=torch.float64)

    def add(self, counts: Tensor) -> None:
        """Take structures with so many atoms of each element, shape ``[B, MAX_Z + 1]``."""
        if not len(counts):
            return
        self.structures += len(counts)
        sizes = counts.sum(1)
        self.atoms = (min(self.atoms[0], int(sizes.min())), max(self.atoms[1], int(sizes.max())))
        amounts = counts.to(torch.float64)
        if self.name != SYSTEMS[0]:
            amounts = amounts / sizes.unsqueeze(1).clamp(min=1.0)
        self.low = torch.minimum(self.low, amounts.amin(0))
        self.high = torch.maximum(self.high, amounts.amax(0))
        if self.rows is not None:
            rows = counts.to(torch.int64).numpy()
            if self.name != SYSTEMS[0]:
                rows = rows // np.gcd.reduce(rows, axis=1, keepdims=True)
            self.rows = np.unique(np.concatenate([self.rows, rows]), axis=0)
            if len(self.rows) > MAX_COMPOSITIONS:
                self.rows = None

    def coverage(self) -> Coverage:
        """What was found."""
        names = None
        if self.rows is not None:
            names = tuple(sorted(formula(_by_symbol(row)) for row in self.rows.tolist()))
        found = torch.nonzero(self.high).squeeze(1).tolist()
        elements = {chemical_symbols[z]: (_short(self.low[z]), _short(self.high[z])) for z in found}
        return Coverage(self.structures, self.atoms, names, elements)


def _by_symbol(row: list[int]) -> dict[str, int]:
    return {chemical_symbols[z]: count for z, count in enumerate(row) if count}


def _short(value: Tensor) -> float:
    """A number of atoms, or a part in four digits."""
    number = round(float(value), 4)
    return int(number) if number == int(number) else number

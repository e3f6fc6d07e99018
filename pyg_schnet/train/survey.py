"""What the structures of a run have: labels and elements, looked at once before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch_geometric.data import Batch

from pyg_schnet.data import Property, target_mask, target_values
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.geometry import has_volume
from pyg_schnet.models.boundaries import check_boundaries, check_origin
from pyg_schnet.nn import DipoleReadout, ElectronicSpatialExtentReadout
from pyg_schnet.nn.atomref import element_counts
from pyg_schnet.nn.heads import heads_of
from pyg_schnet.train.parts import loads_of_batch

_PIECE = 10_000  # structures read at a time


@dataclass
class Survey:
    """What one part of a data set has.

    Attributes:
        size: Number of structures.
        labelled: Number of structures that have each target.
        elements: Number of structures that have each element, by symbol.
        taught: Symbols of the elements of structures that have one of the targets.
        loads: Edges of each structure where it has any, else atoms, shape ``[size]``.
        not_finite: For each target, the first structure whose label is NaN or infinite.
        without_volume: First structure that has a stress and no cell with a volume.
    """

    size: int = 0
    labelled: Counter[str] = field(default_factory=Counter)
    elements: Counter[str] = field(default_factory=Counter)
    taught: set[str] = field(default_factory=set)
    loads: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    not_finite: dict[str, int] = field(default_factory=dict)
    without_volume: int | None = None


def survey(structures: Any, targets: Sequence[Property]) -> Survey:
    """Look at all structures of a part.

    Args:
        structures: Part of a data set.
        targets: The targets that count.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet.data import AtomsDataset
        >>> dict(survey(AtomsDataset([molecule("H2O"), molecule("CH4")]), []).elements)
        {'H': 2, 'C': 1, 'O': 1}
    """
    found, loads = Survey(), [Survey().loads]
    for batch in pieces(structures):
        _add(found, batch, targets)
        found.size += batch.num_graphs
        loads.append(loads_of_batch(batch))
    found.loads = np.concatenate(loads)
    return found


def pieces(structures: Any, size: int = _PIECE) -> Iterator[Batch]:
    """All structures in batches, in their order."""
    for start in range(0, len(structures), size):
        yield collate_indices(structures, range(start, min(start + size, len(structures))))


def absent(part: Survey, known: set[str]) -> Counter[str]:
    """Elements of a part that are not among those known, with the number of structures that have them."""
    return Counter({symbol: count for symbol, count in part.elements.items() if symbol not in known})


def num_shared(structures: Any, others: Sequence[Any]) -> int:
    """Number of structures that are also in other parts: the same atoms in the same places and cell, to 1e-4 Å.

    Args:
        structures: Structures that are counted.
        others: The other parts.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet.data import AtomsDataset
        >>> num_shared(AtomsDataset([molecule("H2O"), molecule("CH4")]), [AtomsDataset([molecule("CH4")])])
        1
    """
    known = {key for part in others for key in _keys(part)}
    return sum(key in known for key in _keys(structures))


def _keys(structures: Any) -> Iterator[bytes]:
    """What each structure is, to be compared."""
    for batch in pieces(structures):
        atoms = torch.cat([batch.z.view(-1, 1), (batch.pos.to(torch.float64) * 1e4).round().to(torch.int64)], 1).numpy()
        cell = batch.get("cell")
        cells = None if cell is None else (cell.to(torch.float64) * 1e4).round().to(torch.int64).numpy()
        bounds = batch.ptr.tolist()
        for k, (start, end) in enumerate(pairwise(bounds)):
            yield atoms[start:end].tobytes() + (b"" if cells is None else cells[k].tobytes())


def check_places(readout: Any, parts: Mapping[str, Any]) -> None:
    """Raise where a readout of charges at positions cannot be used: for periodic structures, or far from its origin.

    Args:
        readout: Readout of the network; others than of dipoles and spatial extents look at nothing.
        parts: Structures of each part, by its name.

    Raises:
        ValueError: If there is such a structure; the message names part and structure.
    """
    if not any(isinstance(one, (DipoleReadout, ElectronicSpatialExtentReadout)) for one in heads_of(readout)):
        return
    for name, structures in parts.items():
        given = [(batch.get("pbc"), batch.get("origin")) for batch in pieces(structures)]
        pbc, origin = (
            ([one.view(-1, 3) for one in column if one is not None] for column in zip(*given, strict=True))
            if given
            else ((), ())
        )
        try:
            if pbc:
                check_boundaries(readout, torch.cat(pbc))
            if origin:
                check_origin(readout, torch.cat(origin))
        except ValueError as error:
            raise ValueError(f"{name} structures: {error}") from error


def _add(found: Survey, batch: Batch, targets: Sequence[Property]) -> None:
    has_element = element_counts(batch.z.clamp(max=99), batch.batch, batch.num_graphs) > 0
    labelled = torch.zeros(batch.num_graphs, dtype=torch.bool)
    for target in targets:
        mask = target_mask(batch, target)
        mask = torch.ones_like(labelled) if mask is None else mask.reshape(-1).to(torch.bool)
        labelled = labelled | mask
        found.labelled[target.name] += int(mask.sum())
        _look_for_nan(found, batch, target, mask)
        if target.name == "stress":
            cell = batch.get("cell")
            flat = mask if cell is None else mask & ~has_volume(cell)
            if found.without_volume is None and bool(flat.any()):
                found.without_volume = found.size + int(flat.nonzero()[0])
    for number in has_element.any(0).nonzero().flatten().tolist():
        symbol = chemical_symbols[number]
        found.elements[symbol] += int(has_element[:, number].sum())
        if bool(has_element[labelled, number].any()):
            found.taught.add(symbol)


def _look_for_nan(found: Survey, batch: Batch, target: Property, mask: torch.Tensor) -> None:
    values = target_values(batch, target)
    wrong = ~torch.isfinite(values.reshape(values.size(0), -1)).all(1)
    if target.level == "atom":
        wrong = torch.zeros_like(mask).index_put((batch.batch[wrong],), torch.tensor(True))
    wrong = wrong & mask
    if target.name not in found.not_finite and bool(wrong.any()):
        found.not_finite[target.name] = found.size + int(wrong.nonzero()[0])

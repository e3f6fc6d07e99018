"""Structures of a data module with energies and forces in eV and Å, as ASE's calculators hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from torch_geometric.data import Data

from pyg_schnet.data import Property, Split, find_property, target_mask, target_values, to_atoms
from pyg_schnet.models import AtomisticModel
from pyg_schnet.train.evaluation import run_of
from pyg_schnet.train.potential import PotentialTask
from pyg_schnet.units import dimension, factor


def kept_aside(
    model: AtomisticModel,
    given: dict[str, Any],
    split: Split,
    learned: np.ndarray,
    data_dir: str | None,
    most: int = 1000,
) -> tuple[list[Atoms], list[Atoms]]:
    """Validation and test structures of a run with their labels, for models of energies; empty for other models.

    Args:
        model: Model of the run.
        given: Configuration of the run.
        split: Its split.
        learned: Indices of structures that a model was trained on, which are left out of the first list.
        data_dir: Folder of the files that the data sets name.
        most: Largest number of each; more than these are drawn at random, the same in every call.
    """
    data, task = run_of(model, given, split, data_dir, most)
    if dimension(data.property.unit) not in ("energy", "energy per atom"):
        return [], []
    targets = {"energy": data.property}
    if issubclass(task, PotentialTask):
        targets["forces"] = find_property(data.dataset, "forces")
    places = np.flatnonzero(~np.isin(np.asarray(split.val), learned))
    parts = (data.val_set, places), (data.test_set, np.arange(len(data.test_set)))
    validation, test = (
        [with_labels(part[k], targets) for k in np.sort(np.random.default_rng(0).permutation(chosen)[:most]).tolist()]
        for part, chosen in parts
    )
    return validation, test


def with_labels(data: Data, targets: Mapping[str, Property]) -> Atoms:
    """A structure whose calculator holds its labels in eV and Å.

    Args:
        data: The structure.
        targets: Which label is ``"energy"``, and which ``"forces"``.

    Example:
        >>> data = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0, 0], [0.0, 0, 0.8]]), energy=torch.ones(1))
        >>> round(with_labels(data, {"energy": Property("energy", "kcal/mol")}).get_potential_energy(), 6)
        0.043364
    """
    atoms = to_atoms(data)
    results: dict[str, Any] = {}
    for name, target in targets.items():
        mask = target_mask(data, target)
        if mask is not None and not bool(torch.as_tensor(mask).all()):
            continue
        value = target_values(data, target).to(torch.float64).numpy()
        if name == "forces":
            results[name] = factor(target.unit, "eV/Å") * value.reshape(-1, 3)
        elif dimension(target.unit) == "energy per atom":
            results[name] = factor(target.unit, "eV/atom") * float(value.reshape(-1)[0]) * len(atoms)
        else:
            results[name] = factor(target.unit, "eV") * float(value.reshape(-1)[0])
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms

"""Predictions of a trained model for the test structures of its run, beside their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor
from torch_geometric.data import Batch
from tqdm import tqdm

from pyg_schnet.data import Property, Split, target_mask
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.models import AtomisticModel
from pyg_schnet.train.evaluation import run_of, task_of_run
from pyg_schnet.train.potential import PotentialTask
from pyg_schnet.train.split_note import check_untrained
from pyg_schnet.train.task import PropertyTask


@dataclass(frozen=True)
class Predicted:
    """One quantity of test structures.

    Attributes:
        name: What was predicted.
        unit: Its unit.
        predicted: Predictions, shape ``[n]``: one for each structure, or component of a vector.
        true: Labels, shape ``[n]``.
        structure: Structure of each number, shape ``[n]``.
        element: Atomic number of the atom of each number, shape ``[n]``; ``None`` for properties of structures.
        relative: Whether both are differences from the references of the elements.
    """

    name: str
    unit: str
    predicted: np.ndarray
    true: np.ndarray
    structure: np.ndarray
    element: np.ndarray | None
    relative: bool

    @property
    def error(self) -> np.ndarray:
        """Absolute errors, shape ``[n]``."""
        return np.abs(self.predicted - self.true)


@dataclass(frozen=True)
class Predictions:
    """Predictions for test structures.

    Attributes:
        num_test: Number of test structures of the run.
        n_atoms: Number of atoms of each structure that was predicted, shape ``[B]``.
        elements: Symbols of the elements in them.
        contains: Which of the elements each structure has, bool ``[B, elements]``.
        quantities: The property, or the energy; then forces, where they were learned.
    """

    num_test: int
    n_atoms: np.ndarray
    elements: tuple[str, ...]
    contains: np.ndarray
    quantities: tuple[Predicted, ...]

    def error_by_element(self, quantity: Predicted) -> dict[str, float]:
        """Mean absolute error by element: of atoms of the element, or of structures that contain it.

        Args:
            quantity: One of :attr:`quantities`.
        """
        found = {}
        for k, symbol in enumerate(self.elements):
            if quantity.element is None:
                rows = self.contains[quantity.structure, k]
            else:
                rows = quantity.element == chemical_symbols.index(symbol)
            if rows.any():
                found[symbol] = float(quantity.error[rows].mean())
        return found


def predict_test(
    network: AtomisticModel,
    given: dict[str, Any],
    split: Split | None,
    data_dir: str | None,
    batch_size: int,
    most: int,
) -> Predictions:
    """Predict test structures of a run.

    Args:
        network: Model; its references are taken out.
        given: Configuration of the run.
        split: Split whose test structures are taken; ``None`` takes the one that the configuration draws.
        data_dir: Folder of the files that the data sets name.
        batch_size: Structures in a batch.
        most: Largest number of structures; more than these are drawn at random, the same in every call.

    Raises:
        FileNotFoundError: If files of the data are missing.
        ValueError: If there is nothing to test on, the model was trained on something else, or on test structures.
    """
    data, task_class = run_of(network, given, split, data_dir, batch_size)
    check_untrained(network.card, data.split)
    n_test = len(data.test_set)
    if n_test == 0:
        raise ValueError("the run kept no structures for a test")
    data.check_places(network, test_only=True)
    task = task_of_run(network, data, task_class)
    task.find_targets(data)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    task.to(device).eval()
    chosen = np.sort(np.random.default_rng(0).permutation(n_test)[:most]).tolist()
    counts: list[Any] = []
    rows: dict[str, Any] = {}
    for start in tqdm(range(0, len(chosen), batch_size), "Predicting test structures", leave=False, delay=1.0):
        batch = collate_indices(data.test_set, chosen[start : start + batch_size])
        counts.append(_elements_of(batch))
        for name, found in _compare(task, batch.to(device), start).items():
            rows.setdefault(name, []).append(found)
    contains = torch.cat([one > 0 for one in counts]).numpy()
    present = np.flatnonzero(contains.any(0))
    return Predictions(
        n_test,
        torch.cat([one.sum(1) for one in counts]).numpy(),
        tuple(chemical_symbols[z] for z in present),
        contains[:, present],
        tuple(_join(task, name, parts) for name, parts in rows.items()),
    )


def _elements_of(batch: Batch) -> Tensor:
    """Number of atoms of each element, ``[B, elements]``, padding left out."""
    counts = torch.zeros(batch.num_graphs, len(chemical_symbols), dtype=torch.long)
    counts.index_put_((batch.batch, batch.z), torch.ones_like(batch.z), accumulate=True)
    counts[:, 0] = 0
    return counts


def _compare(task: PropertyTask, batch: Batch, first: int) -> dict[str, tuple[Tensor, ...]]:
    """Predictions, labels, structures and elements of each quantity, a row for each number."""
    with torch.no_grad():
        pairs = task.compare(batch)
    found = {}
    for name, target in _targets(task).items():
        by_atom = target.level == "atom"
        mask = target_mask(batch, target)
        owner = batch.batch if by_atom else torch.arange(batch.num_graphs, device=batch.z.device)
        rows = torch.ones_like(owner, dtype=torch.bool) if mask is None else mask[owner]
        predicted, true = (one.reshape(int(rows.sum()), -1) for one in pairs[name])
        structure, element = owner[rows] + first, batch.z[rows] if by_atom else torch.zeros_like(owner[rows])
        width = predicted.size(1)
        labels = (one.repeat_interleave(width) for one in (structure, element))
        found[name] = tuple(one.detach().cpu() for one in (predicted.flatten(), true.flatten(), *labels))
    return found


def _targets(task: PropertyTask) -> dict[str, Property]:
    """What is shown, by the names that the task gives it."""
    if not isinstance(task, PotentialTask):
        return {target.name: target for target in task.properties}
    shown = {"energy": task.property}
    if task.forces_weight > 0:
        shown["forces"] = task.derivatives["forces"]
    return shown


def _join(task: PropertyTask, name: str, parts: list[tuple[Tensor, ...]]) -> Predicted:
    predicted, true, structure, element = (torch.cat(list(column)).numpy() for column in zip(*parts, strict=True))
    target = _targets(task)[name]
    by_atom = target.level == "atom"
    pooling = next((part.pooling for part in task.parts if part.target.name == name), task.pooling)
    return Predicted(
        name,
        target.unit,
        predicted.astype(float),
        true.astype(float),
        structure,
        element if by_atom else None,
        relative=not by_atom and pooling != "none",
    )

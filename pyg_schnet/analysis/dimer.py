"""Two atoms approaching each other: where models of the same data agree, and where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from pyg_schnet.analysis._model import EnergySource, Potential, to_numpy


@dataclass(frozen=True, eq=False)
class DimerScan:
    """Energies and forces of two atoms over their distance, for M models.

    Attributes:
        elements: Chemical symbols of the two atoms.
        distances: In Å, shape ``[D]``.
        energies: Of each model in eV, its own reference subtracted, shape ``[M, D]``.
        forces: Of each model along the bond in eV/Å, shape ``[M, D]``: minus the slope of the energy, positive where
            the atoms repel each other.
        references: What was subtracted in eV, shape ``[M]``.
        reference: What that is: the energy at the largest distance, ``"separated"``, or that of two isolated atoms,
            ``"atoms"``.
    """

    elements: tuple[str, str]
    distances: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    references: np.ndarray
    reference: Literal["separated", "atoms"]

    @property
    def energy(self) -> np.ndarray:
        """Mean over models in eV, shape ``[D]``."""
        return self.energies.mean(0)

    @property
    def energy_std(self) -> np.ndarray:
        """Standard deviation over models, divided by their number, in eV, shape ``[D]``."""
        return self.energies.std(0)

    @property
    def force(self) -> np.ndarray:
        """Mean over models in eV/Å, shape ``[D]``."""
        return self.forces.mean(0)

    @property
    def force_std(self) -> np.ndarray:
        """Standard deviation over models, divided by their number, in eV/Å, shape ``[D]``."""
        return self.forces.std(0)


def dimer_scan(
    models: EnergySource | Sequence[EnergySource],
    first: str,
    second: str,
    distances: np.ndarray | Sequence[float] | None = None,
    *,
    unit: str | None = None,
    reference: Literal["separated", "atoms"] = "separated",
    untrained_forces: bool = False,
) -> DimerScan:
    r"""Energy and force along a bond between two atoms, by one model or several, all distances in one batch.

    .. math::
        \Delta E_m(d) = E_m(d) - E_m^\mathrm{ref}, \qquad F_m(d) = -\frac{\partial E_m}{\partial d}, \qquad
        \sigma(d)^2 = \frac{1}{M} \sum_m \bigl( \Delta E_m(d) - \overline{\Delta E}(d) \bigr)^2

    Models that were trained on the same data differ where the data says nothing; the spread tells where. The reference
    is each model's own, since models may disagree on the energy of atoms, of which the data need not know anything.

    Args:
        models: Model, model file, name of a pretrained model or energy function of ``(z, pos, batch)``, or several.
        first: Chemical symbol of one atom.
        second: Chemical symbol of the other.
        distances: In Å, in any order; ``None`` takes every 0.02 Å from 0.8 to 6 Å.
        unit: Unit of the models' output, where they do not know it.
        reference: Energy that is subtracted: ``"separated"``, the one at the largest distance, or ``"atoms"``, that of
            the two atoms each by itself. Beyond the cutoff both are the same.

        untrained_forces: Whether to give forces of models that were trained on energies alone.

    Returns:
        Arrays in float64; mean and spread are its properties.

    Raises:
        TypeError: If a model is nothing that can be called.
        ValueError: If there are no models, an element is unknown, a distance is not positive, ``reference`` is neither
            of the two, the unit of a model is missing or not one of an energy, or a model was not trained on one of
            the elements, or on no forces and ``untrained_forces`` is not set.

    Warns:
        UserWarning: If a model was trained on other systems than two atoms alone.

    Example:
        >>> spring = lambda z, pos, batch: (pos[::2] - pos[1::2]).square().sum(1)
        >>> scan = dimer_scan(spring, "C", "C", [1.0, 2.0], unit="eV")
        >>> scan.energy, scan.force
        (array([-3.,  0.]), array([-2., -4.]))
    """
    from ase.data import atomic_numbers

    if reference not in ("separated", "atoms"):
        raise ValueError(f"reference must be 'separated' (largest distance) or 'atoms' (isolated), got {reference!r}")
    unknown = [symbol for symbol in (first, second) if atomic_numbers.get(symbol, 0) == 0]
    if unknown:
        raise ValueError(f"expected the chemical symbols of two elements, got {unknown[0]!r}")
    distances = np.linspace(0.8, 6.0, 261) if distances is None else np.array(distances, dtype=np.float64)
    if distances.ndim != 1 or not distances.size or not (np.isfinite(distances) & (distances > 0)).all():
        raise ValueError(f"distances must be positive and in Å, [D]; got {distances.tolist()}")
    given: Any = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    potentials = [Potential(model, unit, untrained_forces=untrained_forces) for model in given]
    if not potentials:
        raise ValueError("models is empty; give a model or several of them")
    numbers = [atomic_numbers[first], atomic_numbers[second]]
    energies, forces, references = [], [], []
    for potential in potentials:
        potential.check.structure(numbers, [False] * 3)
        potential.check.derivatives("forces along the bond")
        energy, force = _scan(potential, numbers, distances)
        far = energy[distances.argmax()] if reference == "separated" else _isolated(potential, numbers)
        energies.append(energy - far)
        forces.append(force)
        references.append(far)
    return DimerScan((first, second), distances, np.stack(energies), np.stack(forces), np.array(references), reference)


def _scan(potential: Potential, numbers: list[int], distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies in eV and forces along the bond in eV/Å, each of shape ``[D]``."""
    count = len(distances)
    z = torch.tensor(numbers, device=potential.device).repeat(count)
    pos = torch.zeros(count, 2, 3, dtype=potential.dtype, device=potential.device)
    pos[:, 1, 0] = torch.from_numpy(distances).to(pos)
    batch = torch.arange(count, device=potential.device).repeat_interleave(2)
    found: Any = potential(z, pos.view(-1, 3), batch)
    along = found.forces.view(count, 2, 3)[:, :, 0]
    return to_numpy(found.energy), to_numpy(0.5 * (along[:, 1] - along[:, 0]))


def _isolated(potential: Potential, numbers: list[int]) -> float:
    """Energies of the two atoms in eV, each by itself, added up."""
    z = torch.tensor(numbers, device=potential.device)
    pos = torch.zeros(2, 3, dtype=potential.dtype, device=potential.device)
    return float(potential(z, pos, torch.arange(2), forces=False).energy.sum())

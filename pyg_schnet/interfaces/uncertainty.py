r"""Spread of an ensemble as an estimate of its error: calibrated on structures with labels, and watched in simulations.

.. math::
    \alpha_q^2 = \frac{\sum_k (q_k - \bar q_k)^2}{\sum_k \sigma_k^2}

with the mean and standard deviation over the models for each number k of a validation set: energies, components of
forces, or of the stress. Multiplied by α, the spread has the root mean square of the error there. `Musil et al. (2019)
<https://doi.org/10.1021/acs.jctc.8b00959>`_ calibrate by one factor too, from the mean of ratios; it is the ratio of
means here, which a spread near zero does not upset.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from ase import Atoms

from pyg_schnet.geometry import has_volume
from pyg_schnet.interfaces.batch import BatchCalculator
from pyg_schnet.interfaces.members import sources_of
from pyg_schnet.models import SchNetCommittee, load, read_header
from pyg_schnet.models.committee import CALIBRATION
from pyg_schnet.models.identity import hash_of_weights
from pyg_schnet.potential import Source, source_of

LABELS = ("energy", "forces", "stress")
"""What is calibrated, by the names of ASE."""


class DeviationError(RuntimeError):
    """A simulation has come to a structure where the models of an ensemble do not agree."""


def calibrate(
    models: Source | SchNetCommittee | Sequence[Source],
    structures: Sequence[Atoms],
    *,
    test: Sequence[Atoms] = (),
    unit: str | None = None,
) -> dict[str, float]:
    """Factors from the spread of a committee to its error, noted in the cards of its models.

    Calculators of the same models then give calibrated standard deviations. Model files are written again with the
    factors in their cards; weights do not change. The card says too on how many structures, the largest spread of a
    force on them (calculators warn of twice as much), and which fraction of the errors of the structures of ``test``
    lies within one and two deviations.

    Args:
        models: A committee or its file, or at least two models or their files.
        structures: Structures that no model was trained on; their calculators hold energy, forces or stress in eV
            and Å.
        test: Further ones, that the fractions are counted on; without them they are those of ``structures``.
        unit: Unit of the models' output, where they do not know it.

    Returns:
        A factor each for ``energy``, ``forces`` and ``stress``, for what has labels.

    Raises:
        ValueError: If there are fewer than two models, nothing has a label, a stress is of a cell without a volume, or
            the models agree exactly; the cards are then as they were.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.singlepoint import SinglePointCalculator
        >>> from pyg_schnet import SchNet
        >>> models, water = [SchNet(16, 16, 2, 20, 5.0) for _ in range(2)], molecule("H2O")
        >>> water.calc = SinglePointCalculator(water, energy=1.0)
        >>> list(calibrate(models, [water], unit="eV"))
        ['energy']
    """
    sources = sources_of(models)
    loaded = [load(one) if isinstance(one, (str, os.PathLike)) else one for one in sources]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the models note a calibration of other weights")  # here is a new one
        batch = BatchCalculator(loaded, unit=unit, untrained_forces=True)
    if len(batch.members) < 2:
        raise ValueError(f"an ensemble of at least two models is needed, got {len(batch.members)}")
    batch.members.factors, batch.members.usual = {}, {}  # of an earlier calibration; cards keep it until this one is
    names, known = _labels(structures)
    if not names:
        raise ValueError("no structure has a label; give them calculators that hold energy, forces or stress")
    results = _evaluated(batch, structures, names)
    pairs = {name: _errors(results, known, name) for name in names}
    if alike := [name for name, (_, spread) in pairs.items() if not (spread > 0).any()]:
        raise ValueError(f"the models agree exactly in {', '.join(alike)}, so that their spread says nothing of errors")
    factors = {
        name: float((np.square(error).sum() / np.square(spread).sum()) ** 0.5)
        for name, (error, spread) in pairs.items()
    }
    noted: dict[str, Any] = {"weights": sorted(weights_of(loaded)), "structures": len(structures), **factors}
    if "forces" in factors:
        sizes = [np.linalg.norm(one["forces_std"], axis=1).max(initial=0.0) for one in results]
        noted["largest"] = {"forces": factors["forces"] * float(max(sizes))}
    batch.members.factors = factors
    noted["within"] = {**_fractions(batch, test or structures), "structures": len(test or structures)}
    for one, source in zip(loaded, sources, strict=True):
        if isinstance(source, (str, os.PathLike)):
            one.card[CALIBRATION] = noted
            one.save(source, storage=read_header(source).get("storage"))
    for one in loaded:  # once files are written
        one.card[CALIBRATION] = noted
    return factors


def fractions_within(
    models: Source | SchNetCommittee | Sequence[Source], structures: Sequence[Atoms], *, unit: str | None = None
) -> dict[str, Any]:
    """Fractions of the errors that lie within one and two standard deviations, calibrated where the models are.

    Of normal errors these would be 0.68 and 0.95.

    Args:
        models: A committee or its file, or several models or their files.
        structures: Structures whose calculators hold energy, forces or stress in eV and Å.
        unit: Unit of the models' output, where they do not know it.

    Returns:
        Two fractions each for ``energy`` (of structures), ``forces`` and ``stress`` (of components).

    Raises:
        ValueError: If a stress is of a cell without a volume.

    Example:
        >>> from ase.build import molecule
        >>> from ase.calculators.singlepoint import SinglePointCalculator
        >>> from pyg_schnet import SchNet
        >>> models, water = [SchNet(16, 16, 2, 20, 5.0) for _ in range(2)], molecule("H2O")
        >>> water.calc = SinglePointCalculator(water, energy=1e6)
        >>> fractions_within(models, [water], unit="eV")
        {'energy': [0.0, 0.0]}
    """
    return _fractions(BatchCalculator(cast(Any, models), unit=unit, untrained_forces=True), structures)


def _fractions(batch: BatchCalculator, structures: Sequence[Atoms]) -> dict[str, Any]:
    """What :func:`fractions_within` returns."""
    names, known = _labels(structures)
    results = _evaluated(batch, structures, names)
    found = {}
    for name in names:
        error, spread = _errors(results, known, name)
        found[name] = [round(float((error <= width * spread).mean()), 4) for width in (1.0, 2.0)]
    return found


def _evaluated(batch: BatchCalculator, structures: Sequence[Atoms], names: Sequence[str]) -> list[dict[str, Any]]:
    """Results without what calculators say of structures that differ from those of training: labels are there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the structure")
        return batch(structures, names)


def _errors(
    results: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Absolute errors of all numbers of a quantity that have a label, and their standard deviations."""
    pairs = [
        (np.abs(one[name] - label[name]), one[f"{name}_std"])
        for one, label in zip(results, known, strict=True)
        if name in label
    ]
    error, spread = (np.concatenate([np.ravel(value) for value in column]) for column in zip(*pairs, strict=True))
    return error, spread


def weights_of(models: Sequence[Any]) -> list[str]:
    """Hashes of the weights of all models, those of committees one by one."""
    parts = [one.models() if isinstance(one, SchNetCommittee) else [source_of(one)] for one in models]
    return [hash_of_weights(model) for part in parts for model in part]


def _labels(structures: Sequence[Atoms]) -> tuple[list[str], list[dict[str, Any]]]:
    """Which labels there are, and those of each structure.

    Raises:
        ValueError: If a structure has a stress, and its cell no volume.
    """
    known = [labels_of(atoms) for atoms in structures]
    for k, (atoms, found) in enumerate(zip(structures, known, strict=True)):
        if "stress" in found and not bool(has_volume(torch.from_numpy(atoms.cell.array))):
            raise ValueError(
                f"structure {k} has a label of stress, but a cell without a volume, {atoms.cell.array.tolist()} Å; "
                "leave the stress out of the results of its calculator, or give it the cell"
            )
    return [name for name in LABELS if any(name in found for found in known)], known


def labels_of(atoms: Atoms) -> dict[str, Any]:
    """Energy, forces and stress that the calculator of a structure holds for its present positions."""
    calc = atoms.calc
    if calc is None or calc.check_state(atoms):
        return {}
    return {name: calc.results[name] for name in LABELS if name in calc.results}


class DeviationLimit:
    """Says where an ensemble is not to be trusted: for analyses, and to flag or stop a simulation.

    Args:
        forces: Largest standard deviation of the force on an atom, the length of the vector of its components, in eV/Å.
        energy_per_atom: Largest standard deviation of the energy over the number of atoms, in eV.
        action: ``"stop"`` raises a :class:`DeviationError`, ``"warn"`` warns once, where it is attached.

    Attributes:
        n_flagged: Number of structures beyond a limit, of those that were looked at by :meth:`check`.

    Raises:
        ValueError: If there is no limit, or one is not positive.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.interfaces import SchNetCalculator
        >>> water = molecule("H2O")
        >>> water.calc = SchNetCalculator([SchNet(16, 16, 2, 20, 5.0) for _ in range(2)], unit="eV")
        >>> DeviationLimit(forces=1e-9).outside(water)[0][:36]
        'the models disagree on the force on '
    """

    def __init__(
        self,
        *,
        forces: float | None = None,
        energy_per_atom: float | None = None,
        action: Literal["stop", "warn"] = "stop",
    ) -> None:
        given = [limit for limit in (forces, energy_per_atom) if limit is not None]
        if not given or not all(limit > 0 for limit in given):
            raise ValueError(f"give positive limits, got forces={forces!r} and energy_per_atom={energy_per_atom!r}")
        if action not in ("stop", "warn"):
            raise ValueError(f"action must be 'stop' or 'warn', got {action!r}")
        self.forces, self.energy_per_atom, self.action = forces, energy_per_atom, action
        self.n_flagged = 0
        self._said = False

    def outside(self, atoms: Atoms) -> list[str]:
        """Sentences on what is beyond a limit; none where all is well.

        Args:
            atoms: Structure with a calculator of several models; it is asked for forces.

        Raises:
            ValueError: If the calculator has no deviations.
        """
        calc: Any = atoms.calc
        if calc is None or "forces_std" not in calc.implemented_properties:
            raise ValueError("the calculator gives no standard deviations; make it of several models")
        found = []
        if self.forces is not None:
            atoms.get_forces(apply_constraint=False)
            spread = np.linalg.norm(calc.get_property("forces_std", atoms), axis=1)
            worst = int(spread.argmax())
            if not spread[worst] <= self.forces:  # nor for NaN
                found.append(
                    f"the models disagree on the force on atom {worst} by {spread[worst]:.3g} eV/Å, more than "
                    f"{self.forces:.3g}"
                )
        if self.energy_per_atom is not None:
            deviation = float(calc.get_property("energy_std", atoms)) / len(atoms)
            if not deviation <= self.energy_per_atom:
                found.append(
                    f"the models disagree on the energy by {deviation:.3g} eV/atom, more than "
                    f"{self.energy_per_atom:.3g}"
                )
        return found

    def check(self, atoms: Atoms) -> None:
        """Stop or warn where something is beyond a limit.

        Raises:
            DeviationError: With the action ``"stop"``.
        """
        reasons = self.outside(atoms)
        if not reasons:
            return
        self.n_flagged += 1
        text = "; ".join(reasons)
        if self.action == "stop":
            raise DeviationError(f"{text}; the structure is outside of what the models have learned")
        if not self._said:
            self._said = True
            warnings.warn(f"{text}; results from here on may be wrong", UserWarning, stacklevel=2)

    def observer(self, atoms: Atoms) -> Callable[[], None]:
        """What ASE's dynamics take: ``dynamics.attach(limit.observer(atoms), interval=10)``."""
        return lambda: self.check(atoms)

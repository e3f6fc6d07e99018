"""The audit of an energy model: all checks, one line each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyg_schnet.testing import invariances, numerics, surroundings
from pyg_schnet.testing.result import NotApplicable, Report, Result
from pyg_schnet.testing.structures import Case, default_cases
from pyg_schnet.testing.subject import Subject

CHECKS: dict[str, Callable[[Subject, Sequence[Case]], Result]] = {
    "all neighbours": surroundings.neighbors,
    "many neighbours": surroundings.crowds,
    "beyond the cutoff": surroundings.beyond_cutoff,
    "smooth energy": surroundings.smooth_energy,
    "smooth force": surroundings.smooth_force,
    "smooth curvature": surroundings.smooth_curvature,
    "rotation": invariances.rotation,
    "reflection": invariances.reflection,
    "translation": invariances.translation,
    "permutation": invariances.permutation,
    "batch": invariances.batching,
    "gradients across": invariances.leaks,
    "extensivity": invariances.extensivity,
    "supercell": invariances.supercell,
    "rewrapping": invariances.rewrapping,
    "forces": numerics.forces,
    "stress": numerics.stress,
    "zero distance": numerics.zero_distance,
    "run to run": numerics.repeatability,
    "float32 energies": numerics.float32_energies,
    "float32 forces": numerics.float32_forces,
    "dynamics": numerics.dynamics,
}
"""All checks by name, each a function of subject and structures; their docstrings give bounds and reasons."""


def audit(
    model: Any,
    structures: Any = None,
    *,
    unit: str | None = None,
    cutoff: float | None = None,
    checks: Iterable[str] | None = None,
) -> Report:
    """Examine an energy model: neighbours, smoothness, invariances, derivatives, precision and dynamics.

    Every check compares a deviation with a bound that follows from rounding or from the size of what is compared, never
    from what the model was trained for, so it needs no labels and serves random weights as well. Modules are copied,
    and examined in float64 and evaluation mode, calculators as they are. Checks that do not apply are listed with the
    reason.

    Args:
        model: A model of this package, its file or the name of a pretrained one; any module or function with the call
            ``(z, pos, batch)``, and ``cell``, ``pbc``, ``edge_index`` and ``edge_shift`` where it takes them, that
            returns energies ``[B]`` or ``[B, 1]``; PyTorch Geometric's SchNet; or a calculator of ASE.
        structures: ``ase.Atoms``, ``Data`` or several of them; ``None`` takes water, ethanol, a dense cluster, a
            triclinic crystal, a slab and a small cell, in the elements that the model knows.
        unit: Unit of energies, where the model does not know it; bounds do not depend on it.
        cutoff: Cutoff in Å, where the model does not know it.
        checks: Names of the checks to run (keys of ``CHECKS``); ``None`` runs all.

    Returns:
        The report; ``print`` shows the table, ``report.passed`` is whether no check failed.

    Raises:
        TypeError: If it is no model, or a structure is none.
        ValueError: If a check is unknown, or the model takes none of the structures; the message gives its reason.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 2, 20, 5.0)
        >>> report = audit(model, molecule("H2O"), checks=["rotation", "smooth force"])
        >>> report.passed, report["rotation"].verdict
        (True, 'ok')
    """
    from pyg_schnet.testing.subjects import subject_of  # imports ASE, which the other checks do not need

    chosen = list(CHECKS) if checks is None else list(checks)
    if unknown := [name for name in chosen if name not in CHECKS]:
        raise ValueError(f"unknown check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    if not chosen:
        raise ValueError(f"checks is empty; choose from {', '.join(CHECKS)}, or leave it out")
    subject = subject_of(model, unit, cutoff)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # that structures are none of the training, or have many neighbours
        cases = _taken(subject, _cases(structures, subject))
        results = tuple(_run(name, subject, cases) for name in chosen)
    return Report(_headline(subject), tuple(case.name for case in cases), results, tuple(subject.notes))


def _cases(structures: Any, subject: Subject) -> list[Case]:
    """The given structures, or the default ones."""
    if structures is None:
        return default_cases(subject.elements)
    is_one = hasattr(structures, "get_positions") or hasattr(structures, "pos")
    given = [structures] if is_one else list(structures)
    if not given:
        raise ValueError("structures is empty; give at least one, or leave it out for the default ones")
    names = [_formula(structure) for structure in given]
    names = [name if names.count(name) == 1 else f"{name} (number {k})" for k, name in enumerate(names)]
    return [Case.of(structure, name) for structure, name in zip(given, names, strict=True)]


def _taken(subject: Subject, cases: list[Case]) -> list[Case]:
    """The structures that the model takes; a note names the others."""
    found: list[Case] = []
    refused: dict[str, list[str]] = {}
    for case in cases:
        try:
            subject.known(case)
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            refused.setdefault(reason, []).append(case.name)
        else:
            found.append(case)
    reasons = [f"{', '.join(names)} left out: {reason}" for reason, names in refused.items()]
    if not found:
        raise ValueError(f"the model takes none of the structures; {'; '.join(reasons)}")
    subject.notes += reasons
    return found


def _run(name: str, subject: Subject, cases: list[Case]) -> Result:
    """The result of a check; a model that ends in an error has failed it."""
    try:
        return CHECKS[name](subject, cases)
    except NotApplicable as reason:
        return Result(name, None, None, "", "n/a", str(reason))
    except Exception as error:
        words = " ".join(str(error).split())
        return Result(name, None, None, "", "FAIL", f"{type(error).__name__}: {words[:160]}")


def _headline(subject: Subject) -> str:
    what = {
        "sum": f"energies in {subject.unit}",
        "mean": f"means over atoms in {subject.unit}, times the number of atoms",
        "intensive": f"an intensive property in {subject.unit}",
        "other": f"another property in {subject.unit}",
    }[subject.kind]
    cutoff = "cutoff not known" if subject.cutoff is None else f"cutoff {subject.cutoff:g} Å"
    return f"{subject.name}; {what}; {cutoff}; {str(subject.dtype).removeprefix('torch.')}"


def _formula(structure: Any) -> str:
    if hasattr(structure, "get_chemical_formula"):
        return structure.get_chemical_formula()
    return f"{len(structure.z)} atoms" if getattr(structure, "z", None) is not None else type(structure).__name__

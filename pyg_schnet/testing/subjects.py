"""What an audit examines, from what it is given."""

from __future__ import annotations

import os
from typing import Any

from pyg_schnet.potential import source_of
from pyg_schnet.testing.calculator_subject import CalculatorSubject
from pyg_schnet.testing.model_subject import ModelSubject
from pyg_schnet.testing.subject import Subject


def subject_of(model: Any, unit: str | None = None, cutoff: float | None = None) -> Subject:
    """What an audit examines.

    Args:
        model: A model of this package, its file or the name of a pretrained one, another module or function with the
            call ``(z, pos, batch)``, or a calculator of ASE.
        unit: Unit of energies, where the model does not know it.
        cutoff: Cutoff in Å, where the model does not know it.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the unit or the cutoff is none.
    """
    if cutoff is not None and not 0 < cutoff < float("inf"):
        raise ValueError(f"cutoff must be a positive length in Å, got {cutoff!r}")
    if isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        subject = ModelSubject(source_of(name), unit, cutoff)
        subject.name = f"{name}: {subject.name}"
        return subject
    if isinstance(model, type):
        raise TypeError(f"expected a model, got the class {model.__name__}; make an object of it")
    if hasattr(model, "get_potential_energy") and hasattr(model, "calculate"):
        return CalculatorSubject(model, unit, cutoff)
    if not callable(model):
        raise TypeError(
            "expected a model with the call (z, pos, batch), a model file, the name of a pretrained model or a "
            f"calculator of ASE; got {type(model).__name__}"
        )
    return ModelSubject(source_of(model), unit, cutoff)

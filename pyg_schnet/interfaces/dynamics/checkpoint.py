"""Everything that a simulation needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from pyg_schnet.models.writing import write_whole

_ENTRY = "pyg_schnet_dynamics"
_FORMAT = 1


@dataclass
class Checkpoint:
    """State of a simulation after a step; a file of arrays with JSON beside them, no code.

    Attributes:
        step: Steps done.
        settings: Of the dynamics, those that a continuation has to have.
        model: What tells the model from others.
        degrees: Degrees of freedom.
        random: State of the source of random numbers.
        numbers: Numbers of the integrator.
        files: Lengths of trajectory and log.
        arrays: ``positions``, ``momenta``, ``cell``, ``atomic_numbers``; those of the integrator with ``integrator.``
            and the structure that the neighbour list was built for with ``neighbors.`` in front.
    """

    step: int
    settings: dict[str, Any]
    model: str
    degrees: int
    random: dict[str, Any]
    numbers: dict[str, float]
    files: dict[str, dict[str, Any]]
    arrays: dict[str, np.ndarray] = field(repr=False)

    def save(self, path: Path) -> None:
        """Write the file; the one before is there until this one is whole.

        Args:
            path: The file.
        """
        entries = {name: value for name, value in vars(self).items() if name != "arrays"}
        note = {_ENTRY: json.dumps({"format": _FORMAT, **entries}, sort_keys=True)}
        arrays = {name: np.ascontiguousarray(value) for name, value in self.arrays.items()}
        write_whole(path, safetensors.numpy.save(arrays, note))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a file.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is not one that :meth:`save` has written.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}; begin without --resume, or give its --output")
        try:
            with safe_open(path, framework="numpy") as file:
                entries = json.loads((file.metadata() or {})[_ENTRY])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            if entries.pop("format") != _FORMAT:
                raise ValueError("it is of another version of this package")
            return cls(arrays=arrays, **entries)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no checkpoint of dynamics ({type(error).__name__}: {error})") from error

"""What dynamics are run with: ensemble, step, thermostat and barostat, and how often something is written."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Ensemble = Literal["nve", "langevin", "nose-hoover", "npt", "npt-anisotropic"]
"""Constant energy; constant temperature by Langevin's equation or by chains of Nosé-Hoover thermostats; constant
pressure and temperature by the equations of Martyna, Tobias and Klein, with a cell of constant shape or any."""

_FREE = ("checkpoint_interval",)  # what may differ between a run and its continuation


@dataclass(frozen=True)
class Settings:
    """Settings of molecular dynamics, in the units that simulations are described in.

    Attributes:
        ensemble: See :data:`Ensemble`.
        timestep: In fs.
        temperature: In K; of the thermostat, and of the velocities that are drawn.
        pressure: In GPa, for constant pressure; positive compresses.
        friction: Of Langevin's equation, in 1/fs.
        thermostat_time: Time constant of Nosé-Hoover chains in fs; ``None`` for 100 steps.
        barostat_time: Time constant of the barostat in fs; ``None`` for 1,000 steps.
        seed: Of velocities that are drawn and of Langevin's random forces.
        new_velocities: Whether to draw velocities where the structure has some.
        log_interval: Steps between lines of the log.
        trajectory_interval: Steps between frames.
        checkpoint_interval: Steps between checkpoints.

    Raises:
        ValueError: If one of them is out of range; the message names it.

    Example:
        >>> Settings("nve", timestep=0.25).thermostat_fs
        25.0
    """

    ensemble: Ensemble = "langevin"
    timestep: float = 0.5
    temperature: float = 300.0
    pressure: float = 0.0
    friction: float = 0.01
    thermostat_time: float | None = None
    barostat_time: float | None = None
    seed: int = 0
    new_velocities: bool = False
    log_interval: int = 100
    trajectory_interval: int = 100
    checkpoint_interval: int = 1000

    def __post_init__(self) -> None:
        if self.ensemble not in get_args(Ensemble):
            raise ValueError(f"ensemble must be one of {', '.join(get_args(Ensemble))}, got {self.ensemble!r}")
        for name, unit in (
            ("timestep", "fs"),
            ("friction", "1/fs"),
            ("thermostat_time", "fs"),
            ("barostat_time", "fs"),
        ):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number in {unit}, got {value}")
        if not 0.0 <= self.temperature < math.inf or (self.ensemble != "nve" and self.temperature == 0.0):
            raise ValueError(f"temperature must be a positive number in K (zero for nve alone), got {self.temperature}")
        if not math.isfinite(self.pressure):
            raise ValueError(f"pressure must be a number in GPa, got {self.pressure}")
        for name in ("log_interval", "trajectory_interval", "checkpoint_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a number of steps, at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    @property
    def thermostat_fs(self) -> float:
        """Time constant of the thermostat in fs."""
        return 100.0 * self.timestep if self.thermostat_time is None else self.thermostat_time

    @property
    def barostat_fs(self) -> float:
        """Time constant of the barostat in fs."""
        return 1000.0 * self.timestep if self.barostat_time is None else self.barostat_time

    def as_dict(self) -> dict[str, Any]:
        """What a continuation has to have in common, by name."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    def steps_of(self, picoseconds: float) -> int:
        """Number of steps in a time.

        Args:
            picoseconds: The time in ps.

        Raises:
            ValueError: If it is not positive.

        Example:
            >>> Settings(timestep=0.5).steps_of(1.0)
            2000
        """
        if not 0.0 < picoseconds < math.inf:
            raise ValueError(f"picoseconds must be a positive time in ps, got {picoseconds}")
        return max(1, round(1000.0 * picoseconds / self.timestep))

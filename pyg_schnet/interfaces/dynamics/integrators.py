"""ASE's integrators by ensemble, and their state as numbers."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
from ase import Atoms, units

from pyg_schnet.interfaces.dynamics.settings import Settings

_CHAINS = {
    "nose-hoover": ("NoseHooverChainNVT", "3.25"),
    "npt": ("IsotropicMTKNPT", "3.25"),
    "npt-anisotropic": ("MTKNPT", "3.26"),
}
"""Class of each ensemble with chains of thermostats, and the first version of ASE that has what is used of it."""


def conserves_momentum(settings: Settings) -> bool:
    """Whether total momentum is conserved where no atom is fixed; random forces change it."""
    return settings.ensemble != "langevin"


def check_supported(atoms: Atoms, settings: Settings) -> None:
    """Raise where the installed ASE has no such integrator, or the structure is not one for it.

    Args:
        atoms: Structure.
        settings: Settings of the dynamics.

    Raises:
        ImportError: If ASE is too old; the message names the version.
        ValueError: If atoms are fixed and the ensemble has none, or constant pressure meets open boundaries.
    """
    if settings.ensemble not in _CHAINS:
        return
    name, version = _CHAINS[settings.ensemble]
    if tuple(map(int, ase.__version__.split(".")[:2])) < tuple(map(int, version.split("."))):
        raise ImportError(
            f"ensemble {settings.ensemble} needs {name} of ASE {version} or newer, found {ase.__version__}: "
            f"pip install -U 'ase>={version}'; nve and langevin run with this one"
        )
    if atoms.constraints:
        raise ValueError(
            f"ensemble {settings.ensemble} counts all atoms as free, but the structure has fixed ones; take langevin "
            "or nve, or remove the constraints"
        )
    if settings.ensemble.startswith("npt") and not atoms.pbc.all():
        raise ValueError(
            f"constant pressure needs a structure that is periodic in three directions, got pbc={atoms.pbc.tolist()}"
        )


def integrator_of(atoms: Atoms, settings: Settings, degrees: int, rng: np.random.Generator) -> Any:
    """ASE's integrator of an ensemble; its ``step`` is called once for each step.

    ASE's chains of thermostats have 3 N degrees of freedom in mind. Where total momentum is conserved and zero there
    are fewer, and a molecule of three atoms would be three times too hot; they are given the right number here.

    Args:
        atoms: Structure with momenta and a calculator.
        settings: Settings of the dynamics.
        degrees: Degrees of freedom, as of :func:`~pyg_schnet.interfaces.dynamics.velocities.degrees_of_freedom`.
        rng: Source of Langevin's random forces.

    Raises:
        ImportError: If ASE is too old.
        ValueError: If the structure is not one for this ensemble.
    """
    check_supported(atoms, settings)
    timestep = settings.timestep * units.fs
    if settings.ensemble == "nve":
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, timestep)
    if settings.ensemble == "langevin":
        from ase.md.langevin import Langevin

        return Langevin(
            atoms,
            timestep,
            temperature_K=settings.temperature,
            friction=settings.friction / units.fs,
            fixcm=False,
            rng=rng,
        )
    from ase.md import nose_hoover_chain

    options: dict[str, Any] = {"temperature_K": settings.temperature, "tdamp": settings.thermostat_fs * units.fs}
    thermostat = nose_hoover_chain.NoseHooverChainThermostat(
        num_atoms_global=degrees / 3,  # type: ignore[arg-type]  # ASE counts three times as many
        masses=atoms.get_masses()[:, None],
        **options,
    )
    if settings.ensemble.startswith("npt"):
        options.update(pressure_au=settings.pressure * units.GPa, pdamp=settings.barostat_fs * units.fs)
    found = getattr(nose_hoover_chain, _CHAINS[settings.ensemble][0])(atoms, timestep, **options)
    found._thermostat = thermostat
    found._num_atoms_global = degrees / 3
    return found


def conserved_energy(integrator: Any, total: float) -> float | None:
    """What the equations of motion conserve, in eV: total energy, with that of thermostat and barostat.

    Args:
        integrator: Of :func:`integrator_of`.
        total: Potential and kinetic energy of the atoms in eV.

    Returns:
        ``None`` for Langevin's equation, which conserves nothing.
    """
    if hasattr(integrator, "get_conserved_energy"):
        return float(integrator.get_conserved_energy())
    return None if hasattr(integrator, "fr") else total


def state_of(integrator: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """All arrays and numbers of an integrator and of its thermostat and barostat, by their dotted names.

    Example:
        >>> from ase.build import molecule
        >>> from ase.md.verlet import VelocityVerlet
        >>> state_of(VelocityVerlet(molecule("H2O"), 0.5))[1]["dt"]
        0.5
    """
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, float] = {}
    for name, value in vars(integrator).items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            arrays[name] = value.copy()
        elif isinstance(value, bool | int | float | np.floating | np.integer):
            numbers[name] = value.item() if isinstance(value, np.generic) else value
        elif type(value).__module__.startswith("ase.md"):
            inner = state_of(value)
            arrays.update({f"{name}.{key}": array for key, array in inner[0].items()})
            numbers.update({f"{name}.{key}": number for key, number in inner[1].items()})
    return arrays, numbers


def restore(integrator: Any, arrays: dict[str, np.ndarray], numbers: dict[str, float]) -> None:
    """Set what :func:`state_of` has found.

    Args:
        integrator: One made with the same settings.
        arrays: Arrays by their dotted names.
        numbers: Numbers by their dotted names.

    Raises:
        ValueError: If the integrator has other parts, as that of another version of ASE might.
    """
    found = state_of(integrator)
    if missing := sorted(({*found[0]} - {*arrays}) | ({*found[1]} - {*numbers})):
        raise ValueError(
            f"the checkpoint has no {', '.join(missing)} of the integrator of ASE {ase.__version__}; go on with the "
            "version that wrote it"
        )
    for name, value in {**arrays, **numbers}.items():
        *parts, last = name.split(".")
        owner = integrator
        for part in parts:
            owner = getattr(owner, part)
        setattr(owner, last, value.copy() if isinstance(value, np.ndarray) else value)

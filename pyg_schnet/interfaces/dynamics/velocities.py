"""Velocities of Maxwell and Boltzmann without drift and rotation, and the degrees of freedom that share the energy."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units

_STILL = 1e-6  # total momentum in parts of what random velocities have


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator, *, still: bool = True) -> None:
    r"""Draw momenta from the distribution of Maxwell and Boltzmann, and scale them to the temperature.

    .. math::
        p \sim \mathcal N(0, m k_B T), \qquad \mathbf{P} = 0, \quad \mathbf{L} = 0, \qquad
        \sum \frac{p^2}{2m} = \frac{n_f}{2} k_B T

    Total momentum, and in open boundaries the angular momentum, are taken out; where atoms are fixed they stay.

    Args:
        atoms: Structure; its momenta are set.
        temperature: In K.
        rng: Source of random numbers.
        still: Whether the dynamics conserve total momentum, so that it is no degree of freedom.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> draw_velocities(water, 300.0, np.random.default_rng(0))
        >>> round(temperature_of(water, degrees_of_freedom(water)), 6)
        300.0
    """
    scale = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(scale * rng.standard_normal((len(atoms), 3)))
    remove_drift(atoms)
    kinetic, degrees = atoms.get_kinetic_energy(), degrees_of_freedom(atoms, still=still)
    if kinetic > 0.0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(0.5 * degrees * units.kB * temperature / kinetic))


def remove_drift(atoms: Atoms) -> None:
    """Set the total momentum, and in open boundaries the angular momentum, to zero; not where atoms are fixed.

    Args:
        atoms: Structure; its momenta are changed.
    """
    if atoms.constraints or len(atoms) < 2:
        return
    masses, momenta = atoms.get_masses()[:, None], atoms.get_momenta()
    momenta -= masses * momenta.sum(0) / masses.sum()
    if not atoms.pbc.any():
        arms = atoms.get_positions() - (masses * atoms.get_positions()).sum(0) / masses.sum()
        rotation = np.linalg.pinv(_inertia(masses, arms), rcond=1e-8) @ np.cross(arms, momenta).sum(0)
        momenta -= masses * np.cross(rotation, arms)
    atoms.set_momenta(momenta)


def degrees_of_freedom(atoms: Atoms, *, still: bool = True) -> int:
    """Degrees of freedom that share the kinetic energy: 3 N less what is fixed, and what is conserved and zero.

    Args:
        atoms: Structure with momenta.
        still: Whether the dynamics conserve total momentum; a zero one is then no degree of freedom, nor is a zero
            angular momentum in open boundaries.

    Example:
        >>> from ase.build import bulk, molecule
        >>> degrees_of_freedom(molecule("H2O")), degrees_of_freedom(molecule("CO2")), degrees_of_freedom(bulk("Cu") * 2)
        (3, 4, 21)
        >>> degrees_of_freedom(molecule("H2O"), still=False)
        9
    """
    free = 3 * len(atoms) - sum(one.get_removed_dof(atoms) for one in atoms.constraints)
    if not still or atoms.constraints or len(atoms) < 2:
        return max(free, 1)
    masses, momenta = atoms.get_masses()[:, None], atoms.get_momenta()
    usual = np.sqrt(masses.sum() * (momenta**2 / masses).sum())
    if np.linalg.norm(momenta.sum(0)) > _STILL * usual:
        return free
    free -= 3
    if not atoms.pbc.any():
        arms = atoms.get_positions() - (masses * atoms.get_positions()).sum(0) / masses.sum()
        moments = np.linalg.eigvalsh(_inertia(masses, arms))
        if np.linalg.norm(np.cross(arms, momenta).sum(0)) <= _STILL * usual * np.linalg.norm(arms, axis=1).max():
            free -= int((moments > 1e-6 * moments.max()).sum())
    return max(free, 1)


def temperature_of(atoms: Atoms, degrees: int) -> float:
    """Temperature in K of the kinetic energy, shared by so many degrees of freedom."""
    return float(2.0 * atoms.get_kinetic_energy() / (degrees * units.kB))


def _inertia(masses: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """Tensor of inertia about the centre of mass, shape ``[3, 3]``."""
    return np.eye(3) * (masses * arms**2).sum() - (masses * arms).T @ arms

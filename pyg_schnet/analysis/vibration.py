"""Normal modes of vibration, from the second derivatives of a learned potential."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.analysis._model import EnergySource, Potential, structure_for, to_numpy
from pyg_schnet.derivatives import hessian
from pyg_schnet.units import factor

if TYPE_CHECKING:
    from ase import Atoms

# CODATA 2018: e in C, u in kg, c in m/s
_FROM_EIGENVALUE = math.sqrt(1.602176634e-19 / 1.66053906660e-27) * 1e10 / (2e2 * math.pi * 299792458.0)
"""Wave number in cm⁻¹ of an eigenvalue of 1 eV/(Å² u)."""

_LINEAR = 5e-3
"""Radius of gyration about an axis, relative to the largest one, below which atoms are on that axis."""

_ROUNDING = 1e-9
"""Eigenvalues below this part of the largest one are zero; of 4,000 cm⁻¹ it is 0.13 cm⁻¹."""


@dataclass(frozen=True, eq=False)
class NormalModes:
    """Harmonic vibrations about a structure, in ascending order.

    Attributes:
        frequencies: Wave numbers in cm⁻¹, shape ``[M]``; imaginary ones as negative numbers.
        imaginary: Whether they are imaginary, the energy falling along the mode, shape ``[M]``. Never set for rigid
            motions.
        rigid: Whether they are motions of the whole, translations or rotations, shape ``[M]``; all ``False`` where
            these were projected out.
        modes: Displacements in Cartesian coordinates, each of Euclidean norm 1 over all atoms, shape ``[M, N, 3]``;
            zero for fixed atoms.
        reduced_masses: In u, those that belong to displacements of norm 1, shape ``[M]``.
        zero_point_energy: Half the sum of the real vibrations' quanta in eV.
        residual_force: Largest force on an atom that may move in eV/Å; frequencies mean something where it is about
            zero.
        hessian: Second derivatives in eV/Å², of all atoms, shape ``[N, 3, N, 3]``.
        numbers: Atomic numbers, shape ``[N]``.
        positions: Positions in Å, shape ``[N, 3]``.
        masses: Masses in u, shape ``[N]``.
    """

    frequencies: np.ndarray
    imaginary: np.ndarray
    rigid: np.ndarray
    modes: np.ndarray
    reduced_masses: np.ndarray
    zero_point_energy: float
    residual_force: float
    hessian: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    masses: np.ndarray


def normal_modes(
    model: EnergySource,
    atoms: Atoms,
    *,
    unit: str | None = None,
    rigid: Literal["project", "keep"] = "project",
    untrained_forces: bool = False,
) -> NormalModes:
    r"""Frequencies and modes of vibration, from the exact Hessian of the energy.

    .. math::
        \frac{1}{\sqrt{m_i m_j}} \frac{\partial^2 E}{\partial r_{ia} \partial r_{jb}}\, L_{jb,k} = \omega_k^2 L_{ia,k},
        \qquad
        d_{ia,k} = \sqrt{\frac{\mu_k}{m_i}}\, L_{ia,k}, \qquad
        \mu_k^{-1} = \sum_{ia} \frac{L_{ia,k}^2}{m_i}, \qquad
        E_0 = \frac{1}{2} \sum_k \hbar \omega_k

    with eigenvectors L of norm 1, displacements d of norm 1 and reduced masses μ as in `Ochterski, Vibrational
    analysis in Gaussian (1999) <https://gaussian.com/vib/>`_. Translations and rotations are taken out exactly,
    by working in the space orthogonal to them (`Miller, Handy and Adams (1980) <https://doi.org/10.1063/1.438959>`_):
    a molecule has 3N - 6 vibrations, a linear one 3N - 5, an atom none; a structure that is periodic in one direction
    can still turn about it, 3N - 4; slabs and crystals can move but not turn, 3N - 3, the phonons at Γ.

    Frequencies are those of vibrations only at a stationary point of *this* potential: relax the structure first, for
    example by ``ase.optimize.BFGS`` with a :class:`pyg_schnet.interfaces.SchNetCalculator`, and look at
    ``residual_force``. Filters are evaluated as the model has it set, so this is the curvature that dynamics with the
    same model sees; with random weights, exact filters instead of splined ones change frequencies by 0.1 cm⁻¹.

    Atoms that ASE's ``FixAtoms`` or ``FixCartesian`` hold do not move: modes are those of the part of the Hessian that
    belongs to the other coordinates, and motions of the whole are only those that leave what is held in its place,
    such as turns about a single fixed atom. Other constraints are refused.

    Args:
        model: Model, model file, name of a pretrained one, or any energy function that
            :func:`pyg_schnet.derivatives.hessian` takes.
        atoms: Structure; masses are those of ``atoms.get_masses()``.
        unit: Unit of the model's output, where the model does not know it (``model.card["unit"]``).
        rigid: ``"project"`` leaves translations and rotations out; ``"keep"`` diagonalises all of the Hessian, returns
            3N modes (fewer with fixed atoms), and marks those that consist of such motions most.
        untrained_forces: Whether to take a model that was trained on energies alone; they are refused
            otherwise.

    Returns:
        Arrays in float64.

    Raises:
        TypeError: If the model is nothing that can be called.
        ValueError: If the unit is missing or is not one of an energy, if the structure cannot be read, if ``rigid``
            is neither of the two, if there is a constraint other than these two or nothing is free to move, or if the
            model was not trained on an element, or on no forces.

    Warns:
        UserWarning: If the model was trained on other compositions, boundaries or sizes; see
            :class:`pyg_schnet.interfaces.SchNetCalculator`.

    Example:
        >>> from ase import Atoms
        >>> spring = lambda z, pos, batch: 15.0 * ((pos[1] - pos[0]).norm() - 0.75).square().view(1)
        >>> modes = normal_modes(spring, Atoms("H2", [[0, 0, 0], [0, 0, 0.75]]), unit="eV")
        >>> modes.frequencies.round(), modes.reduced_masses.round(3)
        (array([4023.]), array([1.008]))
    """
    if rigid not in ("project", "keep"):
        raise ValueError(f"rigid must be 'project' (left out) or 'keep' (all 3N modes), got {rigid!r}")
    potential = Potential(model, unit, untrained_forces=untrained_forces)
    potential.check.derivatives("vibrations")
    free = _free_coordinates(atoms)
    z, pos, lattice = structure_for(potential, atoms)
    masses = torch.as_tensor(atoms.get_masses(), dtype=pos.dtype).to(pos.device)
    if not bool((masses > 0).all()):
        raise ValueError(f"masses must be positive, in u; got {atoms.get_masses().tolist()}")
    found: Any = potential(z, pos, cell=lattice.get("cell"), pbc=lattice.get("pbc"))
    forces = found.forces
    curvature = hessian(potential.energy, z, pos, **lattice)
    root = masses.sqrt().repeat_interleave(3)  # [3N]
    weighted = curvature.reshape(root.numel(), -1) / (root.unsqueeze(0) * root.unsqueeze(1))
    weighted = 0.5 * (weighted + weighted.mT)
    free = free.to(pos.device)
    motions = _of_the_free(_rigid_motions(pos, masses, **lattice), free)  # [3N, K]
    space = torch.eye(root.numel(), dtype=pos.dtype, device=pos.device)[:, free]  # [3N, free]
    if rigid == "project":
        inside = torch.linalg.qr(motions[free], mode="complete").Q[:, motions.size(1) :]
        space = space @ inside  # [3N, free - K]
    eigenvalues, vectors = torch.linalg.eigh(space.mT @ weighted @ space)
    vectors = space @ vectors  # [3N, M]
    is_rigid = torch.zeros_like(eigenvalues, dtype=torch.bool)
    if rigid == "keep":
        share = (motions.mT @ vectors).square().sum(0)
        is_rigid[share.topk(motions.size(1)).indices] = True
    displacements = (vectors / root.unsqueeze(1)).mT  # [M, 3N]
    norm = displacements.norm(dim=1, keepdim=True)
    frequencies = _FROM_EIGENVALUE * eigenvalues.sign() * eigenvalues.abs().sqrt()
    vibrations = torch.where(is_rigid, 0.0, frequencies)
    return NormalModes(
        frequencies=to_numpy(frequencies),
        imaginary=to_numpy((eigenvalues < -_ROUNDING * weighted.diagonal().abs().max()) & ~is_rigid),
        rigid=to_numpy(is_rigid),
        modes=to_numpy((displacements / norm).view(-1, *pos.shape)),
        reduced_masses=to_numpy(norm.squeeze(1) ** -2),
        zero_point_energy=0.5 * factor("cm-1", "eV") * float(vibrations.clamp(min=0.0).sum()),
        residual_force=float((forces * free.view(-1, 3)).norm(dim=1).max()),
        hessian=to_numpy(curvature),
        numbers=to_numpy(z),
        positions=to_numpy(pos),
        masses=to_numpy(masses),
    )


def _free_coordinates(atoms: Atoms) -> Tensor:
    """Which coordinates may change, shape ``[3N]``."""
    from ase.constraints import FixAtoms, FixCartesian

    left = np.ones((len(atoms), 3))  # of forces of 1
    for constraint in atoms.constraints:
        if type(constraint) in (FixAtoms, FixCartesian):
            constraint.adjust_forces(atoms, left)
        else:
            raise ValueError(
                f"normal modes can hold atoms by FixAtoms and FixCartesian, but the structure has a "
                f"{type(constraint).__name__}; take it out with atoms.set_constraint() to let all atoms move"
            )
    if not left.any():
        raise ValueError("all atoms are fixed by constraints, nothing can vibrate")
    return torch.from_numpy(left.reshape(-1) != 0)


def _of_the_free(motions: Tensor, free: Tensor) -> Tensor:
    """Those combinations of orthonormal motions ``[3N, K]`` that leave what is fixed where it is."""
    if bool(free.all()):
        return motions
    _, size, right = torch.linalg.svd(motions[~free], full_matrices=True)
    rank = int((size > 1e-6).sum())
    return motions @ right[rank:].mT


def _rigid_motions(pos: Tensor, masses: Tensor, cell: Tensor | None = None, pbc: Tensor | None = None) -> Tensor:
    """Motions of the whole that cost no energy, orthonormal in mass-weighted coordinates, shape ``[3N, K]``."""
    axes = torch.eye(3, dtype=pos.dtype, device=pos.device)
    root = masses.sqrt().view(-1, 1, 1)
    translations = (root / masses.sum().sqrt() * axes).transpose(1, 2).reshape(-1, 3)  # [3N, 3]
    if cell is not None and pbc is not None:
        periodic = cell[0][pbc[0]]
        if len(periodic) > 1:
            return translations  # a lattice does not turn with its atoms
        axes = periodic / periodic.norm()  # a wire turns about itself
    arm = pos - (masses.unsqueeze(1) * pos).sum(0) / masses.sum()
    turns = root * torch.linalg.cross(axes.unsqueeze(0), arm.unsqueeze(1))  # [N, axes, 3]
    turns = turns.transpose(1, 2).reshape(pos.numel(), -1)
    left, size, _ = torch.linalg.svd(turns, full_matrices=False)  # size: roots of the moments of inertia
    extent = (masses.unsqueeze(1) * arm.square()).sum().sqrt()
    exists = (size > _LINEAR * extent) & (size > 1e-6)  # not about the axis of a linear molecule, nor of one atom
    return torch.cat([translations, left[:, exists]], dim=1)

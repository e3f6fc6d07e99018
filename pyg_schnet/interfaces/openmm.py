"""Models of this package in OpenMM, by openmm-ml: ``MLPotential("pyg_schnet", model=...)``."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from pyg_schnet.interfaces._extras import missing
from pyg_schnet.interfaces.ase import SchNetCalculator
from pyg_schnet.potential import Source
from pyg_schnet.units import factor

_IS_THERE = all(importlib.util.find_spec(name) is not None for name in ("openmm", "openmmml"))
if TYPE_CHECKING or not _IS_THERE:  # the classes can be read and documented without OpenMM, not be made
    _Potential = object
else:
    from openmmml.mlpotential import MLPotentialImpl as _Potential

__all__ = ["SchNetPotential"]

_STATES = ("charge", "multiplicity", "spin")
_OF_EMBEDDINGS = ("linkAtomDistances",)
"""Arguments of ``createMixedSystem`` that openmm-ml passes on to potentials, and which are not for them."""


class SchNetPotential(_Potential):
    """A model, or a committee of several, as potential of openmm-ml.

    Forces come from a :class:`pyg_schnet.interfaces.SchNetCalculator`; positions are turned from nm to Å, and energies
    from eV to kJ/mol. Elements and order of atoms are those of the topology. Where it has a box, the system is periodic
    in all three directions; OpenMM has no others, so the vacuum of a slab has to be wider than the cutoff. Use the
    platform ``Reference``, ``CPU``, or any other: the model itself runs on its own device.

    Args:
        model: Model, model file, name of a pretrained one, or several of them, whose mean is taken.
        unit: Unit of the models' output, where they do not know it.
        **options: Further options of :class:`~pyg_schnet.interfaces.SchNetCalculator`: ``dtype``, ``device``, ``skin``
            and ``untrained_forces``.

    Raises:
        ImportError: If OpenMM or openmm-ml is not installed.

    Example:
        >>> import pytest; openmmml = pytest.importorskip("openmmml")
        >>> from openmm import app
        >>> from pyg_schnet import SchNet
        >>> topology = app.Topology()
        >>> residue = topology.addResidue("MOL", topology.addChain())
        >>> for name in ("O", "H", "H"):
        ...     _ = topology.addAtom(name, app.Element.getBySymbol(name), residue)
        >>> from pyg_schnet.interfaces import SchNetPotentialFactory
        >>> openmmml.MLPotential.registerImplFactory("pyg_schnet", SchNetPotentialFactory())  # as its entry point does
        >>> potential = openmmml.MLPotential("pyg_schnet", model=SchNet(16, 16, 2, 20, 5.0), unit="eV")
        >>> potential.createSystem(topology).getNumParticles()
        3
    """

    def __init__(self, model: Source | Sequence[Source], unit: str | None = None, **options: Any) -> None:
        if not _IS_THERE:
            raise missing("OpenMM with openmm-ml", "openmm")
        self.calculator = SchNetCalculator(model, unit=unit, **options)

    def addForces(self, topology: Any, system: Any, atoms: Iterable[int] | None, forceGroup: int, **args: Any) -> None:
        """Add the force of the model to a system; called by ``createSystem`` and ``createMixedSystem``.

        Args:
            topology: ``openmm.app.Topology`` of the whole system.
            system: ``openmm.System`` to add the force to.
            atoms: Indices of the atoms that the model sees; ``None`` for all of them.
            forceGroup: Group of the force.
            **args: ``charge``, ``multiplicity`` and ``spin`` of these atoms, which the calculator warns about since
                models know neither; ``info``, more such entries of ``ase.Atoms.info``; ``periodic``, ``False`` for a
                molecule in a box that does not cross its boundary and is smaller than the box by more than the cutoff,
                which is a molecule to the model then.

        Raises:
            TypeError: If there are other arguments.
            ValueError: If an atom has no element, or the system shall be periodic without a box.
        """
        import openmm

        unknown = sorted(set(args) - {*_STATES, *_OF_EMBEDDINGS, "info", "periodic"})
        if unknown:
            raise TypeError(f"no further arguments are known, got {', '.join(unknown)}")
        every = list(topology.atoms())
        indices = None if atoms is None else [int(index) for index in atoms]
        chosen = every if indices is None else [every[index] for index in indices]
        nameless = [atom.index for atom in chosen if atom.element is None]
        if nameless:
            raise ValueError(f"atoms of the model must have elements in the topology; atom {nameless[0]} has none")
        has_box = topology.getPeriodicBoxVectors() is not None
        is_periodic = bool(args.get("periodic", has_box))
        if is_periodic and not has_box:
            raise ValueError("periodic=True needs box vectors in the topology (topology.setPeriodicBoxVectors)")
        structure = Atoms([atom.element.atomic_number for atom in chosen], pbc=is_periodic)
        structure.info.update({key: args[key] for key in _STATES if key in args}, **args.get("info", {}))
        structure.calc = self.calculator
        force = openmm.PythonForce(partial(_evaluate, atoms=structure))
        force.setForceGroup(forceGroup)
        force.setUsesPeriodicBoundaryConditions(is_periodic)
        if indices is not None:
            force.setParticles(indices)
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """``False``: what a model knows ends at its cutoff, so that embeddings add nothing beyond."""
        return False


def _evaluate(state: Any, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Energy in kJ/mol and forces in kJ/mol/nm at the positions of a state, which are in nm."""
    nm = factor("nm", "Å")
    atoms.positions[:] = nm * state.getPositions(asNumpy=True)._value
    if atoms.pbc.any():
        atoms.cell[:] = nm * state.getPeriodicBoxVectors(asNumpy=True)._value
    forces = atoms.get_forces()  # first, since the energy comes with it
    kj_mol = factor("eV", "kJ/mol")
    return kj_mol * atoms.get_potential_energy(), kj_mol * nm * forces

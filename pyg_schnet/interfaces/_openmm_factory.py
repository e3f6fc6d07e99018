"""The entry point for openmm-ml, which imports it while it is imported itself, so that nothing here may need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyg_schnet.interfaces.openmm import SchNetPotential


class SchNetPotentialFactory:
    """What ``MLPotential("pyg_schnet", ...)`` finds by the entry point of this package in ``openmmml.potentials``."""

    def createImpl(self, name: str, **args: Any) -> SchNetPotential:
        """The potential.

        Args:
            name: Name that it was asked by.
            **args: Arguments of :class:`~pyg_schnet.interfaces.SchNetPotential`.

        Raises:
            TypeError: If no model is given.
        """
        from pyg_schnet.interfaces.openmm import SchNetPotential

        if "model" not in args:
            raise TypeError(f'MLPotential("{name}") needs a model: MLPotential("{name}", model="rmd17-aspirin")')
        return SchNetPotential(**args)

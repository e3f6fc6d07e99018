"""The file of :mod:`pyg_schnet.interfaces.ipi` that i-PI reads; under a name that does not hide the package ``ipi``."""

from pyg_schnet.interfaces.ipi import SchNetDriver

__DRIVER_NAME__ = "pyg_schnet"
__DRIVER_CLASS__ = "SchNetDriver"

__all__ = ["SchNetDriver"]

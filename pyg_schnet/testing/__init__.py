r"""Checks of the physics that a model has to respect.

:func:`audit` examines any energy model and gives a table; the functions ``check_...`` raise ``AssertionError`` and say
what differs by how much, for tests. These serve every model that is called as ``model(z, pos, batch)``, or
``model(z, pos, batch, cell=cell, pbc=pbc)`` for crystals, and returns one row for each structure, shape ``[B, C]``;
for vectors such as dipoles, ``vector=True``, shape ``[B, 3]``. Give them positions, cell and weights in float64: their
tolerances are relative to the largest output (but at least 1), and meant for it. Nothing here needs a test framework.

Example:
    >>> import torch
    >>> from pyg_schnet import SchNet
    >>> from pyg_schnet.testing import check_rotation
    >>> z = torch.tensor([8, 1, 1])
    >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], dtype=torch.float64)
    >>> check_rotation(SchNet(hidden_channels=16, num_filters=16, num_interactions=2).double(), z, pos)
"""

from pyg_schnet.testing.auditing import CHECKS, audit
from pyg_schnet.testing.contract import (
    check_batching,
    check_derivatives,
    check_extensivity,
    check_finite_gradients,
    check_permutation,
    check_reflection,
    check_rewrapping,
    check_rotation,
    check_smoothness,
    check_supercell,
    check_translation,
    random_rotation,
)
from pyg_schnet.testing.result import Report, Result

__all__ = [
    "CHECKS",
    "Report",
    "Result",
    "audit",
    "check_batching",
    "check_derivatives",
    "check_extensivity",
    "check_finite_gradients",
    "check_permutation",
    "check_reflection",
    "check_rewrapping",
    "check_rotation",
    "check_smoothness",
    "check_supercell",
    "check_translation",
    "random_rotation",
]

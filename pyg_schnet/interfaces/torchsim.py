"""Models of this package in torch-sim: dynamics and relaxations of many structures at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms
from torch import Tensor, nn

from pyg_schnet.data.charge import warn_of_charge
from pyg_schnet.interfaces._extras import missing
from pyg_schnet.interfaces.committee import Committee
from pyg_schnet.potential import Source

_IS_THERE = importlib.util.find_spec("torch_sim") is not None
if TYPE_CHECKING or not _IS_THERE:  # the class can be read and documented without torch-sim, not be made
    _ModelInterface = nn.Module
else:
    from torch_sim.models.interface import ModelInterface as _ModelInterface

__all__ = ["TorchSimModel"]

_OF_SYSTEMS = ("charge", "total_charge", "spin", "total_spin", "multiplicity")
_SCALINGS = ("n_atoms", "n_atoms_x_density", "n_edges")


class TorchSimModel(_ModelInterface):
    """A model, or a committee of several, as ``ModelInterface`` of `torch-sim <https://torchsim.github.io>`_.

    All structures of a state are evaluated in one batch. Positions and cells are Å, results eV, eV/Å and eV/Å³ with
    ASE's sign of the stress, as torch-sim has them; its cells have lattice vectors in columns, and are turned here.
    States are periodic in all directions or in none with torch-sim 0.3, and in each direction by itself with later
    versions. The stress of a state without periodic directions is zero.

    Args:
        model: Model, model file, name of a pretrained one, or several of them, whose mean is taken; a file may hold a
            committee.
        unit: Unit of the models' output, where they do not know it.
        device: Device of the networks.
        dtype: Precision of networks and results, float64 or float32; states have to be of the same one. Energies are
            summed in float64, and rounded to it at last.
        compute_forces: Whether to compute forces.
        compute_stress: Whether to compute the stress.
        memory_scales_with: What memory grows with, for torch-sim's autobatchers. Splined filters keep features of atoms
            and little of edges, hence ``"n_atoms"``; for ``filters="exact"`` take ``"n_atoms_x_density"``.
        skin: Distance in Å that atoms may move, half of it each, before the neighbour list is built again.
        untrained_forces: Whether to give derivatives of models that were trained on energies alone.

    Attributes:
        committee: The potentials.

    Raises:
        ImportError: If torch-sim is not installed.
        TypeError: If something given is no model.
        ValueError: If a model does not predict energies, an option has another value, or, when called, an element was
            not in the training data.

    Warns:
        UserWarning: Once, where a state says that it has a charge or spin, and as
            :class:`pyg_schnet.interfaces.SchNetCalculator` for structures unlike those of training.

    Example:
        >>> import pytest; torch_sim = pytest.importorskip("torch_sim")
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> model = TorchSimModel(SchNet(16, 16, 2, 20, 5.0), unit="eV")
        >>> state = torch_sim.io.atoms_to_state([molecule("H2O"), molecule("CH4")], model.device, model.dtype)
        >>> {name: list(value.shape) for name, value in model(state).items()}
        {'energy': [2], 'forces': [8, 3], 'stress': [2, 3, 3]}
    """

    def __init__(
        self,
        model: Source | Sequence[Source],
        *,
        unit: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
        compute_forces: bool = True,
        compute_stress: bool = True,
        memory_scales_with: str = "n_atoms",
        skin: float = 0.3,
        untrained_forces: bool = False,
    ) -> None:
        if not _IS_THERE:
            raise missing("torch-sim", "torchsim")
        super().__init__()
        if memory_scales_with not in _SCALINGS:
            raise ValueError(f"memory_scales_with must be one of {', '.join(_SCALINGS)}, got {memory_scales_with!r}")
        self._device, self._dtype = torch.device(device), dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self._memory_scales_with = memory_scales_with
        options: dict[str, Any] = {"skin": skin, "dtype": dtype, "device": device, "untrained_forces": untrained_forces}
        self.committee = Committee(model, unit, **options)
        self._said_charge = False

    @property
    def device(self) -> torch.device:
        """Device of the networks, on which states have to be."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of networks and results."""
        return self._dtype

    @property
    def compute_forces(self) -> bool:
        """Whether forces are computed; it can be set."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, value: bool) -> None:
        self._compute_forces = value

    @property
    def compute_stress(self) -> bool:
        """Whether the stress is computed; it can be set."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        self._compute_stress = value

    def forward(self, state: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Energies, forces and stress of all structures of a state.

        Args:
            state: torch-sim's ``SimState``, or a dictionary of its ``positions``, ``cell``, ``pbc``,
                ``atomic_numbers`` and ``system_idx``.
            **kwargs: None are known.

        Returns:
            ``energy`` in eV ``[B]``, ``forces`` in eV/Å ``[N, 3]`` and ``stress`` in eV/Å³ ``[B, 3, 3]``, of the last
            two those that are computed. Committees add the standard deviations over their models (divided by their
            number), times the factors of a calibration: ``energy_std``, ``forces_std`` and ``stress_std``.

        Raises:
            TypeError: If a keyword is given.
            ValueError: If the state has another precision than the model, or does not fit.
        """
        if kwargs:
            raise TypeError(f"no further arguments are known, got {', '.join(kwargs)}")
        state = _as_state(state)
        if state.positions.dtype != self.dtype:
            raise ValueError(f"the state is of {state.positions.dtype}, the model of {self.dtype}; make both the same")
        self._look_for_charges(state)
        cell = state.row_vector_cell
        found = self.committee(
            state.atomic_numbers,
            state.positions,
            state.system_idx,
            cell.size(0),
            cell=cell,
            pbc=_boundaries(state.pbc, cell),
            forces=self.compute_forces,
            stress=self.compute_stress,
        )
        results, found = {}, self.committee.calibrated(found)
        for name, values in zip(found._fields, found, strict=True):
            if values is not None:
                results[name] = values.mean(0).to(self.dtype)
                if len(self.committee) > 1:
                    results[f"{name}_std"] = values.std(0, correction=0).to(self.dtype)
        return results

    def _look_for_charges(self, state: Any) -> None:
        """Warn once of charges and spins of structures, which later versions of torch-sim keep in states."""
        if self._said_charge:
            return
        given = {name: getattr(state, name, None) for name in _OF_SYSTEMS}
        info = {name: _largest(value) for name, value in given.items() if isinstance(value, Tensor) and value.numel()}
        self._said_charge = bool(info) and warn_of_charge(Atoms(info=info), where="the state")


def _as_state(state: Any) -> Any:
    """A state, from a dictionary where one is given."""
    if not isinstance(state, dict):
        return state
    import torch_sim

    masses = torch.ones_like(state["positions"][:, 0])
    return torch_sim.SimState(**{"masses": masses, **state})


def _boundaries(pbc: Any, cell: Tensor) -> Tensor:
    """Periodic directions of each structure, ``[B, 3]``, from one for all, or one for each direction."""
    return torch.as_tensor(pbc, dtype=torch.bool, device=cell.device).expand(cell.size(0), 3)


def _largest(values: Tensor) -> float:
    """The value of the largest magnitude."""
    return float(values.flatten()[values.abs().argmax()])

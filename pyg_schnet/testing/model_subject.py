"""Modules and functions as subjects of an audit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine.frozen import copy_of
from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.reading import printable
from pyg_schnet.nn import MaxReadout, MeanReadout, SumReadout
from pyg_schnet.testing.pyg import given_graph, is_pyg_schnet, swaps_graph, with_running_graph
from pyg_schnet.testing.result import NotApplicable
from pyg_schnet.testing.structures import Case
from pyg_schnet.testing.subject import Kind, Subject, elements_of, length_of


class ModelSubject(Subject):
    """A module or function that is called as ``model(z, pos, batch)``, with ``cell`` and ``pbc`` where it takes them.

    Modules are copied, one in float64 and one in float32, in evaluation mode; forces and stress are those of
    :func:`pyg_schnet.derivatives.energy_forces_stress`, so a model's own ``energy_and_gradients`` is what is examined.

    Args:
        model: The model.
        unit: Unit of its energies, where it does not say so itself.
        cutoff: Cutoff in Å, where it does not say so itself.
    """

    def __init__(self, model: Callable[..., Tensor], unit: str | None = None, cutoff: float | None = None) -> None:
        super().__init__()
        card = getattr(model, "card", None)
        card = card if isinstance(card, dict) else {}
        self.unit = printable(unit or card.get("unit") or "U")
        self.name = f"{type(model).__name__} of {type(model).__module__.split('.')[0]}"
        own_cutoff = getattr(model, "cutoff", None)
        self.cutoff = cutoff if cutoff is not None else length_of(own_cutoff)
        self._takes = _keywords(model)
        self.takes_cells = {"cell", "pbc"} <= self._takes
        self._device = next((x.device for x in _tensors(model)), torch.device("cpu"))
        self._given = model
        self._copies: dict[Any, Any] = {}
        self.kind, self.elements = _kind_of(model), elements_of(card)
        if self.kind == "other":
            self.takes_cells = False  # dipoles and spatial extents of crystals are not defined
        trained_on = card.get("trained_on")
        if isinstance(trained_on, dict) and trained_on.get("gradients") != "forces":
            self.notes.append("forces were not trained; they are examined as derivatives of the energy alone")
        if is_pyg_schnet(model):
            self._given, notes = with_running_graph(model)
            self.notes += notes

    def model(self, dtype: torch.dtype) -> Callable[..., Tensor]:
        """The copy in a precision; functions as they are.

        Raises:
            NotApplicable: For functions in another precision than float64.
        """
        if not isinstance(self._given, nn.Module):
            if dtype != torch.float64:
                raise NotApplicable("a function has no weights that could be float32")
            return self._given
        if dtype not in self._copies:
            self._copies[dtype] = copy_of(self._given).to(dtype).eval()
        return self._copies[dtype]

    def energies(self, cases: Sequence[Case], dtype: torch.dtype | None = None) -> Tensor:
        """Energies ``[B]`` of structures in one call, detached."""
        with torch.no_grad():
            return self._energies(cases, self._inputs(cases, dtype or self.dtype)).double().cpu()

    def forces(self, case: Case, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Energy and forces ``[N, 3]`` of a structure."""
        found = self._derivatives(case, dtype or self.dtype, stress=False)
        n = len(case.z) if self.kind == "mean" else 1
        return n * found.energy[0].double().cpu(), n * found.forces.double().cpu()

    def stress(self, case: Case) -> Tensor:
        """Stress ``[3, 3]`` of a structure that is periodic in three directions."""
        n = len(case.z) if self.kind == "mean" else 1
        return n * self._derivatives(case, self.dtype, stress=True).stress[0].double().cpu()

    def with_edges(self, case: Case, cutoff: float) -> Tensor:
        """Energy with all pairs closer than ``cutoff`` as edges, by ``edge_index`` or ``interaction_graph``."""
        edge_index, edge_shift = (x.to(self._device) for x in case.neighbors(cutoff))
        inputs = self._inputs([case], self.dtype)
        with torch.no_grad():
            if swaps_graph(self._given):
                if case.cell is not None:
                    raise NotApplicable("its interaction_graph takes no cell")
                with given_graph(self.model(self.dtype), edge_index):
                    return self._energies([case], inputs).double().cpu()[0]
            if "edge_index" not in self._takes:
                raise NotApplicable("it takes neither edge_index nor an interaction_graph")
            if case.cell is not None and "edge_shift" not in self._takes:
                raise NotApplicable("it takes no edge_shift")
            inputs["edge_index"] = edge_index
            if case.cell is not None:
                inputs["edge_shift"] = edge_shift
            return self._energies([case], inputs).double().cpu()[0]

    def gradients_across(self, cases: Sequence[Case]) -> list[float]:
        """For each structure of a batch, the largest gradient of its energy at atoms of the others."""
        inputs = self._inputs(cases, self.dtype)
        inputs["pos"].requires_grad_()
        energies = self._energies(cases, inputs)
        if not energies.requires_grad:
            raise NotApplicable("its energies cannot be differentiated")
        found = []
        for k, energy in enumerate(energies):
            (grad,) = torch.autograd.grad(energy, inputs["pos"], retain_graph=True, allow_unused=True)
            outside = None if grad is None else grad[inputs["batch"] != k]
            found.append(0.0 if outside is None or not outside.numel() else _largest(outside))
        return found

    def curvature(self, case: Case) -> Tensor:
        """Gradient of the squared forces, as training on forces needs it, ``[N, 3]``."""
        inputs = self._inputs([case], self.dtype)
        pos = inputs["pos"].requires_grad_()
        energy = self._energies([case], inputs)
        if not energy.requires_grad:
            raise NotApplicable("its energies cannot be differentiated")
        (first,) = torch.autograd.grad(energy.sum(), pos, create_graph=True, materialize_grads=True)
        if not first.requires_grad:
            return torch.zeros_like(pos)
        return torch.autograd.grad(first.square().sum() + first.sum(), pos, materialize_grads=True)[0].cpu()

    def _inputs(self, cases: Sequence[Case], dtype: torch.dtype) -> dict[str, Any]:
        counts = torch.tensor([len(case.z) for case in cases])
        inputs = {
            "z": torch.cat([case.z for case in cases]).to(self._device),
            "pos": torch.cat([case.pos for case in cases]).to(self._device, dtype),
            "batch": torch.arange(len(cases)).repeat_interleave(counts).to(self._device),
        }
        if any(case.cell is not None for case in cases):
            if not self.takes_cells:
                raise NotApplicable("it takes no cell and pbc")
            cells = [torch.zeros(3, 3, dtype=torch.float64) if case.cell is None else case.cell for case in cases]
            open_axes = torch.zeros(3, dtype=torch.bool)
            inputs["cell"] = torch.stack(cells).to(self._device, dtype)
            inputs["pbc"] = torch.stack([open_axes if case.pbc is None else case.pbc for case in cases]).to(
                self._device
            )
        return inputs

    def _energies(self, cases: Sequence[Case], inputs: dict[str, Any]) -> Tensor:
        given = dict(inputs)
        atoms = given.pop("z"), given.pop("pos"), given.pop("batch")
        values = self.model(atoms[1].dtype)(*atoms, **given)
        if not isinstance(values, Tensor) or values.numel() != len(cases):
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"the model must return one number for each structure, [B] or [B, 1]; got {got}")
        values = values.reshape(len(cases))
        if self.kind != "mean":
            return values
        return values * values.new_tensor([len(case.z) for case in cases])

    def _derivatives(self, case: Case, dtype: torch.dtype, stress: bool) -> Any:
        inputs = self._inputs([case], dtype)
        atoms = inputs.pop("z"), inputs.pop("pos"), inputs.pop("batch")
        return energy_forces_stress(self.model(dtype), *atoms, **inputs, stress=stress)


def _kind_of(model: Any) -> Kind:
    """How the output of a model grows with the structure, by its readout."""
    readout = getattr(model, "readout", None)
    if is_pyg_schnet(model):
        kind = type(readout).__name__
        kinds: dict[str, Kind] = {"SumAggregation": "sum", "MeanAggregation": "mean"}
        return "other" if model.dipole else kinds.get(kind, "other")
    if not isinstance(model, AtomisticModel) or isinstance(readout, SumReadout):
        return "sum"
    return "mean" if isinstance(readout, MeanReadout) else ("intensive" if isinstance(readout, MaxReadout) else "other")


def _keywords(model: Any) -> set[str]:
    """Names of the arguments of a call."""
    call = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return set()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return {"cell", "pbc", "edge_index", "edge_shift", *(parameter.name for parameter in parameters)}
    return {parameter.name for parameter in parameters}


def _tensors(model: Any) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []


def _largest(values: Tensor) -> float:
    """Largest magnitude; NaN where any is."""
    return float(values.detach().abs().max())

"""One face for what is audited: modules and functions, PyTorch Geometric's SchNet, and calculators of ASE."""

from __future__ import annotations

import contextlib
import inspect
import numbers
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.testing.result import NotApplicable
from pyg_schnet.testing.structures import Case, displaced

Kind = Literal["sum", "mean", "intensive", "other"]
"""How outputs grow with the structure: with its atoms, as means that are multiplied by them, not at all, or neither."""

REACH = 5.0
"""Length in Å over which forces count in the scale of energies, where the cutoff is not known."""


class Subject:
    """What is audited, with energies and derivatives in float64, whatever it computes in.

    Attributes:
        name: What the report calls it.
        unit: Unit of its energies, ``"U"`` where it is not known.
        kind: See :data:`Kind`; means are multiplied by the number of atoms.
        cutoff: Cutoff in Å; ``None`` where it is not known.
        elements: Atomic numbers that it knows; ``None`` for all.
        dtype: Precision of the examined calculation.
        notes: What else the report has to say.
        takes_cells: Whether it takes periodic structures.
    """

    name: str
    unit: str = "U"
    kind: Kind = "sum"
    cutoff: float | None = None
    elements: Sequence[int] | None = None
    dtype: torch.dtype = torch.float64
    takes_cells: bool = True

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._known: dict[int, tuple[Case, Tensor, Tensor]] = {}
        self._calm: dict[int, float] = {}  # scale for each atom of displaced structures

    def energies(self, cases: Sequence[Case], dtype: torch.dtype | None = None) -> Tensor:
        """Energies ``[B]`` of structures in one call, detached."""
        raise NotImplementedError

    def forces(self, case: Case, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Energy and forces ``[N, 3]`` of a structure, as its users get them."""
        raise NotImplementedError

    def stress(self, case: Case) -> Tensor:
        """Stress ``[3, 3]`` of a structure that is periodic in three directions."""
        raise NotImplementedError

    def with_edges(self, case: Case, cutoff: float) -> Tensor:
        """Energy with all pairs closer than ``cutoff`` as edges."""
        raise NotApplicable("it takes no edges")

    def gradients_across(self, cases: Sequence[Case]) -> list[float]:
        """For each structure of a batch, the largest gradient of its energy at atoms of the others."""
        raise NotApplicable("it takes one structure at a time")

    def curvature(self, case: Case) -> Tensor:
        """Gradient of a sum over forces, as training on forces needs it, ``[N, 3]``."""
        raise NotApplicable("it has no second derivatives")

    @property
    def eps(self) -> float:
        """Relative rounding of the precision."""
        return torch.finfo(self.dtype).eps

    def known(self, case: Case) -> tuple[Tensor, Tensor]:
        """Energy and forces of a structure, computed once."""
        if id(case) not in self._known:
            self._known[id(case)] = (case, *self.forces(case))  # the case is kept, so that its id stays taken
        return self._known[id(case)][1:]

    def scale(self, case: Case) -> float:
        r"""How strongly an energy answers to relative changes of the numbers that it is made of, in its unit.

        .. math:: S = |E| + \sum_i |\mathbf{F}_i|\, r_\mathrm{cut}

        and at least as much for each atom as in the calmest structure known, with atoms displaced by 0.1 Å: energies
        that are small by chance and forces that vanish by symmetry are not more exact than others. Rounding of relative
        size ε moves the energy by a multiple of ε S.
        """
        own = self._scale(*self.known(case))
        if id(case) not in self._calm:
            other = displaced(case, self.cutoff or REACH)
            self._calm[id(case)] = self._scale(*self.forces(other)) / len(other.z)
        calm = min((value for value in self._calm.values() if 0.0 < value < float("inf")), default=0.0)
        return max(own, len(case.z) * calm)

    def _scale(self, energy: Tensor, forces: Tensor) -> float:
        return float(energy.abs() + forces.norm(dim=1).sum() * (self.cutoff or REACH))


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
        self.unit = unit or card.get("unit") or "U"
        self.name = f"{type(model).__name__} of {type(model).__module__.split('.')[0]}"
        own_cutoff = getattr(model, "cutoff", None)
        self.cutoff = cutoff if cutoff is not None else _number(own_cutoff)
        self._takes = _keywords(model)
        self.takes_cells = {"cell", "pbc"} <= self._takes
        self._device = next((x.device for x in _tensors(model)), torch.device("cpu"))
        self._given, self._copies = model, {}
        self.kind, self.elements = _kind_of(model), _elements_of(card)
        if self.kind == "other":
            self.takes_cells = False  # dipoles and spatial extents of crystals are not defined
        if "trained_on" in card and card["trained_on"].get("gradients") != "forces":
            self.notes.append("forces were not trained; they are examined as derivatives of the energy alone")
        if _is_pyg_schnet(model):
            self._prepare_pyg()

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
            from pyg_schnet.engine.freeze import copy_of

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
            if self._swaps_graph:
                if case.cell is not None:
                    raise NotApplicable("its interaction_graph takes no cell")
                with _given_graph(self.model(self.dtype), edge_index):
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

    @property
    def _swaps_graph(self) -> bool:
        from pyg_schnet.models.convert.like_pyg import CompleteGraph

        graph = getattr(self._given, "interaction_graph", None)
        return _is_pyg_schnet(self._given) and not isinstance(graph, CompleteGraph)

    def _prepare_pyg(self) -> None:
        """Emulate PyTorch Geometric's radius graph where the library that it needs is missing, and say so."""
        from torch_geometric.nn.models.schnet import RadiusInteractionGraph

        graph = self._given.interaction_graph
        if type(graph) is not RadiusInteractionGraph:
            return
        try:
            graph(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
        except ImportError:
            from pyg_schnet.engine.freeze import copy_of

            self._given = copy_of(self._given)
            self._given.interaction_graph = QuotaGraph(graph.cutoff, graph.max_num_neighbors)
            self.notes.append(
                f"radius_graph cannot run here; its quota, max_num_neighbors={graph.max_num_neighbors}, is emulated by "
                "a graph that keeps as many neighbours of each atom, the first in the order of atoms"
            )


class CalculatorSubject(Subject):
    """A calculator of ASE, in eV and Å; one object for all structures, as in a simulation.

    Args:
        calculator: The calculator; its results are those that are examined.
        cutoff: Cutoff in Å, where it does not say so itself.
    """

    unit = "eV"

    def __init__(self, calculator: Any, unit: str | None = None, cutoff: float | None = None) -> None:
        super().__init__()
        if unit not in (None, "eV"):
            raise ValueError(f"calculators of ASE give eV, got unit={unit!r}; leave it out")
        self.calculator = calculator
        self.name = f"{type(calculator).__name__} (ASE)"
        members = [member.model for member in getattr(calculator, "members", ())]
        cutoffs = [_number(getattr(model, "cutoff", None)) for model in (calculator, *members)]
        self.cutoff = cutoff or max((value for value in cutoffs if value is not None), default=None)
        dtype = getattr(calculator, "dtype", None)
        self.dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float64
        known = [_elements_of(getattr(model, "card", {})) for model in members]
        known = [set(elements) for elements in known if elements is not None]
        self.elements = sorted(set.intersection(*known)) if known else None

    def energies(self, cases: Sequence[Case], dtype: torch.dtype | None = None) -> Tensor:
        """Energies ``[B]``, one structure after the other."""
        self._only_own(dtype)
        return torch.tensor([self._ask(case, "get_potential_energy")[0] for case in cases], dtype=torch.float64)

    def forces(self, case: Case, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Energy and forces ``[N, 3]`` of a structure."""
        self._only_own(dtype)
        forces, energy = self._ask(case, "get_forces", "get_potential_energy")
        return torch.tensor(energy, dtype=torch.float64), torch.as_tensor(forces, dtype=torch.float64)

    def stress(self, case: Case) -> Tensor:
        """Stress ``[3, 3]`` of a structure that is periodic in three directions."""
        return torch.as_tensor(self._ask(case, "get_stress", voigt=False)[0], dtype=torch.float64)

    def _ask(self, case: Case, *what: str, **options: Any) -> list[Any]:
        """Results of the methods of ``ase.Atoms`` with these names."""
        atoms = case.to_atoms()
        atoms.calc = self.calculator
        try:
            return [getattr(atoms, name)(**options) for name in what]
        except NotImplementedError as error:
            reason = str(error) or f"it has no {what[0].removeprefix('get_')}"
            raise NotApplicable(f"{type(self.calculator).__name__}: {reason}") from error

    def _only_own(self, dtype: torch.dtype | None) -> None:
        if dtype not in (None, self.dtype):
            raise NotApplicable("the precision of a calculator is its own")


class QuotaGraph(nn.Module):
    """Radius graph that keeps a number of neighbours of each atom, the first in the order of atoms.

    Args:
        cutoff: Cutoff in Å.
        max_num_neighbors: Neighbours that are kept.
    """

    def __init__(self, cutoff: float, max_num_neighbors: int) -> None:
        super().__init__()
        self.cutoff, self.max_num_neighbors = cutoff, max_num_neighbors

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Edges ``(j, i)`` and distances in Å, as PyTorch Geometric's ``interaction_graph`` gives them."""
        close = torch.cdist(pos.detach(), pos.detach(), compute_mode="donot_use_mm_for_euclid_dist") < self.cutoff
        close &= batch.unsqueeze(1) == batch
        close.fill_diagonal_(False)
        close &= close.cumsum(1) <= self.max_num_neighbors  # [i, j]
        i, j = close.nonzero().T
        return torch.stack([j, i]), (pos[j] - pos[i]).norm(dim=-1)

    def extra_repr(self) -> str:
        """Options shown by ``print``."""
        return f"cutoff={self.cutoff}, max_num_neighbors={self.max_num_neighbors}, emulates torch_geometric"


def subject_of(model: Any, unit: str | None = None, cutoff: float | None = None) -> Subject:
    """What an audit examines.

    Args:
        model: A model of this package, its file or the name of a pretrained one, another module or function with the
            call ``(z, pos, batch)``, or a calculator of ASE.
        unit: Unit of energies, where the model does not know it.
        cutoff: Cutoff in Å, where the model does not know it.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the unit or the cutoff is none.
    """
    from pyg_schnet.potential import source_of

    if cutoff is not None and not 0 < cutoff < float("inf"):
        raise ValueError(f"cutoff must be a positive length in Å, got {cutoff!r}")
    if isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        subject = ModelSubject(source_of(name), unit, cutoff)
        subject.name = f"{name}: {subject.name}"
        return subject
    if isinstance(model, type):
        raise TypeError(f"expected a model, got the class {model.__name__}; make an object of it")
    if hasattr(model, "get_potential_energy") and hasattr(model, "calculate"):
        return CalculatorSubject(model, unit, cutoff)
    if not callable(model):
        raise TypeError(
            "expected a model with the call (z, pos, batch), a model file, the name of a pretrained model or a "
            f"calculator of ASE; got {type(model).__name__}"
        )
    return ModelSubject(source_of(model), unit, cutoff)


class _Given(nn.Module):
    """An ``interaction_graph`` of given edges."""

    def __init__(self, edge_index: Tensor) -> None:
        super().__init__()
        self.edge_index = edge_index

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        j, i = self.edge_index
        return self.edge_index, (pos[j] - pos[i]).norm(dim=-1)


@contextlib.contextmanager
def _given_graph(model: nn.Module, edge_index: Tensor) -> Iterator[None]:
    """Let a SchNet of PyTorch Geometric use given edges."""
    before = model.interaction_graph
    del model.interaction_graph  # it may be a module or a function
    model.interaction_graph = _Given(edge_index)
    try:
        yield
    finally:
        del model.interaction_graph
        model.interaction_graph = before


def _is_pyg_schnet(model: Any) -> bool:
    from torch_geometric.nn.models import SchNet

    return isinstance(model, SchNet)


def _kind_of(model: Any) -> Kind:
    """How the output of a model grows with the structure, by its readout."""
    from pyg_schnet.models import AtomisticModel
    from pyg_schnet.nn import MaxReadout, MeanReadout, SumReadout

    readout = getattr(model, "readout", None)
    if _is_pyg_schnet(model):
        kind = type(readout).__name__
        return "other" if model.dipole else {"SumAggregation": "sum", "MeanAggregation": "mean"}.get(kind, "other")
    if not isinstance(model, AtomisticModel) or isinstance(readout, SumReadout):
        return "sum"
    return "mean" if isinstance(readout, MeanReadout) else ("intensive" if isinstance(readout, MaxReadout) else "other")


def _elements_of(card: Any) -> list[int] | None:
    """Atomic numbers that a model was trained on, by its card."""
    from ase.data import atomic_numbers

    symbols = card.get("elements") if isinstance(card, dict) else None
    return [atomic_numbers[symbol] for symbol in symbols] if symbols else None


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


def _number(value: Any) -> float | None:
    """A cutoff that is a positive number; anything else is not known."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    is_length = isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < value < float("inf")
    return float(value) if is_length else None


def _largest(values: Tensor) -> float:
    """Largest magnitude; NaN where any is."""
    return float(values.detach().abs().max())

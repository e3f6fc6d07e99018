"""Cached data of a model for the programs, valid until a part or a weight changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyg_schnet.engine.eligibility import (
    MODEL_ROWS,
    PROGRAMS,
    Parts,
    Program,
    Request,
    readout_tensors,
    tensors_of,
    weights_of,
)
from pyg_schnet.engine.large import run_large
from pyg_schnet.engine.plan import Plan, choose
from pyg_schnet.engine.tables import FilterTables
from pyg_schnet.nn.conv import CFConv, neighbor_counts
from pyg_schnet.nn.versioned_cache import VersionedCache
from pyg_schnet.ops import check_sources, spline_basis, spline_graph
from pyg_schnet.ops.dispatch import Backend, is_at_hand, is_followed, kernels_for, refusal_of
from pyg_schnet.ops.graph import SplineGraph, spanned
from pyg_schnet.ops.interactions import directed_interactions, interactions, pack_interactions
from pyg_schnet.ops.large_potential import recomputes
from pyg_schnet.ops.modules import is_any_hooked, is_of_calls, is_patched
from pyg_schnet.ops.potential import EnergyGradients, PotentialWeights, is_small, potential

_POTENTIAL, _LARGE, _INTERACTIONS, _ = PROGRAMS


class ModuleSnapshot:
    """Snapshot of parts, weights, options and hooks of modules; values of weights are not compared.

    It is checked in every evaluation, so it touches as few objects as possible.

    Args:
        wholes: Modules with all their parts.
        alone: Modules that are compared without their parts.
    """

    def __init__(self, wholes: Iterable[nn.Module], alone: Iterable[nn.Module] = ()) -> None:
        parts = list(dict.fromkeys(chain(alone, (part for whole in wholes for part in whole.modules()))))
        self._parts, self._classes = parts, list(map(type, parts))
        self._own = list(map(vars, parts))
        self._sizes = list(map(len, self._own))  # a method that is set on an object is one more
        self._options = [itemgetter("training", *_options(own)) for own in self._own]
        self._chosen = self._now()
        self._children = [part._modules for part in parts if part._modules]
        self._copies = list(map(dict, self._children))
        tensors: list[dict[str, Any]] = [
            table for part in parts for table in (part._parameters, part._buffers) if table
        ]
        self._values = list(map(dict.values, tensors))
        self._held = list(chain.from_iterable(self._values))  # so that no other tensor gets one of their places
        self._places = list(map(id, self._held))
        self._hooks = [own[name] for own in self._own for name in own if is_of_calls(name)]
        self._hooked = [hooks for hooks in self._hooks if hooks]
        self._around = is_any_hooked(), is_patched()

    def _now(self) -> list[tuple]:
        """Options of all parts."""
        return [get(own) for get, own in zip(self._options, self._own, strict=True)]

    def is_unchanged(self) -> bool:
        """Whether nothing was replaced, and hooks are the same."""
        try:
            same = list(map(len, self._own)) == self._sizes and self._now() == self._chosen
        except (KeyError, RuntimeError, TypeError, ValueError):  # gone, or values that are compared one by one
            return False
        return (
            same
            and self._children == self._copies
            and list(map(type, self._parts)) == self._classes
            and list(map(id, chain.from_iterable(self._values))) == self._places
            and (not any(self._hooks) if not self._hooked else list(filter(None, self._hooks)) == self._hooked)
            and (is_any_hooked(), is_patched()) == self._around
        )


_OF_ALL_MODULES = frozenset(vars(nn.Module())) | {"inspector"}


def _options(own: dict[str, Any]) -> list[str]:
    """Attributes of a module, except for parts, weights and hooks, which are compared separately."""
    return [name for name in own if name not in _OF_ALL_MODULES and not is_of_calls(name)]


class Facts(NamedTuple):
    """Facts about a model, valid until a part changes.

    Attributes:
        parts: The parts.
        snapshot: Snapshot of the parts.
        found: Sets of programs that are barred, each with a reason.
        filters: Whether filters come from tables.
        blocks: Parts that the programs compute with; ``None`` where both are barred.
        kept: Cached packed weights for evaluation.
        plans: Plans by request; see :meth:`plan`.
    """

    parts: Parts
    snapshot: ModuleSnapshot
    found: tuple[tuple[frozenset[str], str], ...]
    filters: Literal["spline", "exact", "mixed"]
    blocks: Blocks | None
    kept: VersionedCache
    plans: dict[Request, Plan]

    @classmethod
    def of(cls, model: Any) -> Facts:
        """Evaluate the rows of the table for a model."""
        parts = Parts.of(model)
        found = []
        for row in MODEL_ROWS:
            found += [(row.bars, reason) for reason in row.find(parts)]
            if found and _INTERACTIONS in found[-1][0]:
                break
        barred = frozenset().union(*(bars for bars, _ in found))
        blocks = None if _INTERACTIONS in barred else Blocks(parts, _POTENTIAL not in barred)
        filters = _filters_of(parts)
        grids = () if blocks is None else blocks.tables.splines
        snapshot = ModuleSnapshot([parts.embedding, *parts.different_blocks(), parts.readout], [model, *grids])
        return cls(parts, snapshot, tuple(found), filters, blocks, VersionedCache(), {})

    def is_true_of(self, model: Any) -> bool:
        """Whether the model is unchanged."""
        return self.parts[0] is model and self.parts == Parts.of(model) and self.snapshot.is_unchanged()

    def request(
        self,
        z: Tensor,
        real: Tensor,
        backend: Backend = "auto",
        *,
        gradients: bool = False,
        num_edges: int = 0,
        largest: Callable[[], int | None] = lambda: None,
        half_list: bool | None = None,
        **asked: bool,
    ) -> Request:
        """The request of a call.

        Args:
            z: Atomic numbers, shape ``[N]``.
            real: Positions or distances.
            backend: How operators are computed.
            gradients: Whether forces or stress are requested.
            num_edges: Upper bound of the number of edges of a half list.
            largest: Gives that of the largest structure, or ``None`` where all are one; called if it matters.
            half_list: Whether all edges have both directions; ``None`` if not known.
            **asked: Other fields of the request.
        """
        blocks, in_memory = self.blocks, is_at_hand(z) and is_at_hand(real)
        on_device = backend == "triton" or (not in_memory and backend == "auto")
        on_device = on_device and kernels_for(backend, z, real) is not None
        empty, same_precision, known_elements, large = z.numel() == 0, True, True, False
        if blocks is not None:
            same_precision = real.dtype == blocks.embedding.dtype
            if gradients:
                n_filters = blocks.weights[0].size(0)
                large = not is_small(num_edges, n_filters)
                if large and in_memory:  # small structures go in groups
                    most = largest()
                    large = most is None or not is_small(most, n_filters)
            elif half_list is not None and in_memory and not empty:
                low, high = torch.aminmax(z)
                known_elements = int(low) >= 0 and int(high) < blocks.embedding.size(0)
        return Request(
            backend,
            is_followed(),
            torch.is_autocast_enabled("cpu"),
            in_memory,
            on_device,
            "" if in_memory or on_device else refusal_of(real.device) or "",
            empty,
            same_precision,
            known_elements,
            gradients,
            half_list=half_list,
            large=large,
            many_atoms=large and recomputes(z.numel()),
            **asked,
        )

    def plan(self, request: Request) -> Plan:
        """The plan of a call, cached by request."""
        found = self.plans.get(request)
        if found is None:
            found = self.plans[request] = choose(self, request)
        return found


def _filters_of(parts: Parts) -> Literal["spline", "exact", "mixed"]:
    convs = [getattr(block, "conv", None) for block in parts.blocks]
    splined = {isinstance(conv, CFConv) and conv.is_splined() for conv in convs}
    return "mixed" if len(splined) > 1 else "spline" if splined == {True} else "exact"


class Blocks:
    """Embedding, blocks and readout of a model as the programs compute with them.

    Args:
        parts: Parts that no row of the table bars.
        with_readout: Whether the readout belongs to it.
    """

    def __init__(self, parts: Parts, with_readout: bool) -> None:
        convs = [block.conv for block in parts.blocks]
        self.embedding = parts.embedding.weight
        self.weights = [weight for block in parts.blocks for weight in weights_of(block)]
        self.tables = FilterTables(convs)
        self.readout: Sequence[Tensor] = readout_tensors(parts.readout) if with_readout else ()
        self.mean = with_readout and parts.readout.reduce == "mean"
        first, table = convs[0], convs[0].table
        self.normalize, self.cutoff, self.training = first.normalize, float(first.cutoff), first.filter_network.training
        self.num_intervals = first.spline.num_grid_points - 1 if table is None else table.size(0) - 3
        numbers = (tensors_of(block).values() for block in parts.different_blocks())
        self.tensors = [self.embedding, *chain.from_iterable(numbers), *self.readout]
        self.tensors += [conv.table for conv in convs if conv.table is not None]

    @torch.no_grad()
    def pack(self) -> PotentialWeights:
        """Weights and tables for evaluation, packed for the kernels."""
        table = self.tables.evaluate()
        numbers = PotentialWeights(
            self.cutoff, self.normalize, self.mean, self.embedding, table, self.weights, self.readout
        )
        packed = pack_interactions(table, self.weights, self.embedding)
        return numbers.pack(packed) if self.readout else numbers._replace(packed=(packed, None, None))

    def represent(self, z: Tensor, edges: Any, numbers: PotentialWeights | None, backend: Backend = "auto") -> Tensor:
        """Features after all blocks.

        Args:
            z: Atomic numbers, shape ``[N]``.
            edges: Edges with ``half_list``, which may be ``None``, and ``directed``.
            numbers: Result of :meth:`pack`; ``None`` in training.
            backend: How it is computed.
        """
        directed = edges.half_list is None
        edges = edges.directed if directed else edges.half_list
        index, dist, ptr = edges.index, edges.dist, edges.ptr
        interval, basis = spline_basis(dist, self.cutoff, self.num_intervals, backend=backend)
        if numbers is None:
            interval, first, count = spanned(interval, self.num_intervals)
            table, packed = self.tables.compute(first, count), None
        else:
            assert numbers.packed is not None
            table, packed = numbers.table, numbers.packed[0]
            table = self.tables.with_gradient(table) if torch.is_grad_enabled() else table
        n_neighbors = self._count(index, dist.detach(), z.size(0), directed) if self.normalize else None
        if directed:
            graph = self._directed_graph(interval, index, ptr, z.size(0), table)
            arguments = z, self.embedding, table, basis, graph, self.weights, n_neighbors
            return directed_interactions(*arguments, backend=backend)
        half_list = SplineGraph(interval, index[0], index[1], ptr)
        return interactions(
            z,
            self.embedding,
            table,
            basis,
            half_list,
            self.weights,
            n_neighbors,
            packed=packed,
            keep_for_weights=numbers is None,
        )

    def _count(self, index: Tensor, dist: Tensor, n_atoms: int, directed: bool) -> Tensor:
        """Number of neighbours of each atom."""
        if not directed:
            index, dist = torch.cat([index, index.flip(0)], 1), torch.cat([dist, dist])
        return neighbor_counts(index, dist, self.cutoff, n_atoms)

    @staticmethod
    def _directed_graph(
        interval: Tensor, index: Tensor, ptr: Tensor | None, n_atoms: int, table: Tensor
    ) -> SplineGraph:
        """Directed edges in the orders that derivatives need, made once for all blocks."""
        graph = spline_graph(interval, index, n_atoms, ptr)
        if not torch.is_grad_enabled():
            check_sources(index[0], n_atoms)
            return graph
        graph = graph.with_sources(n_atoms)
        return graph.with_intervals(table.size(1) - 3) if table.requires_grad else graph


class ModelCache:
    """Runs the programs for one model, with cached facts and weights. Copies start empty.

    Args:
        detect_changes: Whether parts and weights are checked for changes in every call; frozen models do not need it.
    """

    def __init__(self, detect_changes: bool = True) -> None:
        self.detect_changes = detect_changes
        self._facts: Facts | None = None
        self._packed: PotentialWeights | None = None

    def __reduce__(self) -> tuple[type[ModelCache], tuple[bool]]:
        return ModelCache, (self.detect_changes,)

    def forget(self) -> None:
        """Discard cached facts and weights."""
        self._facts = self._packed = None

    def facts(self, model: Any) -> Facts:
        """Facts about the model, evaluated again if a part has changed."""
        known = self._facts
        if known is None or (self.detect_changes and not known.is_true_of(model)):
            known = self._facts = Facts.of(model)
        return known

    def packed(self, facts: Facts) -> PotentialWeights:
        """Packed weights for evaluation, packed again if a weight has changed."""
        blocks = facts.blocks
        assert blocks is not None
        if self.detect_changes:
            kept = facts.kept.get(blocks.tensors, None, blocks.pack)
            return blocks.pack() if kept is None else kept
        if self._packed is None:
            self._packed = blocks.pack()
        return self._packed

    def represent(self, model: Any, z: Tensor, edges: Any, backend: Backend = "auto") -> Tensor | None:
        """Features after all blocks by the program ``"interactions"``; ``None`` if layers are to be called.

        Args:
            model: The model.
            z: Atomic numbers, shape ``[N]``.
            edges: Edges with ``half_list``, which may be ``None``.
            backend: How it is computed.
        """
        if is_followed():
            return None
        half_list, facts = edges.half_list, self.facts(model)
        dist = (edges.directed if half_list is None else half_list).dist
        plan = facts.plan(facts.request(z, dist, backend, half_list=half_list is not None))
        blocks = facts.blocks
        if plan.program != _INTERACTIONS or blocks is None:
            return None
        numbers = None if blocks.training else self.packed(facts)
        return blocks.represent(z, edges, numbers, backend)

    def prepare_potential(
        self, model: Any, z: Tensor, pos: Tensor, **asked: Any
    ) -> tuple[Program, PotentialWeights] | None:
        """``"potential"`` or ``"large"``, and its weights; ``None`` if the call is to be computed otherwise.

        Args:
            model: The model.
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``.
            **asked: What else is asked, see :meth:`Facts.request`.
        """
        if is_followed():
            return None
        facts = self.facts(model)
        program = facts.plan(facts.request(z, pos, gradients=True, **asked)).program
        return (program, self.packed(facts)) if program in (_POTENTIAL, _LARGE) else None


def run_potential(
    program: Program, weights: PotentialWeights, pos: Tensor, z: Tensor, batch: Tensor, batch_size: int, *graph: Any,
    strain: bool, backend: Backend,
) -> EnergyGradients | None:  # fmt: skip
    """The program ``"potential"`` or ``"large"``."""
    compute: Any = potential if program == _POTENTIAL else run_large
    return compute(pos, z, batch, batch_size, *graph, weights, strain=strain, backend=backend)

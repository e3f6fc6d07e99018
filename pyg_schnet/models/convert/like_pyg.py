"""PyTorch Geometric's ``SchNet`` under its own name and call, with complete graphs and faster interactions.

.. code-block:: python

    from torch_geometric.nn import SchNet  # before
    from pyg_schnet.models.convert.like_pyg import SchNet  # after; nothing else has to change
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch_geometric.nn.models import SchNet as PyGSchNet
from torch_geometric.nn.models.schnet import CFConv, RadiusInteractionGraph

from pyg_schnet.engine.cache import Facts
from pyg_schnet.engine.plan import Plan, choose
from pyg_schnet.models.base import NO_SCRIPT
from pyg_schnet.models.convert.pyg import from_pyg
from pyg_schnet.models.convert.pyg_twin import Twin
from pyg_schnet.models.graph import Edges, check_atoms, count_structures, prepare_edges
from pyg_schnet.models.parts import check_sizes
from pyg_schnet.models.schnet import SchNet as OurSchNet
from pyg_schnet.neighbors import InteractionGraph
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.nn.conv import exclude_self_loops
from pyg_schnet.nn.readout import as_references
from pyg_schnet.ops.checks import check_batch_size, check_parameters, positive_length, real_number
from pyg_schnet.ops.dispatch import is_at_hand, is_cast
from pyg_schnet.ops.sort_edges import check_keys

PYG_MAX_NUM_NEIGHBORS = 32
"""Neighbours of an atom that PyTorch Geometric's SchNet keeps, unless told otherwise."""


class CompleteGraph(InteractionGraph):
    """Complete radius graph instead of one that keeps ``max_num_neighbors`` of an atom's neighbours.

    Args:
        cutoff: Cutoff in Å.
        max_num_neighbors: Neighbours that PyTorch Geometric would have kept; where an atom has more of them, a warning
            says once that all count.
    """

    def __init__(self, cutoff: float, max_num_neighbors: int = PYG_MAX_NUM_NEIGHBORS) -> None:
        super().__init__(cutoff)
        self.max_num_neighbors = max_num_neighbors
        self.is_said = False

    def say_if_crowded(self, edges: Edges, n_atoms: int) -> None:
        """Warn, the first time that an atom has more than ``max_num_neighbors`` neighbours."""
        if self.is_said or self.max_num_neighbors is None:
            return
        most = _most_neighbors(edges, n_atoms)
        if most > self.max_num_neighbors:
            self.is_said = True
            warnings.warn(
                f"an atom has {most} neighbours within {self.cutoff} Å and all of them count; the SchNet of PyTorch "
                f"Geometric would keep max_num_neighbors={self.max_num_neighbors} of them. To drop the others as it "
                "does, pass its interaction_graph=RadiusInteractionGraph(cutoff, max_num_neighbors)",
                stacklevel=4,
            )


class SchNet(PyGSchNet):
    r"""PyTorch Geometric's SchNet: same arguments, parts, state dict and outputs; only an import has to be exchanged.

    It is a subclass, so all that works on PyTorch Geometric's model (hooks, explainers, exchanged parts, checkpoints
    of either class in the other) works here. Two things differ:

    - **Graph.** Where no ``interaction_graph`` is given, every atom within the cutoff is a neighbour.
      ``max_num_neighbors`` drops none, as a sum that lacks terms is no SchNet; a warning says so once where an atom has
      more neighbours than that. It needs neither pyg-lib nor torch-cluster, and takes periodic structures (``cell``,
      ``pbc``) and given edges. Any graph that is passed is called as it is, ``RadiusInteractionGraph`` of PyTorch
      Geometric with its quota included.
    - **Speed.** On CPUs and in float32 the interactions are those of :class:`~pyg_schnet.models.SchNet` on the same
      weights, with ``filters`` as explained there. Elsewhere, and wherever a part was exchanged, subclassed or hooked,
      the forward pass is PyTorch Geometric's own.

    ``pyg_schnet.SchNet.from_pyg(model)`` makes a :class:`~pyg_schnet.models.SchNet` of it, as :meth:`save` does.

    Args:
        hidden_channels: Size F of the atom features.
        num_filters: Number of filters.
        num_interactions: Number of interaction blocks.
        num_gaussians: Number of Gaussians, of width :math:`\gamma = 1 / (2 \Delta\mu^2)`.
        cutoff: Cutoff in Å.
        interaction_graph: Called as ``interaction_graph(pos, batch)``, returns ``edge_index`` ``[2, E]`` and distances
            ``[E]`` in Å; ``None`` takes the complete radius graph.
        max_num_neighbors: Where an atom has more neighbours, a warning says that all of them count.
        readout: ``"add"``, ``"mean"`` or another aggregation of PyTorch Geometric.
        dipole: Whether the output is the magnitude of the dipole.
        mean: Mean of the property for each atom; it counts only together with ``std``.
        std: Standard deviation of the property.
        atomref: One value for each atomic number from 0 to 99, shape ``[100, 1]`` or ``[100]``; trained.
        filters: ``"auto"`` or, for PyTorch Geometric's own forward pass everywhere, ``"exact"``.

    Raises:
        ValueError: If the references have another shape, or an option is unknown.

    Example:
        >>> model = SchNet(16, 16, 2, 20, 5.0)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> model(z, pos).shape
        torch.Size([1, 1])
        >>> "interactions.0.mlp.0.weight" in model.state_dict()
        True
    """

    def __init__(
        self,
        hidden_channels: int = 128,
        num_filters: int = 128,
        num_interactions: int = 6,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
        interaction_graph: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        max_num_neighbors: int = PYG_MAX_NUM_NEIGHBORS,
        readout: str = "add",
        dipole: bool = False,
        mean: float | None = None,
        std: float | None = None,
        atomref: Tensor | None = None,
        *,
        filters: Literal["auto", "exact"] = "auto",
    ) -> None:
        if not isinstance(filters, str) or filters not in ("auto", "exact"):
            raise ValueError(f"filters must be 'auto' or 'exact', got {filters!r}")
        num_interactions, hidden_channels, num_filters, num_gaussians = check_sizes(
            num_interactions, hidden_channels=hidden_channels, num_filters=num_filters, num_gaussians=num_gaussians
        )
        of_block = (hidden_channels + num_filters) ** 2 + num_filters * num_gaussians
        check_parameters(num_interactions * of_block + 100 * hidden_channels, "a SchNet")
        cutoff = positive_length(cutoff)
        mean, std = (None if x is None else real_number(x, n) for x, n in ((mean, "mean"), (std, "std")))
        if interaction_graph is None:
            interaction_graph = CompleteGraph(cutoff, max_num_neighbors)
        super().__init__(
            hidden_channels,
            num_filters,
            num_interactions,
            num_gaussians,
            cutoff,
            interaction_graph,
            max_num_neighbors,
            readout,
            dipole,
            mean,
            std,
            None if atomref is None else _as_column(atomref),
        )
        self.filters = filters
        _state_channels(self)

    @classmethod
    def from_model(cls, model: PyGSchNet) -> SchNet:
        """The same model, a copy of all its parts and numbers; its radius graph becomes complete, others stay.

        Raises:
            TypeError: If ``model`` is no SchNet of PyTorch Geometric.
        """
        if not isinstance(model, PyGSchNet):
            raise TypeError(f"from_model takes a torch_geometric.nn.models.SchNet, got {type(model).__name__}")
        ours = cls.__new__(cls)
        ours.__dict__.update(copy.deepcopy(model).__dict__)
        ours.filters = getattr(model, "filters", "auto")
        graph = ours.interaction_graph
        if type(graph) is RadiusInteractionGraph:
            ours.interaction_graph = CompleteGraph(graph.cutoff, graph.max_num_neighbors)
        _state_channels(ours)
        return ours

    @staticmethod
    def from_qm9_pretrained(root: str, dataset: Any, target: int) -> tuple[SchNet, tuple[Any, Any, Any]]:
        """A model trained on QM9, and the parts of the data set; see PyTorch Geometric's method of this name."""
        model, parts = PyGSchNet.from_qm9_pretrained(root, dataset, target)
        return SchNet.from_model(model), parts

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        edge_index: Tensor | None = None,
        *,
        edge_shift: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Property of each structure; arguments as in :meth:`pyg_schnet.models.AtomisticModel.forward`.

        Returns:
            Shape ``[B, 1]``, in the precision in which PyTorch Geometric's model gives it.

        Raises:
            ValueError: If shapes or types do not fit, or edges or a cell are given beside an ``interaction_graph`` of
                the caller's, which knows of neither.
        """
        check_atoms(z, pos, batch)
        check_keys(z, getattr(self.embedding, "num_embeddings", MAX_Z + 1), "atoms have atomic numbers")
        if batch_size is not None:
            check_batch_size(batch_size)
            if batch is not None:
                check_keys(batch, batch_size, "atoms name structures")
        given = {"edge_index": edge_index, "edge_shift": edge_shift, "cell": cell, "pbc": pbc}
        graph = self.interaction_graph
        own_graph = type(graph) is CompleteGraph and not _is_changed(graph)
        if not own_graph and any(value is not None for value in given.values()):
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise ValueError(
                f"the interaction_graph of this model takes positions and batch only, got {names} as well; build the "
                "model without interaction_graph to pass them"
            )
        edges = self._edges(pos, batch, given, batch_size) if own_graph else self._within_quota(pos, batch)
        if edges is None:
            return _padded(super().forward(z, pos, batch), batch_size)
        if own_graph and edge_index is None and is_at_hand(pos):
            graph.say_if_crowded(edges, z.size(0))
        twin = self._find_twin(z, pos)
        if twin is None:
            found = edges.index, _up_to(edges, self.cutoff)
            view = _View(self, interaction_graph=lambda pos, batch: found)
        else:
            features = twin.represent(z, edges)
            view = _View(
                self,
                embedding=lambda z: features,
                interactions=(),
                interaction_graph=lambda pos, batch: (None, None),
                distance_expansion=lambda dist: None,
            )
        return _padded(PyGSchNet.forward(view, z, pos, batch), batch_size)

    def plan(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        edge_index: Tensor | None = None,
        *,
        edge_shift: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Plan:
        """How a call is computed; see :meth:`pyg_schnet.models.AtomisticModel.plan`.

        Example:
            >>> z, pos = torch.tensor([8, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0]])
            >>> SchNet(16, 16, 2, 20, 5.0).plan(z, pos).program
            'interactions'
        """
        given = {"edge_index": edge_index, "edge_shift": edge_shift, "cell": cell, "pbc": pbc}
        own_graph = type(self.interaction_graph) is CompleteGraph and not _is_changed(self.interaction_graph)
        edges = self._edges(pos, batch, given, batch_size) if own_graph else self._within_quota(pos, batch)
        twin = None if edges is None else self._find_twin(z, pos)
        if edges is None or twin is None:
            why = "the graph is another one" if edges is None else "filters='exact', or a part is not as it was built"
            return Plan("layers", "exact", "reference", (f"PyTorch Geometric's own forward pass is taken: {why}",))
        facts = Facts.of(twin)
        return choose(facts, facts.request(z, pos, half_list=edges.half_list is not None))

    def _edges(self, pos: Tensor, batch: Tensor | None, given: dict[str, Any], batch_size: int | None) -> Edges:
        """Edges of the complete graph, or those that are given; padding acts as other atoms do, as in PyG's model."""
        if pos.dtype != self.embedding.weight.dtype:
            raise ValueError(
                f"pos is {pos.dtype} but the weights are {self.embedding.weight.dtype}; convert pos, or the model by "
                "model.to(dtype)"
            )
        if batch_size is None:
            batch_size = 1 if batch is None else count_structures(batch)
        atoms = torch.ones(pos.size(0), dtype=torch.int64, device=pos.device)
        batch = torch.zeros_like(atoms) if batch is None else batch
        return prepare_edges(atoms, pos, batch, self.interaction_graph.cutoff, **given, batch_size=batch_size)

    def _within_quota(self, pos: Tensor, batch: Tensor | None) -> Edges | None:
        """Edges of PyG's graph, which are all that there are, unless an atom has more neighbours than it keeps."""
        graph = self.interaction_graph
        if type(graph) is not RadiusInteractionGraph or _is_changed(graph) or not is_at_hand(pos):
            return None
        if graph.cutoff != self.cutoff or pos.dtype != self.embedding.weight.dtype:
            return None
        edges = self._edges(pos, batch, {}, None)
        return edges if _most_neighbors(edges, pos.size(0)) <= graph.max_num_neighbors else None

    def _find_twin(self, z: Tensor, pos: Tensor) -> OurSchNet | None:
        """Our SchNet on the weights of this model; ``None`` where PyG's forward pass has to be taken."""
        if self.filters == "exact" or pos.dtype != torch.float32 or is_cast(pos) or not is_at_hand(pos):
            return None
        if bool((z == 0).any()) or bool((z > MAX_Z).any()):  # padding, which PyG does not know to leave out; mistakes
            return None
        twin = self.__dict__.get("_twin")
        if twin is None:
            twin = self.__dict__["_twin"] = Twin(self)
        return twin.model()

    def __prepare_scriptable__(self) -> SchNet:
        raise ValueError(NO_SCRIPT.format(name=type(self).__name__))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_twin"}

    def as_schnet(self) -> OurSchNet:
        """A :class:`~pyg_schnet.models.SchNet` with these weights and outputs.

        Raises:
            ValueError: If the graph is the caller's, which a model of this package has no place for.
        """
        if type(self.interaction_graph) is not CompleteGraph:
            raise ValueError(
                f"a model with an interaction_graph of its own ({type(self.interaction_graph).__name__}) cannot become "
                "a pyg_schnet.SchNet, which builds the complete radius graph; save model.state_dict()"
            )
        return from_pyg(self)

    def save(self, path: str | os.PathLike[str], **card: Any) -> Path:
        """Write the model as a file that :func:`~pyg_schnet.models.load` reads as a :class:`~pyg_schnet.models.SchNet`.

        Args:
            path: File to write, by convention ``*.safetensors``.
            **card: What to note, see :meth:`pyg_schnet.models.AtomisticModel.save`.

        Raises:
            ValueError: If the graph is the caller's.
        """
        return self.as_schnet().save(path, **card)


def _state_channels(model: PyGSchNet) -> None:
    """Say the size of what convolutions sum where PyG's explainers look for it, which PyG's own do not."""
    for block in model.interactions:
        conv: Any = getattr(block, "conv", None)
        if type(conv) is CFConv:
            conv.in_channels = conv.out_channels = conv.lin1.out_features


class _View:
    """What PyG's forward pass sees: a model of which some parts are replaced."""

    def __init__(self, model: PyGSchNet, **parts: Any) -> None:
        self.__dict__.update(parts)
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _is_changed(graph: torch.nn.Module) -> bool:
    """Whether a graph has hooks, or a method that was set on the object."""
    return bool(graph._forward_hooks or graph._forward_pre_hooks) or "forward" in graph.__dict__


def _up_to(edges: Edges, cutoff: float) -> Tensor:
    """Distances of edges; those beyond the cutoff and from an atom to itself at it, where PyG's window is zero."""
    return exclude_self_loops(edges.index, edges.dist.clamp(max=cutoff), cutoff)


def _padded(out: Tensor, batch_size: int | None) -> Tensor:
    """Zeros for structures without atoms at the end of a batch."""
    if batch_size is None or out.size(0) >= batch_size:
        return out
    return torch.cat([out, out.new_zeros(batch_size - out.size(0), out.size(1))])


def _most_neighbors(edges: Edges, n_atoms: int) -> int:
    """Largest number of neighbours of an atom."""
    ends = edges.index[1] if edges.half_list is None else edges.half_list.index.flatten()
    return int(torch.bincount(ends, minlength=n_atoms).max()) if n_atoms > 0 else 0


def _as_column(atomref: Tensor) -> Tensor:
    values = as_references(atomref, torch.float32)
    if tuple(values.shape) not in ((MAX_Z + 1, 1), (MAX_Z + 1,)):
        raise ValueError(
            f"atomref must hold one value for each atomic number from 0 to {MAX_Z}, [{MAX_Z + 1}, 1]; "
            f"got {list(values.shape)}"
        )
    return values.reshape(-1, 1)

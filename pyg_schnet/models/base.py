"""Base class of SchNet and DTNN: embed, interact T times, read out."""

from __future__ import annotations

from functools import partial
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from pyg_schnet.engine.cache import Facts
from pyg_schnet.engine.groups import pairs_of_largest
from pyg_schnet.engine.plan import Plan, choose
from pyg_schnet.models.checkpoint import CheckpointMixin
from pyg_schnet.models.graph import Edges, check_atoms, count_structures, embed, find_edges, is_open, prepare_edges
from pyg_schnet.models.repulsion import repulsion_of_structures
from pyg_schnet.nn import Readout
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.nn.dense import reset_parameters
from pyg_schnet.ops.checks import MOST_ROWS, check_batch_size, positive_length
from pyg_schnet.ops.dispatch import Backend, is_cast

NO_SCRIPT = (
    "TorchScript cannot express a {name}, whose graphs are built by compiled code; take torch.export, or "
    "torch.jit.trace with edge_index and batch_size given"
)
_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized")  # modules of torch


class AtomisticModel(CheckpointMixin, nn.Module):
    r"""Embeddings refined by interactions and read out, Fig. 1 of Schütt et al. (2020); subclasses define which ones.

    .. math::
        \mathbf{x}_i^0 = \mathbf{A}_{Z_i}, \qquad
        \mathbf{x}_i^{t+1} = \mathbf{x}_i^t + \mathbf{v}_i^t, \qquad
        P = \mathrm{readout}(\mathbf{x}^T)

    Args:
        hidden_channels: Size F of the atom features.
        num_interactions: Number T of interactions.
        cutoff: Cutoff in Å.
        interactions: The interaction blocks, residual included; one block serves all T interactions. They act in the
            order of the list ``model.interactions``, which may be changed: blocks need only the call
            ``block(x, edge_index, edge_dist, edge_ptr)``.
        readout: Maps atom features to the property.
    """

    def __init__(
        self,
        hidden_channels: int,
        num_interactions: int,
        cutoff: float,
        interactions: list[nn.Module],
        readout: Readout,
    ) -> None:
        super().__init__()
        self.hidden_channels = hidden_channels
        self.cutoff = positive_length(cutoff)
        self.card: dict[str, Any] = {}
        self.embedding = nn.Embedding(MAX_Z + 1, hidden_channels, padding_idx=0)
        self.interactions = nn.ModuleList(interactions)
        self.shared_weights = len(interactions) == 1 < num_interactions
        self._num_interactions = num_interactions
        self.readout = readout
        self.repulsion: nn.Module | None = None
        self._backend: Backend = "auto"

    @property
    def num_interactions(self) -> int:
        """Number T of interactions, that of the blocks, unless one block is shared by all interactions."""
        n_blocks = len(self.interactions)
        return self._num_interactions if self.shared_weights and n_blocks == 1 else n_blocks

    def blocks(self) -> list[nn.Module]:
        """Interaction blocks in the order they act, repeated where they are shared."""
        blocks = list(self.interactions)
        return blocks * self.num_interactions if len(blocks) == 1 else blocks

    @property
    def backend(self) -> Backend:
        """How operators are computed, ``"auto"``, ``"reference"`` (plain torch), ``"numba"`` or ``"triton"``.

        It does not change the function of the model, so it is neither in ``config`` nor in files. Set it again after
        replacing parts. Edges are searched and sorted in one way with all of them, which has no rounding.
        """
        return self._backend

    @backend.setter
    def backend(self, value: Backend) -> None:
        if value not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {value!r}")
        self._backend = value
        for module in self.modules():
            if module is not self and getattr(module, "backend", value) != value:
                cast(Any, module).backend = value

    def plan(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        edge_index: Tensor | None = None,
        edge_shift: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        batch_size: int | None = None,
        forces: bool = False,
        stress: bool = False,
        create_graph: bool = False,
    ) -> Plan:
        """How a call of the model or of :func:`pyg_schnet.derivatives.energy_forces_stress` is computed, and why.

        Args:
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``.
            batch: Structure of each atom, shape ``[N]``.
            edge_index: Edges ``(j, i)``, shape ``[2, E]``.
            edge_shift: Lattice images crossed by the given edges, shape ``[E, 3]``.
            cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
            pbc: Periodic directions, shape ``[B, 3]``.
            batch_size: Number of structures B.
            forces: Whether forces are requested.
            stress: Whether the stress is requested.
            create_graph: Whether they are to be differentiated again.

        Returns:
            Program, filters, backend, and the reasons against faster programs.

        Raises:
            ValueError: If the input does not fit, as in :meth:`forward`.

        Example:
            >>> import torch
            >>> from pyg_schnet import SchNet
            >>> model = SchNet(16, 16, 2, cutoff=5.0).eval()
            >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
            >>> model.plan(z, pos, forces=True)
            Plan(program='potential', filters='spline', backend='numba', reasons=())
            >>> handle = model.interactions[1].lin1.register_forward_hook(lambda *_: None)
            >>> model.plan(z, pos, forces=True).reasons
            ('interactions.1.lin1 has a forward hook',)
        """
        batch, batch_size = self._check(z, pos, batch, batch_size)
        given = {"edge_index": edge_index, "edge_shift": edge_shift, "cell": cell, "pbc": pbc}
        graph, _ = find_edges(z, pos, batch, self.cutoff, **given, batch_size=batch_size, backend=self.backend)
        facts = Facts.of(self)
        request = facts.request(
            z,
            pos,
            gradients=forces or stress,
            differentiable=create_graph,
            half_list=None if self.backend == "reference" else graph is not None,
            **self._asked(z, batch, edge_index, cell, pbc, batch_size),
        )
        return choose(facts, request)

    def _asked(
        self,
        z: Tensor,
        batch: Tensor | None,
        edge_index: Tensor | None,
        cell: Tensor | None,
        pbc: Tensor | None,
        batch_size: int | None,
    ) -> dict[str, Any]:
        """The request to the engine, before edges are searched."""
        count = batch_size if type(batch_size) is int else 1
        search = edge_index is None and not (cell is None and pbc is None)
        search = search and not is_open(cell, pbc, count)
        most = z.size(0) * (z.size(0) - 1) // 2 if edge_index is None else edge_index.size(-1) // 2
        largest = partial(pairs_of_largest, batch, batch_size, edge_index)
        return {"backend": self.backend, "periodic_search": search, "num_edges": most, "largest": largest}

    def reset_parameters(self) -> None:
        """Draw new weights; statistics of the data in the readout (scale, shift, references) are kept."""
        reset_parameters(self.embedding, *self.interactions, self.readout)

    def __prepare_scriptable__(self) -> AtomisticModel:
        """Called by ``torch.jit.script``, which is not supported.

        Raises:
            ValueError: Always.
        """
        raise ValueError(NO_SCRIPT.format(name=type(self).__name__))

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        edge_index: Tensor | None = None,
        edge_shift: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Property of each structure.

        Args:
            z: Atomic numbers, shape ``[N]``; 0 is padding, which has no effect.
            pos: Positions in Å, shape ``[N, 3]``.
            batch: Structure of each atom, shape ``[N]``; ``None`` for a single structure.
            edge_index: Edges ``(j, i)``, shape ``[2, E]``; ``None`` builds the complete radius graph. Edges beyond the
                cutoff have no effect, edges left out are missing.
            edge_shift: Lattice images crossed by the given edges, shape ``[E, 3]``.
            cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
            pbc: Periodic directions, shape ``[B, 3]``; needed with ``cell`` unless edges are given.
            batch_size: Number of structures B; ``None`` reads it from ``batch``, which waits for the device.

        Returns:
            Property, shape ``[B, out_channels]``, in the unit of the training data.

        Raises:
            ValueError: If shapes, types or values do not fit; the message says what was expected.
        """
        if isinstance(pos, Tensor) and is_cast(pos):
            # Distances in half precision are off by 0.03 Å, sums of energies by more; so nothing is cast.
            with torch.autocast(pos.device.type, enabled=False):
                given = {"edge_index": edge_index, "edge_shift": edge_shift, "cell": cell, "pbc": pbc}
                return self.forward(z, pos, batch, **given, batch_size=batch_size)
        batch, batch_size = self._check(z, pos, batch, batch_size)
        if pos.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._check_differentiable()
        edges = prepare_edges(
            z,
            pos,
            batch,
            self.cutoff,
            edge_index=edge_index,
            edge_shift=edge_shift,
            cell=cell,
            pbc=pbc,
            batch_size=batch_size,
            backend=self.backend,
        )
        x = self.represent(z, edges)
        output = self.readout(x, z, pos, batch, batch_size)
        return output if self.repulsion is None else output + repulsion_of_structures(self, z, edges, batch, batch_size)

    def _check(self, z: Tensor, pos: Tensor, batch: Tensor | None, batch_size: int | None) -> tuple[Tensor, int]:
        """Structure of each atom and number of structures, where the input fits; see :meth:`forward`."""
        check_atoms(z, pos, batch)
        dtype = self._dtype()
        if dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"the weights are {dtype}, in which positions are up to 0.03 Å apart, energies have three digits; take "
                "the model in float32 or float64, by model.float() or model.double()"
            )
        if pos.dtype != dtype:
            raise ValueError(
                f"pos is {pos.dtype} but the weights are {dtype}; convert pos, or the model by model.to(dtype)"
            )
        if batch_size is None:
            batch_size = 1 if batch is None else count_structures(batch)
        elif type(batch_size) is not int or not 0 <= batch_size <= MOST_ROWS:
            check_batch_size(batch_size)
        return torch.zeros_like(z) if batch is None else batch, batch_size

    def _check_differentiable(self) -> None:
        """Raise for quantised layers, through which forces would be zero."""
        left: list[nn.Module] = [self]
        for module in left:  # modules() takes ten times as long
            if type(module).__module__.startswith(_QUANTIZED):
                raise ValueError(
                    "quantised layers cannot be differentiated with respect to positions; take forces and stress from "
                    "the model as it was before quantize_dynamic"
                )
            left += [part for part in module._modules.values() if part is not None]

    def _dtype(self) -> torch.dtype:
        """Precision of the embedding, or of the first parameter if the embedding was replaced."""
        weight: Any = getattr(self.embedding, "weight", None)
        if not isinstance(weight, Tensor):  # quantised ones, for example, have a method of that name
            weight = next((value for value in self.parameters() if value.is_floating_point()), self.readout.scale)
        return weight.dtype

    def represent(self, z: Tensor, edges: Edges) -> Tensor:
        """Atom features after all interactions.

        Args:
            z: Atomic numbers, shape ``[N]``.
            edges: Edges of the batch, see ``prepare_edges``.

        Returns:
            Features, shape ``[N, hidden_channels]``.
        """
        x = embed(self.embedding, z)
        for block in self.blocks():
            x = block(x, *edges.directed)
        return x

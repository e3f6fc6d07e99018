"""SchNet of several packages with the same weights, called in one way."""

import copy
import logging
import re
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch_geometric.nn.models import SchNet as PyGSchNet
from torch_geometric.utils import scatter
from typing_extensions import override

from pyg_schnet import SchNet
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.geometry import edge_vectors


def pyg_model(cutoff, features=128, interaction_graph=None, seed=0):
    """PyG's SchNet with random weights: as many filters as features, 6 interactions, 50 Gaussians."""
    torch.manual_seed(seed)
    return PyGSchNet(features, features, 6, 50, cutoff, interaction_graph=interaction_graph)


def rebuilt(model, dtype=None, **changes):
    """One of our models with other arguments or in another precision, and the same weights."""
    other = type(model)(**{**model.config, **changes}).to(model.embedding.weight.dtype if dtype is None else dtype)
    other.load_state_dict(model.state_dict())
    return other.train(model.training)


class Peer(ABC):
    """A model of some package on one system.

    Args:
        model: PyG's model, whose weights are copied.
        system: What it is going to be called with.
    """

    name: str
    twice_differentiable = True

    def __init__(self, model, system):
        self.system = system
        self.model = self.convert(copy.deepcopy(model))

    @abstractmethod
    def convert(self, model):
        """Model of this package with the weights of PyG's."""

    @abstractmethod
    def energy(self, pos):
        """Energies, shape ``[B]``, at positions ``[N, 3]``."""

    def energy_and_forces(self, create_graph=False):
        """Energies ``[B]`` and forces ``[N, 3]``."""
        pos = self.system.pos.detach().requires_grad_()
        energy = self.energy(pos)
        return energy, -torch.autograd.grad(energy.sum(), pos, create_graph=create_graph)[0]

    def optimizer(self):
        """Adam, as users of the package write it."""
        return torch.optim.Adam(self.model.parameters())

    def gradients(self):
        """Gradients of the weights by PyG's names."""
        return {name: parameter.grad for name, parameter in self.model.named_parameters()}


class GivenGraph(torch.nn.Module):
    """PyG's ``interaction_graph`` with the edges of a system: only distances are computed."""

    def __init__(self, system):
        super().__init__()
        self.system = system

    def forward(self, pos, batch):
        """Edges and distances."""
        return self.system.edge_index, self.system.distances(pos)


class PyG(Peer):
    """PyTorch Geometric's SchNet."""

    name = "PyG"

    @override
    def convert(self, model):
        model.interaction_graph = GivenGraph(self.system)
        return model

    @override
    def energy(self, pos):
        return self.model(self.system.z, pos, self.system.batch).squeeze(-1)


class CompiledPyG(PyG):
    """The same through ``torch.compile``, which has no second derivatives."""

    name = "compiled PyG"
    twice_differentiable = False

    def __init__(self, model, system):
        super().__init__(model, system)
        torch._logging.set_logs(dynamo=logging.ERROR)  # it tells of every place where it cannot compile PyG
        self._compiled = torch.compile(self.model, dynamic=False)

    @override
    def energy(self, pos):
        return self._compiled(self.system.z, pos, self.system.batch).squeeze(-1)


class Ours(Peer):
    """The SchNet of this package.

    Args:
        model: PyG's model, whose weights are copied.
        system: What it is going to be called with.
        name: Name in tables.
        **changes: Arguments of ``SchNet`` to change, such as ``filters="exact"``.
    """

    name = "pyg_schnet"

    def __init__(self, model, system, name=name, **changes):
        self.name = name
        self._changes = changes
        super().__init__(model, system)

    @override
    def convert(self, model):
        return rebuilt(SchNet.from_pyg(model), **self._changes)

    @override
    def energy(self, pos):
        return self.model(self.system.z, pos, self.system.batch, **self._graph()).squeeze(-1)

    @override
    def energy_and_forces(self, create_graph=False):
        z, pos, batch = self.system.z, self.system.pos, self.system.batch
        response = energy_forces_stress(self.model, z, pos, batch, **self._graph(), create_graph=create_graph)
        return response.energy, response.forces

    def _graph(self):
        names = ("edge_index", "edge_shift", "cell")
        return {name: getattr(self.system, name) for name in names} | {"batch_size": self.system.size}

    @override
    def optimizer(self):
        return torch.optim.AdamW(self.model.parameters(), weight_decay=0.0, fused=True)

    @override
    def gradients(self):
        shadow = copy.deepcopy(self.model)
        for mine, parameter in zip(shadow.parameters(), self.model.parameters(), strict=True):
            mine.data = parameter.grad
        return {name: parameter.detach() for name, parameter in shadow.to_pyg().named_parameters()}


class FrozenOurs(Ours):
    """The same, frozen, as calculators evaluate it."""

    name = "frozen"

    def __init__(self, model, system):
        super().__init__(model, system, FrozenOurs.name)

    @override
    def convert(self, model):
        return freeze(super().convert(model))


class Convolutions(torch.nn.Module):
    """A small network around a convolution, as users write them: embeddings, three residual layers, a sum over atoms.

    Args:
        embedding: From atomic numbers to features.
        layers: Called with features ``[N, F]``, edges ``[2, E]`` and distances ``[E]``.
        readout: From features to one value for each atom.
    """

    def __init__(self, embedding, layers, readout):
        super().__init__()
        self.embedding, self.layers, self.readout = embedding, torch.nn.ModuleList(layers), readout

    def forward(self, z, edge_index, edge_dist, batch, batch_size):
        """Sums over the atoms, shape ``[B]``."""
        x = self.embedding(z)
        for layer in self.layers:
            x = x + torch.tanh(layer(x, edge_index, edge_dist))
        return scatter(self.readout(x).squeeze(-1), batch, 0, batch_size, reduce="sum")


class PyGLayer(torch.nn.Module):
    """PyG's ``CFConv`` with the expansion of its distances."""

    def __init__(self, conv, expansion):
        super().__init__()
        self.conv, self.expansion = conv, expansion

    def forward(self, x, edge_index, edge_dist):
        """Convolved features, shape ``[N, F]``."""
        return self.conv(x, edge_index, edge_dist, self.expansion(edge_dist))


class OurLayer(torch.nn.Module):
    """Our ``CFConv`` between two dense layers, which PyG's has inside."""

    def __init__(self, block):
        super().__init__()
        self.before, self.conv, self.after = block.lin_in, block.conv, block.lin1

    def forward(self, x, edge_index, edge_dist):
        """Convolved features, shape ``[N, F]``."""
        return self.after(self.conv(self.before(x), edge_index, edge_dist))


_LAYERS = 3


class PyGConvolutions(Peer):
    """A network around PyG's ``CFConv``."""

    name = "PyG"

    @override
    def convert(self, model):
        blocks = list(model.interactions)[:_LAYERS]
        layers = [PyGLayer(block.conv, model.distance_expansion) for block in blocks]
        torch.manual_seed(0)
        return Convolutions(model.embedding, layers, torch.nn.Linear(model.hidden_channels, 1))

    @override
    def energy(self, pos):
        system = self.system
        return self.model(system.z, system.edge_index, system.distances(pos), system.batch, system.size)

    @override
    def gradients(self):
        named = self.model.named_parameters()
        return {name: value.grad for name, value in named if value.grad is not None}


class OurConvolutions(PyGConvolutions):
    """The same network around ours."""

    name = "pyg_schnet"

    @override
    def convert(self, model):
        theirs, ours = super().convert(copy.deepcopy(model)), SchNet.from_pyg(model)
        layers = [OurLayer(block) for block in list(ours.interactions)[:_LAYERS]]
        return Convolutions(theirs.embedding, layers, theirs.readout)

    @override
    def gradients(self):
        theirs = {
            "before": "conv.lin1",
            "conv.filter_network.lin1": "conv.nn.0",
            "conv.filter_network.lin2": "conv.nn.2",
        }
        found = {}
        for name, value in self.model.named_parameters():
            for mine, its in {**theirs, "after": "conv.lin2"}.items():
                name = re.sub(rf"(layers\.\d+\.){re.escape(mine)}\.", rf"\1{its}.", name)
            if value.grad is not None:
                found[name] = value.grad
        return found


_OUTSIDE = {  # PyG's names -> SchNetPack's
    "embedding": "representation.embedding",
    "lin1": "output_modules.0.outnet.0",
    "lin2": "output_modules.0.outnet.1",
}
_INTERACTION = {
    "conv.lin1": "in2f",
    "conv.lin2": "f2out.0",
    "lin": "f2out.1",
    "mlp.0": "filter_network.0",
    "mlp.2": "filter_network.1",
}


def import_schnetpack():
    """SchNetPack; version 2.1.1 reads a name that newer torch no longer has."""
    from typing import TypeVar

    import torch.utils.data.dataloader

    if not hasattr(torch.utils.data.dataloader, "T_co"):
        torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)
    import schnetpack

    return schnetpack


class SchNetPack(Peer):
    """SchNetPack's SchNet with its ``Atomwise`` output."""

    name = "SchNetPack"

    @override
    def convert(self, model):
        spk, features, cutoff = import_schnetpack(), model.hidden_channels, model.cutoff
        theirs = spk.model.NeuralNetworkPotential(
            representation=spk.representation.SchNet(
                n_atom_basis=features,
                n_interactions=model.num_interactions,
                radial_basis=spk.nn.GaussianRBF(model.num_gaussians, cutoff),
                cutoff_fn=spk.nn.CosineCutoff(cutoff),
                n_filters=model.num_filters,
            ),
            input_modules=[spk.atomistic.PairwiseDistances()],
            output_modules=[spk.atomistic.Atomwise(features, activation=spk.nn.shifted_softplus, output_key="energy")],
        )
        self._names = dict(_OUTSIDE)
        for t in range(model.num_interactions):
            block = f"interactions.{t}."
            self._names |= {block + a: f"representation.{block}{b}" for a, b in _INTERACTION.items()}
        for a, b in self._names.items():
            theirs.get_submodule(b).load_state_dict(model.get_submodule(a).state_dict())
        return theirs

    @cached_property
    def _inputs(self):
        system = self.system
        still = torch.zeros_like(system.pos)
        return {
            "_atomic_numbers": system.z,
            "_idx_i": system.edge_index[1],
            "_idx_j": system.edge_index[0],
            "_offsets": edge_vectors(still, system.edge_index, system.edge_shift, system.cell, system.batch),
            "_idx_m": system.batch,
            "_n_atoms": system.batch.bincount(),
        }

    @override
    def energy(self, pos):
        return self.model({**self._inputs, "_positions": pos})["energy"]

    @override
    def gradients(self):
        return {
            f"{a}.{name}": parameter.grad
            for a, b in self._names.items()
            for name, parameter in self.model.get_submodule(b).named_parameters()
        }


def find_peers(compiled=False):
    """Classes of the peers that can be had here, PyG and this package first."""
    peers = [PyG, Ours]
    try:
        import_schnetpack()
        peers.append(SchNetPack)
    except ImportError as error:
        print(f"SchNetPack is left out: {error}")
    return [*peers, CompiledPyG] if compiled else peers

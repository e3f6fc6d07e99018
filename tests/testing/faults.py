"""Sound models of three kinds, and mistakes that can be planted in them."""

import torch
from ase.calculators.calculator import Calculator, all_changes
from torch import nn
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.geometry import edge_distances, volume
from pyg_schnet.nn import CosineCutoff
from pyg_schnet.ops.potential import EnergyGradients

CUTOFF = 4.0


class Faulty(nn.Module):
    """A SchNet that builds its own graph, so that graph, edges and energies can be made wrong.

    Args:
        kind: ``"ours"`` or ``"pyg"``.
        fault: Name of the mistake; ``None`` for none.
    """

    def __init__(self, kind, fault=None):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.fault, self.cutoff, self.reach = kind, fault, CUTOFF, CUTOFF
        if kind == "ours":
            window = "hard" if fault == "no window" else "cosine"
            self.inner = SchNet(8, 8, 2, 10, CUTOFF, window=window)
        else:
            self.inner = PyGSchNet(8, 8, 2, 10, CUTOFF, interaction_graph=Held())
        if fault == "rising window":
            self.reach = 1.6 * CUTOFF
            for block in self.inner.interactions:  # PyTorch Geometric's is one as it is
                if kind == "ours":
                    block.conv.filter_network.window = RisingCosine(CUTOFF)
        if fault == "no window" and kind == "pyg":
            for block in self.inner.interactions:
                block.conv.cutoff = 1e9

    def forward(self, z, pos, batch, *, cell=None, pbc=None, edge_index=None, edge_shift=None):
        if edge_index is None:
            graph = radius_graph(pos.detach(), self.reach, batch, cell=None if cell is None else cell.detach(), pbc=pbc)
            edge_index, edge_shift = graph if cell is not None else (graph, None)
            edge_index, edge_shift = self.lose_edges(pos, edge_index, edge_shift, cell, batch)
        energy = self.energies(z, pos, batch, edge_index, edge_shift, cell)
        return self.spoil(energy, pos, batch, edge_index)

    def lose_edges(self, pos, edge_index, edge_shift, cell, batch):
        if self.fault not in ("first 32", "closest 32"):
            return edge_index, edge_shift
        dist = edge_distances(pos, edge_index, edge_shift, cell, batch).detach()
        order = dist.argsort(stable=True) if self.fault == "closest 32" else torch.arange(len(dist))
        order = order[edge_index[1, order].argsort(stable=True)]
        target = edge_index[1, order]
        rank = torch.arange(len(target)) - torch.searchsorted(target, target)
        kept = order[rank < 32]
        return edge_index[:, kept], None if edge_shift is None else edge_shift[kept]

    def energies(self, z, pos, batch, edge_index, edge_shift, cell):
        if self.fault == "images" and edge_shift is not None:
            edge_shift = -edge_shift
        if self.fault == "stress" and cell is not None:
            cell = 2.0 * cell.detach() - cell
        if self.kind == "ours":
            lattice = {} if cell is None else {"cell": cell, "edge_shift": edge_shift}
            return self.inner(z, pos, batch, edge_index=edge_index, **lattice)
        self.inner.interaction_graph.edges = edge_index, edge_distances(pos, edge_index, edge_shift, cell, batch)
        return self.inner(z, pos, batch)

    def spoil(self, energy, pos, batch, edge_index):
        match self.fault:
            case "leak":
                return energy + 1e-6 * (energy.sum(0) - energy)
            case "gradient leak":
                return energy + 1e-6 * (pos.sum() - pos.sum().detach())
            case "nan":
                vec = pos[edge_index[1]] - pos[edge_index[0]]
                dist = vec.square().sum(1).sqrt()
                bump = torch.where(dist < 1.0, (1.0 - dist) ** 4, 0.0)
                return energy.index_add(0, batch[edge_index[1]], 1e-3 * bump.unsqueeze(1))
            case "detached":
                return energy + 0.1 * energy.detach()
            case "noise":
                return energy + 1e-12 * torch.rand(())
            case "single":
                return energy.half().to(energy.dtype) if energy.dtype == torch.float32 else energy
            case "field":
                return energy.index_add(0, batch, 1e-6 * pos[:, :1].square())
            case "mean":
                return energy / torch.bincount(batch).unsqueeze(1)
            case "order":
                weight = torch.arange(len(pos), dtype=pos.dtype)
                return energy.index_add(0, batch, (1e-9 * weight * pos.detach().norm(dim=1)).unsqueeze(1))
        return energy


class Held(nn.Module):
    """An ``interaction_graph`` of the edges that it was given last."""

    def __deepcopy__(self, memo):
        return Held()

    def forward(self, pos, batch):
        return self.edges


class RisingCosine(CosineCutoff):
    """A window that is not cut off."""

    def forward(self, dist):
        return 0.5 * (torch.cos(torch.pi * dist / self.cutoff) + 1.0)


class WrongStress(SchNet):
    """Gives gradients itself; that with respect to strain has the wrong sign."""

    def energy_and_gradients(self, z, pos, batch=None, *, strain=False, **given):
        found = energy_forces_stress(self.forward, z, pos, batch, **given, stress=strain)
        grad_strain = -found.stress * volume(given["cell"]) if strain else None
        return EnergyGradients(found.energy, -found.forces, grad_strain)


class Calculated(Calculator):
    """A calculator of a model, with mistakes that only calculators make.

    Args:
        model: The model.
        fault: ``"stale"`` remembers the last graph, ``"forces"`` scales forces, ``"voigt"`` changes the sign of stress.
    """

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, model, fault=None):
        super().__init__()
        self.model, self.fault, self.cutoff, self.last = model.double().eval(), fault, CUTOFF, None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        z, pos = torch.tensor(atoms.numbers), torch.tensor(atoms.positions)
        batch = torch.zeros_like(z)
        lattice, stress = {}, False
        if atoms.pbc.any():
            lattice = {"cell": torch.tensor(atoms.cell.array)[None], "pbc": torch.tensor(atoms.pbc)[None]}
            stress = bool(atoms.pbc.all())
        found = energy_forces_stress(self.model, z, pos, batch, **lattice, stress=stress)
        self.results = {"energy": float(found.energy[0]), "forces": found.forces.numpy()}
        if self.fault == "stale" and self.last is not None:
            self.results["energy"] += 1e-6 * self.last
        if self.fault == "forces":
            self.results["forces"] = 1.01 * self.results["forces"]
        if stress:
            tensor = found.stress[0].numpy() * (-1.0 if self.fault == "voigt" else 1.0)
            self.results["stress"] = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        self.last = len(z)

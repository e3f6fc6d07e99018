"""Energies of a domain with activations kept, and computed again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet.engine import freeze
from pyg_schnet.interfaces.lammps import domain
from pyg_schnet.interfaces.lammps.exchange import ExchangePlan

MODELS = {
    "spline": lambda: SchNet(16, 16, 3, 12, 4.0),
    "exact": lambda: SchNet(16, 16, 2, 12, 4.0, filters="exact"),
    "normalised": lambda: SchNet(16, 16, 2, 12, 4.0, normalize=True),
    "dtnn": lambda: DTNN(16, 16, 2, 12, 4.0, window="cosine"),
}


def evaluate(model, atoms):
    """Energies of atoms, derivatives with respect to distances, and how many numbers autograd kept."""
    pos = torch.from_numpy(atoms.positions)
    lattice = {"cell": torch.from_numpy(atoms.cell.array)[None], "pbc": torch.ones(1, 3, dtype=torch.bool)}
    index, shift = radius_graph(pos, 4.0, **lattice)
    vec = pos[index[0]] - pos[index[1]] + shift.to(pos.dtype) @ lattice["cell"][0]
    dist = vec.norm(dim=1).requires_grad_()
    plan = ExchangePlan(SimpleNamespace(size=1, rank=0), np.arange(len(atoms)), np.arange(0))
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        energies = domain.DomainModel(freeze(model))(torch.from_numpy(atoms.numbers), plan, index, dist)
    (slope,) = torch.autograd.grad(energies.sum(), dist)
    return energies.detach(), slope, sum(kept.values())


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_computed_again_is_the_same_in_less_memory(kind, monkeypatch):
    torch.manual_seed(0)
    model = MODELS[kind]().double().eval()
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat((2, 2, 1))
    atoms.rattle(0.2, seed=1)
    energies, slope, kept = evaluate(model, atoms)
    monkeypatch.setattr(domain, "_RECOMPUTED", 1)
    again, same_slope, less = evaluate(model, atoms)
    assert torch.equal(again, energies)
    assert torch.equal(same_slope, slope)
    assert less < 0.8 * kept

"""Domains on threads instead of ranks: energies and forces of any division of the atoms are those of the whole."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import nn

from pyg_schnet import DTNN, SchNet
from pyg_schnet.data import to_data
from pyg_schnet.engine import freeze
from pyg_schnet.interfaces.lammps import DomainModel, ExchangePlan, collect, extend, parse_input
from pyg_schnet.interfaces.lammps.neighbors import check_complete
from pyg_schnet.interfaces.lammps.runner import attach
from pyg_schnet.interfaces.lammps.splitting import check_split
from pyg_schnet.neighbors import brute_radius_graph
from pyg_schnet.nn import MeanReadout

from .ranks import World

MODELS = {
    "spline": lambda: SchNet(16, 16, 3, 12, 4.0),
    "exact": lambda: SchNet(16, 24, 2, 12, 4.0, filters="exact"),
    "normalised": lambda: SchNet(16, 16, 2, 12, 4.0, normalize=True),
    "shared": lambda: SchNet(16, 16, 3, 12, 4.0, shared_weights=True),
    "one_block": lambda: SchNet(16, 16, 1, 12, 4.0),
    "mean": lambda: SchNet(16, 16, 2, 12, 4.0, readout="mean"),
    "dtnn": lambda: DTNN(16, 24, 2, 12, 4.0, window="cosine"),
}


def network(name):
    torch.manual_seed(1)
    model = MODELS[name]().double().eval()
    model.readout.set_references(torch.linspace(-3.0, 0.0, 100, dtype=torch.float64))
    return freeze(model)


@pytest.fixture(scope="module")
def crystal():
    """A rattled triclinic crystal of two elements, smaller than the cutoff in one direction."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat((2, 1, 1))
    atoms.rattle(0.2, seed=3)
    shear = np.array([[1.0, 0.0, 0.0], [0.2, 0.9, 0.0], [-0.1, 0.3, 0.6]])
    atoms.set_cell(atoms.cell @ shear, scale_atoms=True)
    return atoms


class Domain:
    """Own atoms, ghosts and edges of one rank, from the graph of the whole structure."""

    def __init__(self, data, graph, owner, rank):
        index, shift = graph
        self.own = np.flatnonzero(owner == rank)
        place = np.full(len(owner), -1)
        place[self.own] = np.arange(len(self.own))
        edges = np.flatnonzero(owner[index[1]] == rank)
        edges = edges[np.argsort(place[index[1, edges]], kind="stable")]
        images = np.column_stack([index[0, edges], shift[edges]])
        ghosts, which = np.unique(images, axis=0, return_inverse=True)  # own atoms in their own cell, too
        self.ghosts, which = ghosts[:, 0], which.reshape(-1)
        self.local = len(self.own) + which  # local number of each edge's source
        self.target = place[index[1, edges]]
        ends = torch.from_numpy(index[:, edges])
        self.vec = data.pos[ends[0]] - data.pos[ends[1]] + torch.from_numpy(shift[edges]).to(data.pos) @ data.cell[0]

    def plan(self, comm):
        ids = 10 + 3 * np.arange(1000)  # identifiers need not be counted from zero
        return ExchangePlan(comm, ids[self.own], ids[self.ghosts])


def compute(model, data, domain, comm):
    """Sum of the values of a domain's atoms, and forces on them."""
    plan = domain.plan(comm)
    z = np.zeros(plan.num_own + plan.num_remote, dtype=np.int64)
    z[plan.row] = data.z.numpy()[np.concatenate([domain.own, domain.ghosts])]
    index = torch.from_numpy(np.stack([plan.row[domain.local], domain.target]))
    vec = domain.vec.clone().requires_grad_()
    values = DomainModel(model)(torch.from_numpy(z), plan, index, vec.norm(dim=1))
    (grad,) = torch.autograd.grad(values.sum(), vec)
    forces = torch.zeros(len(z), 3, dtype=vec.dtype)
    forces.index_add_(0, index[1], grad).index_add_(0, index[0], -grad)
    return values.sum().item(), collect(forces, plan).numpy(), plan


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", MODELS)
def test_domains_add_up_to_the_whole(crystal, name, size):
    data, model = to_data(crystal, dtype=torch.float64), network(name)
    owner = np.random.default_rng(size).integers(0, max(size - 1, 1), len(crystal))  # the last rank has no atoms
    graph = [one.numpy() for one in brute_radius_graph(data.pos, 4.0, cell=data.cell, pbc=data.pbc)]
    domains = [Domain(data, graph, owner, rank) for rank in range(size)]
    found = World(size).run(lambda comm: compute(model, data, domains[comm.rank], comm))

    pos = data.pos.clone().requires_grad_()
    energy = model(data.z, pos, cell=data.cell, pbc=data.pbc).sum()
    energy = energy * len(crystal) if isinstance(model.readout, MeanReadout) else energy
    (expected,) = torch.autograd.grad(-energy, pos)
    assert sum(energy for energy, _, _ in found) == pytest.approx(energy.item(), rel=1e-12)
    forces = np.empty((len(crystal), 3))
    for domain, (_, part, _) in zip(domains, found, strict=True):
        forces[domain.own] = part
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-10 * abs(expected).max())
    sent = sum(plan.send_counts.sum() for *_, plan in found)
    assert sent == sum(plan.recv_counts.sum() for *_, plan in found)
    assert (sent > 0) == (size > 2)


def test_extending_and_collecting_are_transposed():
    own, ghosts = [[5, 1], [9, 2, 4]], [[2, 2, 1, 4], [5]]

    def run(comm):
        plan = ExchangePlan(comm, np.array(own[comm.rank]), np.array(ghosts[comm.rank]))
        x = torch.tensor(own[comm.rank], dtype=torch.float64).unsqueeze(1).requires_grad_()
        rows = extend(x, plan)
        assert rows.detach()[:, 0].numpy()[plan.row].tolist() == own[comm.rank] + ghosts[comm.rank]
        (rows * (1.0 + comm.rank)).sum().backward()
        return x.grad[:, 0].tolist()

    assert World(2).run(run) == [[1.0 + 2.0, 1.0], [2.0, 2.0 + 1.0, 2.0 + 1.0]]


def test_a_ghost_of_no_atom_is_an_error():
    alone = SimpleNamespace(size=1, rank=0)
    with pytest.raises(RuntimeError, match="image of no atom; its identifier is 7"):
        ExchangePlan(alone, np.array([1, 2]), np.array([7]))
    with pytest.raises(ValueError, match="must be unique"):
        ExchangePlan(alone, np.array([1, 1]), np.array([1]))
    with pytest.raises(RuntimeError, match="has no owner; its identifier is 7"):
        World(2).run(lambda comm: ExchangePlan(comm, np.array([comm.rank]), np.array([7])))


class NormOverAtoms(nn.Module):
    def forward(self, x):
        return x / x.norm(dim=0)


def test_models_that_mix_atoms_are_refused():
    model = SchNet(8, 8, 2, 12, 4.0).eval()
    check_split(freeze(model), 6)
    model.interactions[1].act = NormOverAtoms()
    with pytest.raises(ValueError, match=r"interactions\.1, a SchNetInteraction, cannot be computed domain by domain"):
        check_split(freeze(model), 6)
    model = SchNet(8, 8, 2, 12, 4.0).eval()
    model.interactions[0] = nn.Identity()
    with pytest.raises(ValueError, match=r"interactions\.0, a Identity, cannot"):
        check_split(freeze(model), 6)
    model = SchNet(8, 8, 2, 12, 4.0).eval()
    model.register_forward_hook(lambda module, inputs, out: 2.0 * out)
    with pytest.raises(ValueError, match="model, a SchNet with a hook or a method of its own, cannot"):
        check_split(freeze(model), 6)
    with pytest.raises(TypeError, match="LAMMPS needs energies, of a SumReadout or MeanReadout"):
        check_split(freeze(SchNet(8, 8, 2, 12, 4.0, readout="max")), 6)
    model = SchNet(8, 8, 2, 12, 4.0)
    model.cutoff = None
    with pytest.raises(ValueError, match="needs a model with a cutoff in Å, got cutoff=None"):
        check_split(model, 6)


def test_replaced_parts_that_can_be_split_are_called():
    model = SchNet(8, 8, 2, 12, 4.0).double().eval()
    model.interactions[1].act = nn.SiLU()
    model.interactions[0].lin1.register_forward_hook(lambda module, inputs, out: 3.0 * out)
    check_split(freeze(model), 6)


def test_inputs_are_divided_at_the_pair_style():
    found = parse_input("a\npair_style schnet  # here\nb\npair_coeff * * Si O # two\nrun 1\n")
    assert found == ("a", "b\n\nrun 1", ("Si", "O"))
    assert parse_input("pair_style schnet").elements == ()
    for text, message in (
        ("run 0", "must have one line 'pair_style schnet' .* got 0"),
        ("pair_style schnet\npair_style schnet", "got 2"),
        ("pair_style schnet 5.0", "must have one line"),
        ("pair_style schnet\npair_style lj/cut 3", "in.x:2: another pair style"),
        ("pair_style schnet\npair_coeff 1 1 Si", r"in.x:2: .* one line 'pair_coeff \* \* SYMBOL"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_input(text, "in.x")


def test_lists_without_some_pairs_are_refused():
    pos = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.5, 0.0], [0.0, 0.0, 9.0]])
    check_complete(pos, 1, np.array([1, 2, 3]), np.array([0, 3]), 2.0)
    with pytest.raises(ValueError, match=r"2 neighbours within 2\.0 Å, but LAMMPS' neighbour list has 1"):
        check_complete(pos, 1, np.array([1, 3]), np.array([0, 2]), 2.0)


class Settings:
    """What a ``lammps`` object says of its settings."""

    def __init__(self, units="metal", **settings):
        self.globals = {"units": units, "special_lj": [1.0, 0.0, 0.0, 0.0], "special_coul": [1.0, 1.0, 1.0, 1.0]}
        self.settings = {"box_exist": 1, "ntypes": 1, "molecule_flag": 0} | settings

    def extract_global(self, name):
        return self.globals[name]

    def extract_setting(self, name):
        return self.settings[name]


@pytest.mark.parametrize(
    ("settings", "elements", "message"),
    [
        ({"units": "real"}, ["Mo"], "LAMMPS' units metal; got units real"),
        ({"box_exist": 0}, ["Mo"], "the box must be defined before"),
        ({"ntypes": 2}, ["Mo"], "one element is needed for each of the 2 atom types, got Mo"),
        ({"molecule_flag": 1}, ["Mo"], "take special_bonds lj/coul 1 1 1"),
        ({}, ["Mx"], "elements must be chemical symbols, got 'Mx'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, elements, message):
    with pytest.raises(ValueError, match=message):
        attach(Settings(**settings), SchNet(8, 8, 1, 12, 4.0), elements, unit="eV")

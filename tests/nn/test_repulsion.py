"""Repulsion of close atoms: its formula, and that it is a part of models in every way they are called."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from pyg_schnet import SchNet
from pyg_schnet.data import to_data
from pyg_schnet.derivatives import energy_forces_stress, hessian
from pyg_schnet.engine import freeze
from pyg_schnet.models import join_ensemble, load, with_repulsion
from pyg_schnet.nn import DipoleReadout, ZBLRepulsion, smooth_switch, zbl_energy
from pyg_schnet.potential import Potential

CLOSE = Atoms("OCHN", [[0.0, 0.0, 0.0], [0.4, 0.1, 0.0], [0.0, -0.3, 0.2], [2.0, 2.0, 0.3]])


def schnet(**options):
    torch.manual_seed(0)
    return SchNet(16, 16, 2, 12, 4.0, **options).double().eval()


def by_hand(atoms, outer=0.8, inner=0.4, images=((0, 0, 0),)):
    """Sum over pairs, written with ``math`` alone."""
    total = 0.0
    for one in atoms:
        for other in atoms:
            for image in images:
                d = np.linalg.norm(other.position + np.array(image) @ atoms.cell.array - one.position)
                radii = covalent_radii[one.number] + covalent_radii[other.number]
                if not 0.0 < d < outer * radii:
                    continue
                x = d * (one.number**0.23 + other.number**0.23) / (0.8854 * 0.529177210903)
                phi = 0.18175 * math.exp(-3.1998 * x) + 0.50986 * math.exp(-0.94229 * x)
                phi += 0.28022 * math.exp(-0.4029 * x) + 0.02817 * math.exp(-0.20162 * x)
                u = min(max((d - inner * radii) / ((outer - inner) * radii), 0.0), 1.0)
                switch = 1 - 10 * u**3 + 15 * u**4 - 6 * u**5  # the polynomial of smootherstep, multiplied out
                total += 0.5 * 14.399645478 * one.number * other.number / d * phi * switch
    return total


def tensors(atoms):
    data = to_data(atoms, dtype=torch.float64)
    lattice = {"cell": data.cell, "pbc": data.pbc} if atoms.pbc.any() else {}
    return data.z, data.pos, lattice


def test_the_switch_has_two_continuous_derivatives():
    inner, outer = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    for end, value in ((1.0, 1.0), (2.0, 0.0)):
        d = torch.tensor([end - 1e-6, end + 1e-6], dtype=torch.float64, requires_grad=True)
        s = smooth_switch(d, inner, outer)
        (slope,) = torch.autograd.grad(s.sum(), d, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), d)
        torch.testing.assert_close(s, torch.full_like(s, value), rtol=0, atol=1e-12)
        assert slope.abs().max() < 1e-9
        assert bend.abs().max() < 1e-4


def test_derivatives_of_the_repulsion_are_differences():
    d = torch.linspace(0.05, 2.0, 20, dtype=torch.float64, requires_grad=True)
    z = torch.full((20,), 14)
    assert torch.autograd.gradcheck(lambda d: zbl_energy(d, z, z), d)
    assert torch.autograd.gradgradcheck(lambda d: zbl_energy(d, z, z), d)


@pytest.mark.parametrize("filters", ["auto", "exact"])
@pytest.mark.parametrize("readout", ["sum", "mean"])
@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_it_is_added_however_a_model_is_called(name, readout, filters):
    atoms = CLOSE.copy()
    images = [(0, 0, 0)]
    if name == "crystal":
        atoms.cell, atoms.pbc = [[1.2, 0.1, 0.0], [0.0, 4.0, 0.2], [0.3, 0.0, 5.0]], True
        images = list(np.ndindex(5, 5, 5) - np.array(2))
    z, pos, lattice = tensors(atoms)
    plain, model = schnet(readout=readout, filters=filters), schnet(readout=readout, filters=filters, repulsion=True)
    size = 1 if readout == "sum" else len(atoms)
    expected = plain(z, pos, **lattice).item() + by_hand(atoms, images=images) / size
    assert by_hand(atoms, images=images) > 10
    stress = bool(atoms.pbc.any())
    found = [model(z, pos, **lattice).item()]
    for one in (model, freeze(model)):
        found.append(energy_forces_stress(one, z, pos, **lattice, stress=stress).energy.item())
    model.backend = "reference"
    found.append(model(z, pos, **lattice).item())
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("filters", ["auto", "exact"])
@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_forces_and_stress_are_differences(name, filters):
    atoms, step = CLOSE.copy(), 1e-4
    atoms.cell = [[1.6, 0.1, 0.0], [0.0, 4.0, 0.2], [0.3, 0.0, 5.0]]
    atoms.pbc = name == "crystal"
    z, pos, _ = tensors(atoms)
    cell, pbc = torch.from_numpy(atoms.cell.array[None]), torch.from_numpy(atoms.pbc[None])
    model = schnet(filters=filters, repulsion={"outer": 0.9, "inner": 0.3})
    found = energy_forces_stress(freeze(model), z, pos, cell=cell, pbc=pbc, stress=True)

    def energy(pos, cell):
        return model(z, pos, cell=cell, pbc=pbc).item()

    def slope(change):
        moved = [energy(*change(size * step)) for size in (-2, -1, 1, 2)]
        return (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)

    for atom, axis in ((0, 0), (2, 1)):
        unit = torch.zeros_like(pos)
        unit[atom, axis] = 1.0
        expected = -slope(lambda size, unit=unit: (pos + size * unit, cell))
        assert found.forces[atom, axis].item() == pytest.approx(expected, rel=1e-6)
    for a, b in ((0, 0), (1, 2)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        expected = slope(lambda size, e=strain: (pos + size * pos @ e, cell + size * cell @ e))
        limit = 1e-6 * found.stress.abs().max().item()
        assert found.stress[0, a, b].item() == pytest.approx(expected / atoms.cell.volume, abs=limit)
    assert found.forces.sum(0).abs().max() < 1e-9 * found.forces.abs().max()
    assert torch.isfinite(hessian(model, z, pos)).all()


def test_it_is_added_beside_the_fast_program():
    model = schnet(repulsion=True)
    z, pos, _ = tensors(CLOSE)
    plan = model.plan(z, pos, forces=True)
    assert (plan.program, plan.reasons) == ("potential", ())
    far = 3.0 * pos
    assert torch.equal(energy_forces_stress(model, z, far).forces, energy_forces_stress(schnet(), z, far).forces)


def test_parts_of_atoms_have_their_share():
    model = schnet(repulsion=True)
    z, pos, _ = tensors(CLOSE)
    potential, graph = Potential(model, "kcal/mol"), {"batch_size": 1}
    energy = potential(z, pos).energy.item()
    assert potential.atom_energies(z, pos, **graph).sum().item() == pytest.approx(energy, rel=1e-12)
    cell, pbc = 9.0 * torch.eye(3, dtype=torch.float64)[None], torch.zeros(1, 3, dtype=torch.bool)
    stress = potential(z, pos, cell=cell, pbc=pbc, stress=True).stress[0]
    torch.testing.assert_close(potential.atom_virials(z, pos).sum(0), -stress * 729.0, rtol=1e-9, atol=1e-9)


def test_files_ensembles_and_units(tmp_path):
    z, pos, _ = tensors(CLOSE)
    plain = schnet()
    plain.card["unit"] = "kcal/mol"
    model = with_repulsion(plain, outer=0.7, inner=0.1)
    expected = plain(z, pos).item() + by_hand(CLOSE, 0.7, 0.1) * 23.060547830619
    assert model(z, pos).item() == pytest.approx(expected, rel=1e-6)
    again = load(model.save(tmp_path / "m.safetensors"))
    assert again(z, pos).item() == model(z, pos).item()
    assert (again.repulsion.outer, again.repulsion.inner) == (0.7, 0.1)
    assert "repulsion" not in plain.config
    assert join_ensemble([model, again])(z, pos).item() == pytest.approx(model(z, pos).item(), rel=1e-9)
    with pytest.raises(ValueError, match="must have the same repulsion"):
        join_ensemble([model, plain])
    with pytest.raises(ValueError, match="a repulsion of close atoms"):
        with_repulsion(schnet(activate_filters=False)).to_pyg()


def test_replaced_parts_are_called():
    class Twice(ZBLRepulsion):
        def forward(self, *args):
            return 2 * super().forward(*args)

    model = schnet(repulsion=True)
    z, pos, _ = tensors(CLOSE)
    base = schnet()(z, pos).item()
    once = energy_forces_stress(model, z, pos).energy.item() - base
    model.repulsion = Twice().double()
    assert energy_forces_stress(model, z, pos).energy.item() - base == pytest.approx(2 * once)
    assert model(z, pos).item() - base == pytest.approx(2 * once)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repulsion": True, "readout": "dipole"}, "added to energies"),
        ({"repulsion": True, "out_channels": 2}, "one property"),
        ({"repulsion": "zbl"}, "must be True, False or a dictionary"),
        ({"repulsion": {"range": 1.0}}, "outer and inner, got range"),
        ({"repulsion": {"outer": 0.3}}, "less than outer"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    if options.get("readout") == "dipole":
        options = {**options, "readout": DipoleReadout(16)}
    with pytest.raises(ValueError, match=message):
        SchNet(16, 16, 2, **options)

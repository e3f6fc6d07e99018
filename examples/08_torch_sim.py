"""Many structures at once with torch-sim: relaxations of different molecules, and a bundle of trajectories.

Run: python examples/08_torch_sim.py --replicas 50 --steps 1000          (needs: pip install "pyg_schnet[torchsim]")
"""

import argparse
import time

import ase.io
import numpy as np
import torch
import torch_sim

from pyg_schnet.interfaces.torchsim import TorchSimModel

INTEGRATORS = getattr(torch_sim, "Integrator", torch_sim)  # versions before 0.4 have functions instead of a list
OPTIMIZERS = getattr(torch_sim, "Optimizer", torch_sim.optimizers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="rmd17-aspirin", help="model file of energies, or a pretrained one")
    parser.add_argument("--structure", default="examples/aspirin.xyz", help="any file that ASE reads")
    parser.add_argument("--replicas", type=int, default=8, help="number of trajectories")
    parser.add_argument("--temperature", type=float, default=300.0, help="temperature in K")
    parser.add_argument("--timestep", type=float, default=0.5, help="time step in fs")
    parser.add_argument("--steps", type=int, default=100, help="number of steps")
    parser.add_argument("--seed", type=int, default=0, help="of velocities and displacements")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    model = TorchSimModel(options.model, compute_stress=False)
    atoms = ase.io.read(options.structure, index=0)
    relax(model, atoms, options)
    propagate(model, atoms, options)


def relax(model, atoms, options):
    """Relax displaced copies, all at once; those that have converged leave the batch."""
    start = []
    for k in range(4):
        start.append(atoms.copy())
        start[-1].rattle(0.05, seed=options.seed + k)
    final = torch_sim.optimize(
        start,
        model,
        optimizer=OPTIMIZERS.fire,
        convergence_fn=torch_sim.generate_force_convergence_fn(0.05, include_cell_forces=False),
        max_steps=300,
        steps_between_swaps=10,
    )
    before = model(torch_sim.io.atoms_to_state(start, model.device, model.dtype))["energy"]
    found = model(torch_sim.io.atoms_to_state(final.to_atoms(), model.device, model.dtype))
    for k, (gain, forces) in enumerate(zip(before - found["energy"], found["forces"].split(len(atoms)), strict=True)):
        print(f"copy {k}: relaxed by {gain:.3f} eV, forces up to {forces.norm(dim=1).max():.3f} eV/Å")


def propagate(model, atoms, options):
    """Langevin dynamics of all replicas, each with its own noise."""
    start = time.perf_counter()
    final = torch_sim.integrate(
        [atoms.copy() for _ in range(options.replicas)],
        model,
        integrator=INTEGRATORS.nvt_langevin,
        n_steps=options.steps,
        temperature=options.temperature,
        timestep=1e-3 * options.timestep,  # ps
    )
    seconds = time.perf_counter() - start
    momenta = final.momenta.double().cpu().numpy()
    doubled = (momenta**2).sum(1) / final.masses.double().cpu().numpy()
    temperatures = doubled.reshape(options.replicas, -1).sum(1) / (
        3 * len(atoms) * torch_sim.units.MetalUnits.temperature
    )
    rate = options.replicas * options.steps / seconds
    print(f"{options.replicas} replicas, {options.steps} steps of {options.timestep} fs: {rate:.0f} steps/s together")
    spread = np.std(temperatures)
    print(f"temperature {temperatures.mean():.0f} K on average, {spread:.0f} K between replicas, at the end")


if __name__ == "__main__":
    main()

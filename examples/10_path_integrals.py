"""Nuclear quantum effects with i-PI: the kinetic energy of a molecule, classical and with path integrals.

All beads of a step are evaluated in one batch. Classical nuclei have 3/2 kT each; quantum ones more, hydrogen above
all, since zero-point energy of stiff bonds does not depend on temperature.

Run: python examples/10_path_integrals.py --steps 2000          (needs: pip install "pyg_schnet[ipi]")
"""

import argparse
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import units

from pyg_schnet.interfaces.ipi import pes_file

INPUT = """<simulation verbosity='quiet'>
  <output prefix='beads_{beads}'>
    <properties filename='out' stride='1' flush='1'>
      [step, conserved{{electronvolt}}, temperature{{kelvin}}, kinetic_cv{{electronvolt}}, potential{{electronvolt}}]
    </properties>
  </output>
  <total_steps>{steps}</total_steps>
  <prng><seed>{seed}</seed></prng>
  <ffdirect name='schnet' pbc='false'>
    <pes>custom</pes>
    <pes_path>{pes_file}</pes_path>
    <batch_size>{beads}</batch_size>
    <parameters>{{template: {template}, model: {model}, dtype: {dtype}}}</parameters>
  </ffdirect>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='ase'>{template}</file>
      <cell mode='abc' units='angstrom'>[60, 60, 60]</cell>
      <velocities mode='thermal' units='kelvin'>{temperature}</velocities>
    </initialize>
    <forces><force forcefield='schnet'/></forces>
    <ensemble><temperature units='kelvin'>{temperature}</temperature></ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'>{timestep}</timestep>
        <thermostat mode='pile_g'>
          <tau units='femtosecond'>25</tau>
          <pile_lambda>0.5</pile_lambda>
        </thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="rmd17-aspirin", help="model file of energies, or a pretrained one")
    parser.add_argument("--structure", default="examples/aspirin.xyz", help="a molecule, in a file that ASE reads")
    parser.add_argument(
        "--beads", type=int, nargs="+", default=[1, 16], help="numbers of beads, 1 for classical nuclei"
    )
    parser.add_argument("--temperature", type=float, default=300.0, help="temperature in K")
    parser.add_argument("--timestep", type=float, default=0.25, help="time step in fs")
    parser.add_argument("--steps", type=int, default=200, help="number of steps")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="precision of the network")
    parser.add_argument("--seed", type=int, default=0, help="of velocities and noise")
    parser.add_argument("--output", type=Path, default=Path("path_integrals"), help="folder of inputs and outputs")
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    atoms = ase.io.read(options.structure, index=0)
    template = (options.output / "template.xyz").resolve()
    atoms.positions -= atoms.get_center_of_mass()
    ase.io.write(template, atoms, format="extxyz", columns=["symbols", "positions"])
    model = Path(options.model).resolve() if Path(options.model).is_file() else options.model
    classical = 1.5 * units.kB * options.temperature
    for beads in options.beads:
        given = {**vars(options), "beads": beads, "template": template, "model": model, "pes_file": pes_file()}
        table = run(options.output, beads, INPUT.format(**given))
        late = table[len(table) // 2 :]
        kinetic = late[:, 3].mean() / len(atoms)
        print(
            f"{beads:2d} beads: {1e3 * kinetic:.0f} meV of kinetic energy an atom, {kinetic / classical:.2f} times "
            f"3/2 kT; potential energy {late[:, 4].mean() - table[0, 4]:+.2f} eV from where it began"
        )


def run(folder, beads, text):
    """Run i-PI, and read its table of properties."""
    path = folder / f"beads_{beads}.xml"
    path.write_text(text)
    command = [sys.executable, Path(sys.executable).with_name("i-pi"), path.name]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return np.loadtxt(folder / f"beads_{beads}.out", ndmin=2)


if __name__ == "__main__":
    main()

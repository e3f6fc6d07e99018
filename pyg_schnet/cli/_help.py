"""What ``--help`` says: one screen for each command, with examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

EXAMPLES = {
    "doctor": """examples:
  pyg-schnet doctor
  pyg-schnet doctor --json doctor.json  # to go with a report of a mistake
  pyg-schnet doctor --speed false""",
    "report": """examples:
  pyg-schnet report runs/U0-20260101-120000
  pyg-schnet report runs/U0-20260101-120000 --output U0.pdf --data_dir FOLDER
  pyg-schnet report runs/U0-20260101-120000 --structures 0  # curves alone, of a running run too""",
    "test": """examples:
  pyg-schnet test runs/U0-20260101-120000/model.safetensors
  pyg-schnet test perovskites --data_dir FOLDER""",
    "predict": """examples:
  pyg-schnet predict molecule.xyz --model qm9-u0
  pyg-schnet predict crystals.cif --model mp-formation-energy --output energies.csv
  pyg-schnet predict frames.xyz --model rmd17-aspirin --output out.xyz --forces""",
    "md": """examples:
  pyg-schnet md aspirin.xyz --model rmd17-aspirin --picoseconds 10 --temperature 300
  pyg-schnet md crystal.cif --model model.safetensors --steps 20000 --ensemble npt --pressure 1
  pyg-schnet md aspirin.xyz --model rmd17-aspirin --picoseconds 20 --resume""",
    "relax": """examples:
  pyg-schnet relax aspirin.xyz --model rmd17-aspirin --fmax 0.01
  pyg-schnet relax crystals.xyz --model run/model.safetensors --cell --optimizer bfgs
  pyg-schnet relax molecules.xyz --model '[a.safetensors,b.safetensors]' --batch 100""",
    "reference-data": """examples:
  pyg-schnet reference-data train --qm9 20000 --leave_out '[gdb_14, 3bpa.xyz]' --processes 2
  pyg-schnet reference-data test --qm9 500 --part test --kinds '{langevin: 4}'
  pyg-schnet reference-data aspirin --relabel frames.xyz --pbc false""",
    "merge": """examples:
  pyg-schnet merge '[runs/seed-0, runs/seed-1]' --run_dir runs/mean
  pyg-schnet merge '[runs/seed-0, runs/seed-1]' --run_dir runs/mean --data_dir FOLDER
  pyg-schnet merge '[runs/A, runs/B, runs/C]' --run_dir runs/three --committee --storage float16""",
    "lammps": """examples:
  pyg-schnet lammps in.melt --model runs/Mo/model.safetensors
  mpiexec -n 4 pyg-schnet lammps in.melt --model runs/Mo/model.safetensors --precision float32
  pyg-schnet lammps in.melt --model runs/Mo/model.safetensors --lammps_options='-var T 300'""",
    "audit": """examples:
  pyg-schnet audit qm9-u0
  pyg-schnet audit runs/U0-20260101-120000/model.safetensors frames.xyz --json audit.json
  pyg-schnet audit rmd17-aspirin --checks "smooth energy" "smooth force" dynamics""",
    "analyze probe": """example:
  pyg-schnet analyze probe molecule.xyz --model qm9-u0 --probe H""",
    "analyze embedding": """examples:
  pyg-schnet analyze embedding mp-formation-energy
  pyg-schnet analyze embedding mp-formation-energy --elements '[Li, Na, K, F, Cl, Br]'""",
    "analyze dimer": """example:
  pyg-schnet analyze dimer C O --model rmd17-aspirin --output dimer.npz""",
    "analyze modes": """example:
  pyg-schnet analyze modes aspirin.xyz --model rmd17-aspirin""",
    "analyze spectrum": """examples:
  pyg-schnet analyze spectrum aspirin.xyz --model rmd17-aspirin --picoseconds 10
  pyg-schnet analyze spectrum trajectory.traj --timestep 0.5""",
    "analyze filters": """example:
  pyg-schnet analyze filters qm9-u0 --interaction 2""",
}
"""Examples of each command; all of them have one."""

TRAIN = """usage: pyg-schnet train [--OPTION VALUE ...]

Train, test with the best weights, and save the model with its errors. Without options: SchNet on
110,000 molecules of QM9 (U0) for five minutes. These are the main options; --help_all lists all of
them, and --print_config writes them as a file for --config.

  --config FILE                 options from a file; options after it override it
  --run_dir FOLDER              folder of the run; default runs/TARGET-DATE-TIME
  --resume FILE                 checkpoint to continue from, RUN_DIR/checkpoints/last.ckpt
  --start_from MODEL            trained model (file or name) to start from
  --data_dir FOLDER             folder with the files of the data sets
  --seed_everything N           seed of weights and batches; default 0
  --data.dataset CLASS          pyg_schnet.data.QM9, AtomsDataset (any file of ASE), MD17, ...
  --data.dataset.source FILE    its file; --data.dataset.help CLASS explains its other options
  --data.target NAME            property to learn; default U0
  --data.num_train N            structures; also --data.num_val, .num_test, .batch_size, .split
  --model CLASS                 pyg_schnet.train.PropertyTask, PotentialTask (forces), RelaxedTask;
                                --model.help CLASS explains their options
  --model.lr RATE               largest learning rate; also --model.loss, .schedule, .warmup
  --model.network CLASS         pyg_schnet.SchNet, DTNN, ...; --model.init_args.network.help CLASS
  --model.network.cutoff LENGTH in Å; also .hidden_channels, .num_interactions, .readout, ...
  --trainer.max_time TIME       as 00:00:05:00, the default; also .max_epochs, .max_steps, .devices
  --early_stopping.patience N   epochs without a better validation loss; default 50

examples:
  pyg-schnet train --data.target mu --model.network.readout dipole --trainer.max_time 00:02:00:00
  pyg-schnet train --data.dataset pyg_schnet.data.AtomsDataset --data.dataset.source frames.xyz \\
      --data.target energy --model pyg_schnet.train.PotentialTask --data.num_train 900
  pyg-schnet train --config runs/U0/config.yaml --resume runs/U0/checkpoints/last.ckpt
"""
"""Help of ``pyg-schnet train``, whose options are more than a thousand lines."""

MD = f"""usage: pyg-schnet md STRUCTURE --model MODEL [--OPTION VALUE ...]

Molecular dynamics of the first structure of a file. The exit status is 0 at the end, 3 for a state
that is not physical (the last good one is kept), and 128 + N after a signal N, which saves first.

  --model MODEL                 model file or name; several, as [a.safetensors,b.safetensors]
  --steps N, --picoseconds T    length, one of the two; with what was done before an interruption
  --output FILE                 trajectory, .xyz or .traj, and log (.csv) beside it; default md.xyz
  --resume                      go on from the checkpoint beside it; the same to the last bit
  --ensemble NAME               nve, langevin (default), nose-hoover, npt or npt-anisotropic
  --timestep T                  in fs; default 0.5
  --temperature T               in K; default 300
  --pressure P                  in GPa; default 0
  --friction F                  of langevin in 1/fs; default 0.01
  --thermostat_time T           in fs, of nose-hoover and npt; default 100 steps
  --barostat_time T             in fs, of npt; default 1,000 steps
  --new_velocities              draw velocities, also where the file has some
  --seed N                      of velocities and random forces; default 0
  --log_interval N              steps between lines; default 100; also --trajectory_interval 100
  --checkpoint_interval N       steps between checkpoints; default 1000
  --max_force F                 stop at a larger force in eV/Å; default 100
  --max_temperature T           stop above, in K; default ten times --temperature, at least 5,000
  --min_distance X              stop at atoms closer than this part of the shortest distance of such
                                atoms in the training data; default 0.9, 0 for never
  --max_spread F                stop where models of a committee differ by more, in eV/Å; with
                                --spread_action flag go on, and mark such frames
  --untrained_forces true       go on with a model that was trained on energies alone
  --dtype TYPE                  float64 (default) or float32; also --device cpu, --threads N

{EXAMPLES["md"]}
"""
"""Help of ``pyg-schnet md``, whose options would not fit on a screen one by one."""

RELAX = f"""usage: pyg-schnet relax STRUCTURES --model MODEL [--OPTION VALUE ...]

Relax the structures of a file, one by one or many at once; atoms that it fixes stay. They are
written with energy, forces and whether they converged. The exit status is 3 where one has not.

  --model MODEL                 model file or name; several, as [a.safetensors,b.safetensors]
  --output FILE                 .xyz, .extxyz or .traj; default relaxed.xyz
  --cell                        relax the cell, too
  --batch N                     structures that move together, by fire; default 1
  --fmax F                      largest force at the end in eV/Å; default 0.05
  --steps N                     largest number of steps; default 500
  --optimizer NAME              fire (default), bfgs, lbfgs, bfgs-line-search
  --pressure P                  on the cell in GPa; default 0
  --max_force F                 give a structure up at a larger force in eV/Å; default 1000
  --min_distance X              give a structure up whose atoms are closer than this part of
                                the shortest distance of such atoms in training; default 0, never
  --untrained_forces true       go on with a model that was trained on energies alone
  --dtype TYPE                  float64 (default) or float32; also --device cpu, --threads N

{EXAMPLES["relax"]}
"""
"""Help of ``pyg-schnet relax``."""

REFERENCE_DATA = f"""usage: pyg-schnet reference-data FOLDER [--OPTION VALUE ...]

Energies and forces (GFN2-xTB) of geometries of molecules, in shards for training by
pyg_schnet.data.ReferenceData. The same command goes on where it was ended; data do not depend
on the number of processes.

  --qm9 N                       molecules of QM9, in random order after the first --held_out (2000)
  --part test                   of those that are held out; default train
  --leave_out NAMES             further ones to leave out: [gdb_14, 3bpa.xyz]
  --files FILES, --index ":"    molecules of files, and which of their structures
  --smiles SMILES               or files of them, by RDKit; --conformers N
  --exchange ELEMENTS           in one to three atoms of each molecule: {{O: S, N: P, F: Cl}}
  --relabel FILES               label structures as they are; --pbc false for molecules in a box
  --kinds KINDS                 numbers for each molecule, by default
                                {{given: 1, relaxed: 0.5, modes: 8, langevin: 2, bonds: 1,
                                torsions: 1.5, fragments: 1.5, pairs: 1.5,
                                dimers: 24 (of each pair of elements)}}
  --temperature RANGE           in K; default [300, 1000]
  --every N, --timestep T       of langevin: steps between frames, 5, of 1 fs; --friction 0.02
  --max_force F                 leave out larger forces in eV/Å; default 20
  --max_energy E                and energies as much above the molecule's, in eV/atom; default 1
  --pair_atoms N                most atoms of a pair of molecules; default 26
  --method NAME                 GFN2-xTB, GFN1-xTB, IPEA1-xTB, or the class of a calculator of ASE;
                                --method_options '{{accuracy: 0.1}}', --charge 0
  --repeats N                   take each molecule N times, with other random numbers
  --shard_size N                molecules in a shard, lost if the process is killed; default 50
  --processes N                 default 1; also --seed 0, --qm9_dir FOLDER

{EXAMPLES["reference-data"]}
"""
"""Help of ``pyg-schnet reference-data``."""

ANALYZE = """usage: pyg-schnet analyze ANALYSIS [--OPTION VALUE ...]

Look inside a model. Each analysis writes arrays and a picture.

analyses (pyg-schnet analyze ANALYSIS --help explains the options of each):
{analyses}

examples:
  pyg-schnet analyze modes aspirin.xyz --model rmd17-aspirin
  pyg-schnet analyze embedding mp-formation-energy
"""
"""Help of ``pyg-schnet analyze``."""


def summary_of(function: Callable[..., object]) -> str:
    """First paragraph of a docstring, on one line.

    Example:
        >>> summary_of(summary_of)
        'First paragraph of a docstring, on one line.'
    """
    import inspect  # not needed for pyg-schnet --help

    return " ".join(str(inspect.getdoc(function)).split("\n\n")[0].split())


def help_of_analyze(analyses: Mapping[str, Callable[..., object]]) -> str:
    """Help of ``pyg-schnet analyze``.

    Args:
        analyses: Functions by their names.
    """
    import textwrap

    texts = [f"  {name:<9} {summary_of(one)}" for name, one in analyses.items()]
    lines = [textwrap.fill(text, width=98, subsequent_indent=12 * " ") for text in texts]
    return ANALYZE.format(analyses="\n".join(lines))

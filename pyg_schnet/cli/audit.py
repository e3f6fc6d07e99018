"""``pyg-schnet audit``: whether a model is a sound potential, a table of deviations, bounds and verdicts."""

from __future__ import annotations

import argparse
import sys

from pyg_schnet.cli._help import EXAMPLES
from pyg_schnet.cli._outputs import check_output
from pyg_schnet.cli._packages import import_for
from pyg_schnet.cli._parser import Parser
from pyg_schnet.cli._prepare import prepare_torch


def run(args: list[str]) -> None:
    """Run the command with its arguments; exits with 1 if a check failed."""
    options = _parser().parse_args(args)
    path = None if options.json is None else check_output(options.json, endings=(".json",))
    testing = import_for("audit", "pyg_schnet.testing", quickly=True)
    reader = import_for("audit", "pyg_schnet.data.ase_files", quickly=True)
    prepare_torch()
    images = None
    if options.structures is not None:
        images = [atoms for _, atoms in reader.read_all(options.structures, ":", None)]
    report = testing.audit(options.model, images, unit=options.unit, cutoff=options.cutoff, checks=options.checks)
    print(report)
    if path is not None:
        print(f"\nreport written to {report.write_json(path)}")
    sys.exit(not report.passed)


def _parser() -> argparse.ArgumentParser:
    """Options; the file of structures may be left out, which jsonargparse has no functions for."""
    parser = Parser(
        "audit",
        "Check a model as a potential: neighbours, smoothness at the cutoff, invariances, batches, forces, stress, "
        "precision and dynamics. Prints a table of deviations, bounds and verdicts; the exit status is 0 if no check "
        "failed and 1 otherwise.",
    )
    parser.add_argument("model", help="model file, or the name of a pretrained model")
    parser.add_argument(
        "structures",
        nargs="?",
        metavar="FILE",
        help="structures in any file that ASE reads; without it water, ethanol, a cluster, crystals and a slab",
    )
    parser.add_argument("--checks", nargs="+", metavar="NAME", help="checks to run, by their names in the table")
    parser.add_argument("--cutoff", type=float, help="cutoff in Å, if the model does not define it")
    parser.add_argument("--unit", help="unit of energies, if the model does not define it")
    parser.add_argument("--json", metavar="FILE", help="file (.json) to write the report to")
    parser.epilog = EXAMPLES["audit"]
    return parser

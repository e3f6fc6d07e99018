"""``pyg-schnet audit``: whether a model is a sound potential, a table of deviations, bounds and verdicts."""

from __future__ import annotations

import sys

import jsonargparse

from pyg_schnet.cli._options import prepare_torch, readable_errors
from pyg_schnet.cli._packages import import_for


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    with readable_errors("audit"):
        parser = jsonargparse.ArgumentParser(prog="pyg-schnet audit", exit_on_error=False)
        parser.add_function_arguments(audit_model, as_positional=True, skip={"structures"})
        words = "file of structures that ASE reads; by default water, ethanol, a dense cluster, crystals and a slab"
        parser.add_argument("structures", nargs="?", type=str, help=words)
        options = parser.parse_args(args).as_dict()
        import_for("audit", "pyg_schnet.testing", quickly=True)
        prepare_torch()
        passed = audit_model(**options)
    sys.exit(not passed)


def audit_model(
    model: str,
    structures: str | None = None,
    *,
    checks: list[str] | None = None,
    cutoff: float | None = None,
    unit: str | None = None,
    json: str | None = None,
) -> bool:
    """Check neighbours, smoothness, invariances, derivatives, precision and dynamics of a model.

    The exit status is 0 where no check fails and 1 otherwise.

    Args:
        model: Model file, or the name of a pretrained model.
        structures: File of structures.
        checks: Names of the checks to run, as "[rotation,smooth force]"; by default all, as the table names them.
        cutoff: Cutoff in Å, where the model does not know it.
        unit: Unit of energies, where the model does not know it.
        json: File to write the report to as well.
    """
    from pyg_schnet.data.ase_files import read_all
    from pyg_schnet.testing import audit

    images = None if structures is None else [atoms for _, atoms in read_all(structures, ":", None)]
    report = audit(model, images, unit=unit, cutoff=cutoff, checks=checks)
    print(report)
    if json is not None:
        print(f"\nreport written to {report.write_json(json)}")
    return report.passed

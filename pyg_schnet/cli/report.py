"""``pyg-schnet report``: one picture of a run."""

from __future__ import annotations

from pyg_schnet.cli._options import run_function


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    run_function("report", report_run, args, needs=["pyg_schnet.plotting", "pyg_schnet.cli._reporting"])


def report_run(
    run: str,
    *,
    output: str | None = None,
    config: str | None = None,
    data_dir: str | None = None,
    structures: int = 5000,
    batch_size: int = 250,
) -> None:
    """Draw a finished or running run: curves, predictions beside labels, errors by element and by size.

    Args:
        run: Folder of the run.
        output: Picture to write, .png, .svg or .pdf; by default report.png in the folder of the run.
        config: Configuration with the data set; by default config.yaml of the run, or the one in the model file.
        data_dir: Folder with the files of the data sets.
        structures: Largest number of test structures to predict, chosen at random; 0 draws only the curves.
        batch_size: Structures in a batch.
    """
    from pyg_schnet.cli import _reporting

    _reporting.report_run(run, output, config, data_dir, structures, batch_size)

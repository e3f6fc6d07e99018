"""``pyg-schnet merge``: the models of several runs as one."""

from __future__ import annotations

from pyg_schnet.cli._options import run_function


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    run_function("merge", merge_runs, args, needs=["pyg_schnet.cli._merging"])


def merge_runs(runs: list[str], *, run_dir: str, data_dir: str | None = None, batch_size: int = 250) -> None:
    """One model whose output is the mean of those of several runs, tested on structures that none was trained on.

    Args:
        runs: Folders of the runs, which differ in their seeds.
        run_dir: New folder for the model, its result and configuration.
        data_dir: Folder with the files of the data sets.
        batch_size: Structures in a batch.
    """
    from pyg_schnet.cli import _merging

    _merging.merge_runs(runs, run_dir, data_dir, batch_size)

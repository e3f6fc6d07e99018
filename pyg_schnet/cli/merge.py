"""``pyg-schnet merge``: the models of several runs as one."""

from __future__ import annotations

from pyg_schnet.cli._options import run_function


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    run_function("merge", merge_runs, args, needs=["pyg_schnet.cli._merging"])


def merge_runs(runs: list[str], *, run_dir: str, data_dir: str | None = None, batch_size: int = 250) -> None:
    """One model whose output is the mean of those of several runs, tested on the structures that none has learned from.

    Args:
        runs: Folders of the runs, which differ in their seeds.
        run_dir: Folder for model, result and what is needed to test it again; a new one.
        data_dir: Folder of the files that the data sets name.
        batch_size: Structures in a batch.
    """
    from pyg_schnet.cli import _merging

    _merging.merge_runs(runs, run_dir, data_dir, batch_size)

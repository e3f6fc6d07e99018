"""``pyg-schnet merge``: the models of several runs as one."""

from __future__ import annotations

from typing import Literal

from pyg_schnet.cli._options import run_function, with_flags


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    run_function("merge", merge_runs, with_flags(args, ("--committee",)), needs=["pyg_schnet.cli._merging"])


def merge_runs(
    runs: list[str],
    *,
    run_dir: str,
    committee: bool = False,
    storage: Literal["float16"] | None = None,
    data_dir: str | None = None,
    batch_size: int = 250,
) -> None:
    """One model whose output is the mean of those of several runs, tested on structures that none was trained on.

    Args:
        runs: Folders of runs on one split, of several seeds or recipes.
        run_dir: New folder for the model, its result and configuration.
        committee: Whether the file keeps the models apart, so that their spread says how sure their mean is; it is
            calibrated on the validation structures, the test structures say how well.
        storage: float16 stores weights in half the room; the card says what it adds to the errors.
        data_dir: Folder with the files of the data sets.
        batch_size: Structures in a batch.
    """
    from pyg_schnet.cli import _merging

    _merging.merge_runs(runs, run_dir, committee, storage, data_dir, batch_size)

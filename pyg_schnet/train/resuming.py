"""Runs that end before their time, and go on later."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from pyg_schnet.data import Split
from pyg_schnet.train.files import CONFIG_FILE, SPLIT_FILE


def interruption(trainer: Trainer, error: SystemExit, run_dir: Path) -> str | None:
    """Sentence on a run that a signal ended, and on how it goes on; ``None`` where it was no signal.

    Args:
        trainer: Trainer of the run.
        error: What it raised.
        run_dir: Folder of the run.
    """
    if not isinstance(error, SIGTERMException) and not trainer.interrupted:
        return None
    signal = "SIGTERM" if isinstance(error, SIGTERMException) else "Ctrl-C"
    last = run_dir / "checkpoints" / "last.ckpt"
    config = run_dir / CONFIG_FILE
    return f"ended by {signal}" + (f"; for more, --config={config} --resume={last}" if last.is_file() else "")


def clear(run_dir: Path) -> None:
    """Remove what a run has left that was refused before its first checkpoint."""
    for name in (CONFIG_FILE, SPLIT_FILE):
        (run_dir / name).unlink(missing_ok=True)
    for name in ("logs", "checkpoints"):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    if not any(run_dir.iterdir()):
        run_dir.rmdir()


def is_missing(split: Any) -> bool:
    """Whether options name a file of a split that is not there."""
    return isinstance(split, (str, os.PathLike)) and not Path(split).is_file()


def check_split(path: Path, split: Split) -> None:
    """Raise unless a run goes on with the structures that it began with.

    Args:
        path: File of its split; where there is none, nothing is known.
        split: Split of the data at hand.

    Raises:
        ValueError: If it is another one, or one of other structures.
    """
    if not path.is_file():
        return
    before = Split.load(path)
    if None not in (before.fingerprint, split.fingerprint) and before.fingerprint != split.fingerprint:
        raise ValueError(
            f"the structures of the data, or their order, are not those of {path}, so the run would learn from its "
            "test structures; give the folder of the data it began with (--data_dir)"
        )
    if any(not np.array_equal(getattr(before, name), getattr(split, name)) for name in ("train", "val", "test")):
        raise ValueError(
            f"the options of the data give another split than {path}, so the run would learn from its test structures; "
            f"resume it with its own options, or with --data.split={path}"
        )

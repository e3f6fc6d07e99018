"""Runs that end before their time, and go on later."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.files import CHECKPOINTS, CONFIG_FILE, MODEL_FILE, RESULT_FILE
from pyg_schnet.train.last_checkpoint import is_within_epoch
from pyg_schnet.train.origin import check_origin, origin_of
from pyg_schnet.train.signals import Ended
from pyg_schnet.train.team import Lost


class Begun(Callback):
    """Notes that training begins, after everything that a checkpoint holds has been read; true from then on.

    Args:
        then: What to do at that moment, such as to write what must not be written before.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._is_begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called by the trainer."""
        self._is_begun = True
        self._then()

    def __bool__(self) -> bool:
        return self._is_begun


def interruption(error: SystemExit, run_dir: str | os.PathLike[str]) -> tuple[int, str]:
    """Exit code of a run that a signal ended, and a sentence on how it goes on.

    Args:
        error: :class:`pyg_schnet.train.signals.Ended`, or Lightning's ``SIGTERMException``; or
            :class:`pyg_schnet.train.team.Lost`, where another process of the run has ended.
        run_dir: Folder of the run.
    """
    ended: Any = error
    if isinstance(error, Lost):
        name, code = f"the loss of a process ({error.reason})", 1
    else:
        name, code = (ended.name, ended.code) if isinstance(error, Ended) else ("SIGTERM", 128 + signal.SIGTERM)
    config, last = Path(run_dir) / CONFIG_FILE, Path(run_dir) / CHECKPOINTS / "last.ckpt"
    if not config.is_file():
        return code, f"ended by {name} before training began; give the same command again"
    words = [f"--config={config}", *([f"--resume={last}"] if last.is_file() else [])]
    return code, f"ended by {name}; to go on:\n\n    pyg-schnet train {shlex.join(words)}\n"


def is_taken(run_dir: Path) -> bool:
    """Whether something in a folder would be lost if a run began there; options alone are no loss."""
    return any((run_dir / CHECKPOINTS).glob("*.ckpt")) or any(
        (run_dir / name).exists() for name in (MODEL_FILE, RESULT_FILE)
    )


def may_begin_again(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint that is not there is one of a run that was ended before its first one.

    Args:
        checkpoint: The missing file, ``RUN_DIR/checkpoints/last.ckpt``.
    """
    folder = Path(os.path.abspath(checkpoint)).parent
    return folder.name == CHECKPOINTS and (folder.parent / CONFIG_FILE).is_file() and not is_taken(folder.parent)


def is_missing(split: Any) -> bool:
    """Whether options name a file of a split that is not there."""
    return isinstance(split, (str, os.PathLike)) and not Path(split).is_file()


def check_same_run(path: str | os.PathLike[str], checkpoint: dict[str, Any], data: StructureDataModule) -> None:
    """Raise unless a run goes on with the target and the structures that it began with.

    Args:
        path: File of the checkpoint.
        checkpoint: What is in it.
        data: Data module of the options at hand.

    Raises:
        ValueError: If the checkpoint is of another run, or does not say; the message says what differs.
    """
    kept = checkpoint.get(type(data).__qualname__)
    if not isinstance(kept, dict) or not {*origin_of(data)} <= {*kept}:
        raise ValueError(f"{path} does not say which structures its run has learned from, so that it cannot go on")
    folder = Path(path).parent
    run_dir = str(folder.parent) if folder.name == CHECKPOINTS else "RUN_DIR"
    check_origin(kept, origin_of(data), run_dir, within_epoch=is_within_epoch(checkpoint))


@contextlib.contextmanager
def leaving_nothing(run_dir: Path, resume: str | None, begun: Begun) -> Iterator[None]:
    """Remove what a ``with`` block has made in the folder of a run, where the run is refused.

    It is where it fails before it has begun, or, if it is new, before its first checkpoint. Other errors are those of
    programs, and what they leave may help to find them.

    Args:
        run_dir: Folder of the run.
        resume: Checkpoint to go on from.
        begun: Whether training has begun.

    Raises:
        ValueError: If the checkpoint does not fit what the options make.
    """
    before = {*run_dir.rglob("*")}
    try:
        yield
    except (ValueError, MisconfigurationException, Ended) as error:
        is_new = resume is None and not isinstance(error, Ended) and not is_taken(run_dir)
        if not begun or is_new:
            _remove_all_but(before, run_dir)
        raise
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        if resume is None or begun:
            raise
        _remove_all_but(before, run_dir)
        reason = " ".join(str(error).split())
        raise ValueError(f"{resume} does not fit these options ({type(error).__name__}: {reason})") from error


def _remove_all_but(kept: set[Path], folder: Path) -> None:
    for path in sorted({*folder.rglob("*")} - kept, reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()

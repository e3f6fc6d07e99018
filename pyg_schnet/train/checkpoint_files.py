"""How checkpoints get to the disk, and back."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pyg_schnet.models.writing import write_whole


def load_whole(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Read what ``torch.save`` wrote, if its bytes are those that were written; nothing in it is executed.

    Torch itself does not compare the check sums of tensors, so one byte that has flipped would be other weights.

    Args:
        path: The file.
        map_location: Where tensors go, as ``torch.load`` takes it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a check sum differs.
        Exception: Whatever readers of foreign or damaged bytes run into.
    """
    with zipfile.ZipFile(path) as file:
        if (name := file.testzip()) is not None:
            raise ValueError(f"{path} is damaged: the check sum of {name} differs")
    return torch.load(path, map_location=map_location, weights_only=True)


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's files of checkpoints, each of which is whole at every moment; a failed save does not end the run.

    Lightning writes to the folder for temporary files and moves from there, which is no single step where the run is on
    another file system. What cannot be written, because the disk is full or away, is kept in memory, said once, and
    tried again before anything newer is written, so that files on the disk never contradict each other. Nothing but
    tensors and plain values is read.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, memoryview] = {}  # by path, the oldest first

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, and before it those that could not be written."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        name = os.fspath(path)
        had_to_wait = bool(self.waiting)
        self.waiting[name] = buffer.getbuffer()  # takes the place of an older one of that name
        if error := self.write_waiting():
            if not had_to_wait:
                print(
                    f"Checkpoint not saved: {error}; the one before is kept, training goes on, and each save tries "
                    "again. Make room before the run ends",
                    flush=True,
                )
        elif had_to_wait:
            print(f"Checkpoints are saved again: {name}", flush=True)

    def write_waiting(self) -> OSError | None:
        """Write what could not be written before, in order.

        Returns:
            Why that failed; ``None`` where everything is on the disk.
        """
        for name in list(self.waiting):
            try:
                os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
                write_whole(name, self.waiting[name])
            except OSError as error:
                return error
            del self.waiting[name]
        return None

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; see :func:`load_whole`."""
        return load_whole(path, map_location or (lambda storage, _: storage))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint that is no longer among the best."""
        self.waiting.pop(os.fspath(path), None)
        super().remove_checkpoint(os.fspath(path))

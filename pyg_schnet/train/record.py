"""What a run was: how long it took, what it went through, and with which code."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from pyg_schnet.pretrained import VERSION


class RunRecord(Callback):
    """Count time and structures of a training run, and note the code of every start.

    What is counted is kept in checkpoints, so that a resumed run goes on from there. Time is that between the start of
    training and its end, validation and loading included, interruptions not.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.structures = 0
        self.starts: list[dict[str, Any]] = []
        self._since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and note versions."""
        self._since = time.monotonic()
        self.starts.append(
            {
                "epoch": trainer.current_epoch,
                "version": VERSION,
                "commit": source_commit(),
                "torch": str(torch.__version__),
                "device": str(pl_module.device),
                "threads": torch.get_num_threads(),
                "processes": getattr(trainer, "world_size", 1),
            }
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the structures of the batch, and of those that other processes have at the same time."""
        self.structures += getattr(pl_module, "structures_of_step", 0) or batch.num_graphs

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.seconds, self._since = self._elapsed(), None

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep."""
        return {"seconds": self._elapsed(), "structures": self.structures, "starts": self.starts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.seconds, self.structures = state_dict["seconds"], state_dict["structures"]
        self.starts = list(state_dict["starts"])

    def summary(self, trainer: Trainer) -> dict[str, Any]:
        """The counts, as JSON can hold them."""
        seconds = self._elapsed()
        return {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": round(seconds, 3),
            "structures_per_second": round(self.structures / max(seconds, 1e-9), 1),
            "starts": self.starts,
        }

    def _elapsed(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.monotonic() - self._since)


def source_commit() -> str | None:
    """Commit of the repository that the package runs from, with ``+`` after it where files differ from it.

    Returns:
        Short hash; ``None`` for an installed package, or without git.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(root), *args], check=True, capture_output=True, text=True).stdout.strip()

"""The best weights of a run, wherever its folder is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import callbacks
from lightning.pytorch.utilities import rank_zero_only

from pyg_schnet.models.writing import written


class ModelCheckpoint(callbacks.ModelCheckpoint):
    """Lightning's, which finds the best checkpoint again when its folder was moved, copied or renamed.

    Lightning's own forgets the best score where the folder has another name than at the start. Here the files are
    looked for beside the checkpoint that a run is resumed from; where the run goes on in another folder, they are
    copied there, so that the first run stays as it is.
    """

    resumed_from: Path | None = None
    """Folder of the checkpoint that the run is resumed from."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, with the best of all epochs before it."""
        if self.dirpath is None:
            super().load_state_dict(state_dict)
            return
        moved = {**state_dict, "dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[name] = self._here(state_dict.get(name) or "")
        scores = {self._here(path): score for path, score in (state_dict.get("best_k_models") or {}).items()}
        moved["best_k_models"] = {path: score for path, score in scores.items() if path}
        if state_dict.get("best_model_path") and not moved["best_model_path"]:
            name = Path(state_dict["best_model_path"]).name
            rank_zero_only(print)(
                f"{name} is not beside the checkpoint to resume from; the best of the epochs from here on is taken"
            )
            return
        super().load_state_dict(moved)

    def _here(self, path: str) -> str:
        """A checkpoint of the run in the present folder; empty where there is none."""
        if not path:
            return ""
        name = Path(path.replace("\\", "/")).name
        target = Path(cast(str, self.dirpath)) / name
        source = target if self.resumed_from is None else self.resumed_from / name
        if source.is_file() and os.path.abspath(source) != os.path.abspath(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with written(target) as partial:  # each process of a run does the same
                shutil.copyfile(source, partial)
        return str(target) if target.is_file() else ""

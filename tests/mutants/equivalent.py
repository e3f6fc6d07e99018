"""Survivors that are no mistakes: nothing that a test could see changes.

The lines are written without their indentation, and found wherever they move to. Entries whose lines are gone do no
harm.
"""

# ruff: noqa: E501 - lines as they stand

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "testing/contract.py",
        "pos = torch.nn.functional.pad(torch.stack([0.0 * dist, dist], dim=1).unsqueeze(-1), (0, 2)).reshape(-1, 3)",
        "pos = torch.nn.functional.pad(torch.stack([0.0 / dist, dist], dim=1).unsqueeze(-1), (0, 2)).reshape(-1, 3)",
    ): "distances are positive, so both are zero with zero derivatives",
    (
        "neighbors/verlet.py",
        "allowance = 1e-5 * self.cutoff",
        "allowance = 1.5e-05 * self.cutoff",
    ): "an allowance for rounding, of which any small multiple will do",
    (
        "train/evaluation.py",
        "enable_checkpointing=False,",
        "enable_checkpointing=True,",
    ): "Lightning saves nothing where it only evaluates",
    (
        "train/task.py",
        "parallel = self.trainer.world_size > 1",
        "parallel = self.trainer.world_size >= 1",
    ): "sums of one process are added up to themselves",
    (
        "train/ending.py",
        "stopped = any(callback.stopped_epoch > 0 or callback.stopping_reason_message for callback in stops)  # epoch 0, too",
        "stopped = any(callback.stopped_epoch > 1 or callback.stopping_reason_message for callback in stops)  # epoch 0, too",
    ): "Lightning's callback has a message whenever it stopped",
    (
        "neighbors/radius.py",
        "ptr = torch.cat([ptr, ptr[-1:].expand(targets.batch_size - sources.batch_size)])",
        "ptr = torch.cat([ptr, ptr[-1:].expand(targets.batch_size + sources.batch_size)])",
    ): "no target asks for the structures without sources that come behind the last one",
    (
        "train/last_checkpoint.py",
        "super().__init__()",
        "pass",
    ): "Lightning's callback has no state of its own",
}
"""File, old line and new line to the reason."""

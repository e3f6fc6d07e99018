"""How many processes a command has, whatever a scheduler has left in the environment."""

from __future__ import annotations

import os
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

SHARED_FOLDER = "PYG_SCHNET_RUN_DIR"
"""Environment variable by which the first process of a run tells those that it starts where the run is."""

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def one_process() -> LightningEnvironment:
    """Environment of a command that is one process, so that it neither waits for others nor counts itself as second.

    Jobs of SLURM, torchrun and others leave variables in the environment from which Lightning concludes that there are
    more processes.
    """
    counted: Any = rank_zero_only
    counted.rank = 0
    return LightningEnvironment()


def is_one_process(trainer: Any) -> bool:
    """Whether options of a trainer ask for one device on one node.

    Args:
        trainer: Section ``trainer`` of a configuration.
    """
    devices = trainer.get("devices")
    one = str(devices) == "1" or (isinstance(devices, (list, tuple)) and len(devices) == 1)
    return one and trainer.get("num_nodes") in (None, 1)


def check_first() -> None:
    """Raise in all but the first process of a job whose run has one device, where all would do the same.

    Raises:
        ValueError: If the environment says that this is another process.
    """
    for name in _RANKS:
        rank = os.environ.get(name, "")
        if rank.isdecimal() and int(rank) > 0:
            raise ValueError(
                f"this is process {rank} of a job ({name}={rank}), but the run has one device and the first process "
                "does all; start one process, or set --trainer.devices and --trainer.num_nodes to those of the job"
            )


def environment_plugins(trainer: Any) -> list[LightningEnvironment]:
    """Plugins of a trainer: what Lightning finds by itself is wrong for one process, and without ``srun``.

    Args:
        trainer: Section ``trainer`` of a configuration.
    """
    if is_one_process(trainer):
        return [one_process()]
    return [LightningEnvironment()] if "SLURM_NTASKS" in os.environ and not _by_srun() else []


def is_follower(trainer: Any) -> bool:
    """Whether this is another process than the first of a run on several devices."""
    if is_one_process(trainer):
        return False
    names = _RANKS if _by_srun() else tuple(name for name in _RANKS if name != "SLURM_PROCID")
    return any(os.environ.get(name, "0") not in ("", "0") for name in names)


def started_by_others(trainer: Any) -> bool:
    """Whether a launcher such as ``torchrun`` or ``srun`` started all processes of a run on several devices."""
    by_launcher = "LOCAL_RANK" in os.environ or _by_srun()
    return not is_one_process(trainer) and by_launcher and SHARED_FOLDER not in os.environ


def _by_srun() -> bool:
    return "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ

"""How many processes a command has, whatever a scheduler has left in the environment."""

from __future__ import annotations

import os
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.accelerators import CPUAccelerator

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


class OwnProcesses(LightningEnvironment):
    """Environment of a run on one computer whose first process starts the others; see ``train/team.py``."""

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning starts none: it would repeat the command of the interpreter, which may be another program."""
        return True


def environment_plugins(trainer: Any) -> list[LightningEnvironment]:
    """Plugins of a trainer: what Lightning finds by itself is right only where a launcher has started all processes.

    Args:
        trainer: Section ``trainer`` of a configuration.

    Raises:
        ValueError: If the run is to have processes on several computers and no launcher has started them.
    """
    if is_one_process(trainer):
        return [one_process()]
    if started_by_others(trainer):
        return []
    if trainer.get("num_nodes") not in (None, 1):
        raise ValueError(
            f"--trainer.num_nodes={trainer.get('num_nodes')} needs a launcher that starts processes on each of them, "
            "torchrun or srun; see the guide on training"
        )
    return [OwnProcesses()]


def check_devices(trainer: Any) -> None:
    """Raise for more processes than the processor has cores; two can be tried anywhere.

    Args:
        trainer: The trainer.

    Raises:
        ValueError: If there are more, which would wait for each other without end.
    """
    most = max(os.cpu_count() or 1, 2)
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > most:
        raise ValueError(
            f"--trainer.devices={trainer.num_devices} asks for as many processes on this computer, which has "
            f"{os.cpu_count()} cores; choose at most {most}"
        )


def is_follower(trainer: Any) -> bool:
    """Whether this is another process than the first of a run on several devices."""
    if is_one_process(trainer):
        return False
    names = _RANKS if _by_srun() else tuple(name for name in _RANKS if name != "SLURM_PROCID")
    return any(os.environ.get(name, "0") not in ("", "0") for name in names)


def started_by_others(trainer: Any) -> bool:
    """Whether a launcher such as ``torchrun`` or ``srun`` started all processes of a run on several devices."""
    sizes = [os.environ.get(name, "1") for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")]
    by_launcher = "LOCAL_RANK" in os.environ or _by_srun() or any(size not in ("", "0", "1") for size in sizes)
    return not is_one_process(trainer) and by_launcher and SHARED_FOLDER not in os.environ


def _by_srun() -> bool:
    return "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ

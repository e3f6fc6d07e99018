"""What a checkpoint says of where it comes from, so that a run goes on with what it began with."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyg_schnet.data import Split
    from pyg_schnet.train.datamodule import StructureDataModule


def origin_of(data: StructureDataModule) -> dict[str, Any]:
    """Target, unit, structures, split and order of batches of a run, as plain values.

    Args:
        data: Data module of the run.
    """
    targets = data.properties
    columns = [target.column for target in targets]
    return {
        "target": ", ".join(target.name for target in targets),
        "unit": ", ".join(target.unit for target in targets),
        "column": columns[0] if len(columns) == 1 else columns,
        "fingerprint": data.split.fingerprint,
        "split": split_hash(data.split),
        "batch_size": data.batch_size * data.num_processes,  # structures of a step
        "seed": data.seed,
    }


def split_hash(split: Split) -> str:
    """Short hash of which structures are for training, validation and test, in their order.

    Example:
        >>> from pyg_schnet.data import Split
        >>> split_hash(Split([0, 1], [2], [3], 4)) == split_hash(Split([0], [1, 2], [3], 4))
        False
    """
    digest = hashlib.sha256()
    for part in (split.train, split.val, split.test):
        digest.update(np.int64(len(part)).tobytes())
        digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]


def check_origin(
    kept: dict[str, Any], given: dict[str, Any], run_dir: str = "RUN_DIR", *, within_epoch: bool = False
) -> None:
    """Raise unless a run goes on with what it began with.

    Args:
        kept: What the checkpoint says, as :func:`origin_of` returned it.
        given: The same of the options at hand.
        run_dir: Folder of the run, for the message.
        within_epoch: Whether the checkpoint is from within an epoch, whose batches then have to be the same, too.

    Raises:
        ValueError: If something differs; the message says what.
    """
    advice = f"resume it with its own options, --config={run_dir}/config.yaml"
    before, now = _target(kept), _target(given)
    if before != now:
        raise ValueError(f"the run of the checkpoint learns {before}, the options ask for {now}; {advice}")
    if kept["fingerprint"] != given["fingerprint"]:
        raise ValueError(
            "the structures of the data, or their order, are not those that the run of the checkpoint began with "
            f"(fingerprint {kept['fingerprint']}, these {given['fingerprint']}), so the run would learn from its test "
            "structures; give the folder of the data it began with (--data_dir)"
        )
    if kept["split"] != given["split"]:
        raise ValueError(
            "the options of the data (seed, num_train, num_val, num_test, split) give another split than that of the "
            f"checkpoint, so the run would learn from its test structures; {advice} or "
            f"--data.split={run_dir}/split.json"
        )
    for name in ("batch_size", "seed") if within_epoch else ():
        if kept[name] != given[name]:
            counted = " (batch_size counts the structures of a step, of all processes)" if name == "batch_size" else ""
            raise ValueError(
                f"the checkpoint is from within an epoch with --data.{name}={kept[name]}, so that with {given[name]} "
                f"some structures would be learned from twice and others not{counted}; {advice}, or from the end of an "
                "epoch"
            )


def _target(origin: dict[str, Any]) -> str:
    several = isinstance(origin["column"], list)
    column = "" if several or origin["column"] is None else f", column {origin['column']},"
    return f"{origin['target']!r}{column} in {origin['unit']}"

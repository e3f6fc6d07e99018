"""Settings of torch that every command has."""

from __future__ import annotations

import os


def prepare_torch() -> None:
    """Set the precision of matrix products, and no more threads than there are cores."""
    import torch

    torch.set_float32_matmul_precision("high")
    if (cores := os.cpu_count()) is not None and torch.get_num_threads() > cores:
        torch.set_num_threads(cores)  # OMP_NUM_THREADS may be anything; more threads than cores wait for each other

"""Names of the backends, and which one ``"auto"`` means."""

from __future__ import annotations

from typing import Literal, get_args

from pyg_schnet.neighbors._checks import Structures

Backend = Literal["auto", "torch", "vesin", "torch_cluster"]
VESIN_FROM = 200  # atoms per crystal from which vesin is faster than torch on the CPU; never with open boundaries
VESIN_TO = 200_000  # atoms beyond which it is not any more: torch works through the pairs in chunks


def choose_backend(backend: str, structures: Structures, periodic: bool) -> str:
    """Resolve ``"auto"`` by boundaries, device and mean size; raise ``ValueError`` for an unknown name."""
    if not isinstance(backend, str) or backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")
    if backend != "auto":
        return backend
    pos, n_structures = structures.pos, structures.batch_size
    large = VESIN_FROM * n_structures <= pos.size(0) <= VESIN_TO and n_structures > 0
    return "vesin" if periodic and large and pos.device.type == "cpu" else "torch"

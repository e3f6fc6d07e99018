"""Reference data as a command: molecules in, shards and lines out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pyg_schnet.data.reference import (
    KINDS,
    Done,
    Molecule,
    Sampling,
    from_files,
    from_qm9,
    from_smiles,
    load_qm9,
    make_reference_data,
)
from pyg_schnet.data.reference.exchange import exchanged
from pyg_schnet.data.reference.molecules import graphs_of, without
from pyg_schnet.interfaces.dynamics.interruption import Interruption
from pyg_schnet.interfaces.dynamics.progress import Progress


def make(
    folder: str, *, qm9: int, part: Literal["train", "test"], held_out: int, leave_out: str | list[str] | None,
    qm9_dir: str | None, files: str | list[str] | None, relabel: str | list[str] | None, index: str, pbc: bool | None,
    smiles: str | list[str] | None, conformers: int, exchange: Mapping[str, str] | None,
    kinds: Mapping[str, float] | None, max_force: float | None, method: str, method_options: Mapping[str, Any] | None,
    charge: int, repeats: int, shard_size: int | None, processes: int, seed: int, **more: Any,
) -> None:  # fmt: skip
    """Make reference data; for the arguments see :func:`pyg_schnet.cli.reference_data.make`."""
    left_out = [leave_out] if isinstance(leave_out, str) else list(leave_out or ())
    if relabel is not None and (qm9 or left_out or any(one is not None for one in (files, smiles, exchange, kinds))):
        raise ValueError(
            "--relabel takes structures as they are; leave out --qm9, --files, --smiles, --exchange, --kinds and "
            "--leave_out"
        )
    options: dict[str, Any] = {name: tuple(value) if name == "temperature" else value for name, value in more.items()}
    if exchange is not None:
        kinds = {**KINDS, "relaxed": 1.0} if kinds is None else kinds
        if kinds.get("relaxed", 0) < 1:
            raise ValueError(f"molecules with --exchange have to be relaxed: give relaxed: 1 in --kinds, got {kinds}")
    sampling = Sampling(
        kinds={"given": 1.0} if relabel is not None else dict(KINDS if kinds is None else kinds),
        max_force=max_force if max_force is not None else 1000.0 if relabel is not None else 20.0,
        seed=seed,
        **options,
    )
    molecules: list[Molecule] = []
    forbidden: frozenset[str] = frozenset()
    if qm9:
        molecules, forbidden = from_qm9(load_qm9(qm9_dir), qm9, part, held_out, left_out)
        of_part = "of those that are held out" if part == "test" else f"with none of {len(forbidden):,} left-out graphs"
        print(f"{len(molecules):,} molecules of QM9, {of_part}", flush=True)
    elif part == "test" or any(not Path(one).suffix for one in left_out):
        raise ValueError("--part and names in --leave_out are of molecules of QM9; give their number by --qm9")
    else:
        forbidden = graphs_of(left_out)
    others = [one for source in (files, relabel) if source is not None for one in from_files(source, index, pbc)]
    if smiles is not None:
        others += from_smiles(smiles, conformers, seed)
    if not molecules and not others:
        raise ValueError("give molecules by --qm9, --files, --smiles or --relabel")
    kept = without(others, forbidden)
    if len(kept) < len(others):
        print(f"{len(others) - len(kept):,} molecules have a graph that is left out, and are left out, too", flush=True)
    molecules += kept
    if exchange is not None:
        of, molecules, names = len(molecules), exchanged(molecules, exchange, seed), " or ".join(exchange)
        if not molecules:
            raise ValueError(f"none of {of:,} molecules has {names}, which --exchange replaces")
        print(f"{len(molecules):,} of {of:,} molecules have {names}, and got other elements", flush=True)
    with Interruption() as interruption:
        shown = _Shown(len(molecules) * repeats)
        try:
            done = make_reference_data(
                folder,
                molecules,
                sampling,
                method,
                method_options=method_options,
                charge=charge,
                forbidden=forbidden,
                repeats=repeats,
                shard_size=shard_size or (1000 if relabel is not None else 50),
                processes=processes,
                progress=shown,
                stop=lambda: interruption.received is not None,
            )
        finally:
            shown.close()
    print("\n".join(in_words(done, folder)), flush=True)
    if interruption.received is not None:
        print("pyg-schnet reference-data: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(128 + interruption.received)
    if not done.new and shown.shards:
        raise ValueError(f"no geometry was labelled; {' '.join(in_words(done, folder)[2:])}")


def in_words(done: Done, folder: str) -> list[str]:
    """Lines on what has been made.

    Args:
        done: What there is.
        folder: Where it is.

    Example:
        >>> counts = {"calls": 4, "kept": {"given": 1, "modes": 2}, "left_out": {"a force is above 20 eV/Å": 1}}
        >>> for line in in_words(Done(1, 1, 1, counts, 3, 3.6), "water"):
        ...     print(line)
        3 labels of 1 molecules in water, 3 of them new (3,000 an hour)
        4 calculations, of which 75 % became labels: given 1, modes 2
        left out: a force is above 20 eV/Å 1
    """
    counts = done.counts
    share = 100.0 * done.labels / max(counts["calls"], 1)
    kinds, reasons = (", ".join(f"{name} {number:,}" for name, number in counts[key].items()) for key in _COUNTED)
    return [
        f"{done.labels:,} labels of {done.molecules:,} molecules in {folder}, {done.new:,} of them new "
        f"({done.rate:,.0f} an hour)",
        f"{counts['calls']:,} calculations, of which {share:.0f} % became labels: {kinds or 'none'}",
        f"left out: {reasons or 'none'}",
    ]


_COUNTED = ("kept", "left_out")


class _Shown:
    """How far the data are, on ``stderr``."""

    def __init__(self, molecules: int) -> None:
        self.molecules, self.shards = molecules, 0
        self._progress = Progress("molecule", molecules)

    def __call__(self, done: Done) -> None:
        """A shard is complete."""
        self.shards += 1
        said = f"{done.labels:,} labels, {done.rate:,.0f} an hour"
        line = f"{done.molecules:,} of {self.molecules:,} molecules, {said}"
        self._progress(done.molecules, lambda: (said, line))

    def close(self) -> None:
        """Remove the bar."""
        self._progress.close()

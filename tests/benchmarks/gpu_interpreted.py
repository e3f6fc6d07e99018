"""The benchmark of GPUs on a CPU; run by test_gpu.py in a process of its own, in triton's interpreter."""

import json
import sys
from pathlib import Path

import pytest
import torch

for name in ("ase", "vesin", "lightning", "jsonargparse", "qm9pack"):  # a machine with a GPU need not have them
    sys.modules[name] = None  # type: ignore[assignment]
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu  # noqa: E402
import gpu_systems  # noqa: E402

from tests.interpreter import patch_language_once  # noqa: E402

patch_language_once()

CPU = torch.device("cpu")


def test_it_runs(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--small", "--backend", "triton", "--features", "4", "--seconds", "0.01"]
    options += ["--gaussians", "6"]  # kernels have a program for each interval of a table
    gpu.main([*options, "--json", str(file)])
    results = json.loads(file.read_text(encoding="utf-8"))
    assert results["failed"] == {}
    assert results["deviations"].keys() == gpu.CHECKED_SMALL.keys()
    assert all("replayed" in found for found in results["deviations"].values())
    assert all(0.0 <= value < 1e-3 for found in results["deviations"].values() for value in found.values())
    assert len(results["workloads"]) == 3
    for name, found in results["workloads"].items():
        assert found["notes"] == {}
        others = {"like_pyg", "exact filters"} if "silicon" in name else {"like_pyg"} if "molecules" in name else {
            "exact filters"}  # fmt: skip
        assert found["seconds"].keys() == {"ours", "PyG"} | others
        assert found["ratio"]["ours"] == 1.0
    assert results["bandwidth"]["seconds"] > 0.0
    assert "two runs are the same in every bit" in capsys.readouterr().out


def test_what_is_wrong_is_noticed(monkeypatch):
    operators = gpu.operators

    def wrong(system, features, backend, *place, **size):
        found = operators(system, features, "reference", *place, **size)
        return found | {"convolution": found["convolution"] * (1.001 if backend == "triton" else 1.0)}

    monkeypatch.setattr(gpu, "operators", wrong)
    with pytest.raises(ArithmeticError, match=r"wrong: .*convolution"):
        gpu.check(gpu.SMALL(CPU), 4, "triton", blocks=1, gaussians=6)


def test_whatever_fails_is_a_row_with_its_reason(monkeypatch, tmp_path, capsys):
    """Checks, systems, single peers in their first or a later call, and the bandwidth."""
    calls = []

    def fails(*_, **__):
        raise torch.OutOfMemoryError("no room\nat all")

    def step_of(peer, forces, training):
        def step():
            calls.append(peer.name)
            if peer.name == "PyG" or (peer.name == "exact filters" and calls.count(peer.name) > 1):
                fails()

        return step

    for name in ("check", "replayed", "bandwidth_share"):
        monkeypatch.setattr(gpu, name, fails)
    broken = gpu.Workload("broken", fails, True, False, fails)
    monkeypatch.setattr(gpu, "WORKLOADS", (broken, *gpu.WORKLOADS[1:2]))
    monkeypatch.setattr(gpu, "step_of", step_of)
    options = ["--device", "cpu", "--small", "--backend", "reference", "--features", "4", "--seconds", "0.01"]
    results = gpu.main([*options, "--json", str(tmp_path / "gpu.json")])
    assert results == json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    failed = {*gpu.CHECKED_SMALL, *(f"{name}, replayed" for name in gpu.CHECKED_SMALL), "broken", "bandwidth"}
    assert results["failed"] == dict.fromkeys(failed, "OutOfMemoryError: no room")
    (found,) = results["workloads"].values()
    assert found["notes"] == dict.fromkeys(("PyG", "exact filters"), "OutOfMemoryError: no room")
    assert found["ratio"].keys() == {"ours"}
    assert "broken: failed, OutOfMemoryError: no room" in capsys.readouterr().out


def test_the_file_has_what_is_timed():
    assert gpu_systems.FILE.stat().st_size < 300_000
    content = gpu_systems._file()
    counts = {kind: len(content[f"{kind}/n_atoms"]) for kind in ("aspirin", "QM9", "perovskites")}
    assert counts == {"aspirin": 256, "QM9": 1000, "perovskites": 512}
    system = gpu_systems.stored("aspirin", 2, CPU)
    assert system.z.tolist() == system.z[:21].repeat(2).tolist()
    assert sorted(system.z[:21].tolist()) == [1] * 8 + [6] * 9 + [8] * 4
    lengths = (system.pos[system.edge_index[0]] - system.pos[system.edge_index[1]]).norm(dim=1)
    assert 0.85 < float(lengths.min()) < 1.1  # O-H and C-H bonds
    crystals = gpu_systems.stored("perovskites", 4, CPU)
    assert crystals.size == crystals.cell.size(0) == 4
    assert 3.0 < float(crystals.cell.det().abs().pow(1 / 3).mean()) < 6.0
    assert gpu_systems.stored("QM9", 1, CPU, smallest=True).z.numel() < 12
    with pytest.raises(ValueError, match="has 256 structures of the kind aspirin, 300 are asked for"):
        gpu_systems.stored("aspirin", 300, CPU)

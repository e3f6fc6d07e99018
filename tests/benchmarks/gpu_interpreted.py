"""The benchmark of GPUs on a CPU; run by test_gpu.py in a process of its own, in triton's interpreter."""

import json

import pytest
import torch

from benchmarks import gpu


def test_it_runs(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--small", "--backend", "triton", "--features", "4", "--seconds", "0.01"]
    gpu.main([*options, "--json", str(file)])
    results = json.loads(file.read_text(encoding="utf-8"))
    assert results["deviations"].keys() == {"aspirin", "perovskites"}
    assert all(0.0 <= value < 1e-3 for found in results["deviations"].values() for value in found.values())
    assert len(results["workloads"]) == 3
    for found in results["workloads"].values():
        assert found["notes"] == {}
        assert found["seconds"].keys() == {"ours", "PyG", "exact filters"}
        assert found["ratio"]["ours"] == 1.0
    assert results["bandwidth"]["seconds"] > 0.0
    assert "two runs are the same in every bit" in capsys.readouterr().out


def test_what_is_wrong_is_noticed(monkeypatch):
    operators = gpu.operators

    def wrong(system, features, backend, *place):
        found = operators(system, features, "reference", *place)
        return found | {"convolution": found["convolution"] * (1.001 if backend == "triton" else 1.0)}

    monkeypatch.setattr(gpu, "operators", wrong)
    system = gpu.aspirin(1, torch.device("cpu"), keep=2)
    with pytest.raises(SystemExit, match=r"convolution.*nothing is timed"):
        gpu.check(system, 4, "triton", blocks=1)

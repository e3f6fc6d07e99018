"""The benchmark of engines measures what it says."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def test_it_runs(tmp_path):
    pytest.importorskip("torch_sim")
    import engines

    file = tmp_path / "engines.json"
    rows = engines.main(["--replicas", "3", "--repeats", "3", "--seconds", "0.1", "--json", str(file)])
    assert [row["dtype"] for row in rows] == ["float32", "float64"]
    for row in rows:
        assert row["to_one"]["median"] == pytest.approx(row["one"]["median"] / row["many"]["median"], rel=0.5)
    assert file.stat().st_size > 100

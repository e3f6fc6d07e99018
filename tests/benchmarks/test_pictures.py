"""The pictures of README are drawn from the numbers that benchmarks wrote."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "paper"))
    spec = importlib.util.spec_from_file_location("pictures", BENCHMARKS / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(**ratios):
    return [{"workload": name, "ratios": {"PyG": {"median": value}}} for name, value in ratios.items()]


def test_bars_are_as_long_as_the_ratios(pictures):
    ax = pictures.draw_speed(rows(**{"energy-qm9": 20.0, "forces-silicon": 50.0, "unknown": 3.0}), {"threads": 1})
    assert [bar.get_width() for bar in ax.patches] == [20.0, 50.0]
    assert [text.get_text().strip() for text in ax.texts] == ["20×", "50×"]


def test_nothing_to_draw(pictures):
    with pytest.raises(SystemExit, match="none of train-qm9-5"):
        pictures.draw_speed(rows(unknown=1.0), {"threads": 1})


def test_points_are_errors_over_published_ones(pictures):
    results = pictures.table.read_results(pictures.table.RESULTS)
    ax = pictures.draw_errors(results)
    names = [label.get_text() for label in ax.get_yticklabels()]
    drawn = dict(zip(names, (line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"), strict=True))
    assert drawn["QM9 U0, 110k, 5 Å, three hours"] == pytest.approx(0.239 / 0.218, abs=5e-3)
    assert "aspirin by GFN2-xTB, 1k, 5 Å, energy" not in drawn  # nothing published


def test_both_are_written(pictures, tmp_path, monkeypatch, capsys):
    speed = tmp_path / "speed.json"
    speed.write_text(json.dumps({"about": {"threads": 1}, "results": rows(**{"energy-qm9": 20.0})}))
    monkeypatch.setattr(sys, "argv", ["pictures.py", f"--speed={speed}", f"--output={tmp_path}"])
    pictures.main()
    for name in ("speed", "errors"):
        assert 5_000 < (tmp_path / f"{name}.png").stat().st_size < 150_000

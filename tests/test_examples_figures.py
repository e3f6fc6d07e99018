"""Every figure script runs from shipped weights, draws its picture and says whether its claim holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = Path(__file__).parents[1] / "examples" / "figures"
VERDICTS = {  # what the shipped weights say
    "figure2_activations.py": "holds",
    "figure6_probe.py": "does not hold",
    "figure7_embedding.py": "holds",
}


def test_every_figure_is_tested():
    assert {path.name for path in FIGURES.glob("figure*.py")} == set(VERDICTS)


@pytest.mark.parametrize(("script", "verdict"), VERDICTS.items())
def test_figure(script, verdict, tmp_path):
    picture = tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, FIGURES / script, "--output", picture],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    claim = [line for line in done.stdout.splitlines() if line.startswith("claim: ")]
    assert len(claim) == 1
    assert claim[0].endswith(f": {verdict}")

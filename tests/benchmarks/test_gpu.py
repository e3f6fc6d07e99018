"""The benchmark of GPUs runs, so that it cannot rot where there is none."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.interpreter import skip_where_it_is_broken

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is missing; pip install 'pyg_schnet[gpu]'")
def test_gpu_in_a_process_of_its_own():
    skip_where_it_is_broken()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "gpu_interpreted.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    found = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False, timeout=900
    )
    assert found.returncode == 0, f"{found.stdout[-6000:]}\n{found.stderr[-2000:]}"

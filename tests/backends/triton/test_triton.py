"""The triton backend without a GPU: by triton's interpreter, and compiled for devices that are not here."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.interpreter import skip_where_it_is_broken

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is missing; pip install 'pyg_schnet[gpu]'")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "interpret"), [("interpreted.py", "1"), ("compiled.py", "0")])
def test_in_a_process_of_its_own(file, interpret):
    if interpret == "1":
        skip_where_it_is_broken()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", HERE / file]
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    found = subprocess.run(
        command, env=environment, cwd=HERE.parents[2], capture_output=True, text=True, check=False, timeout=900
    )
    assert found.returncode == 0, f"{found.stdout[-6000:]}\n{found.stderr[-2000:]}"

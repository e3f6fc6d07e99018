"""The kernels in other processes and threads, and with other numbers of threads."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from .processes import build, work

WHERE = [
    "this process",
    "forked off",
    "one thread of numba",
    "one thread of OpenMP",
    "data loader",
    "threads",
    "this process again",
]


@pytest.fixture(scope="module")
def expected():
    return work(build())


@pytest.fixture(scope="module")
def results():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    command, root = [sys.executable, "-m", "tests.backends.processes"], Path(__file__).parents[2]
    output = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, timeout=300).stdout
    return json.loads(output)


@pytest.mark.parametrize("where", WHERE)
def test_the_same_numbers_everywhere(where, results, expected):
    assert len(results[where]) > 0
    for found in results[where]:
        assert found["digest"] == expected["digest"]
        assert found["energies"] == pytest.approx(expected["energies"], rel=1e-11)

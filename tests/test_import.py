import subprocess
import sys

import pytest

import pyg_schnet


def run(code):
    # PyG itself warns when it is imported, so warnings are errors for our modules only
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_public_names_exist():
    assert pyg_schnet.__version__
    for name in pyg_schnet.__all__:
        assert hasattr(pyg_schnet, name)


def test_import_needs_torch_and_pyg_alone():
    heavy = ("ase", "numba", "lightning", "pytorch_lightning", "matplotlib", "tensorboard", "jsonargparse", "pytest")
    code = f"""
import sys
import torch, torch_geometric
before = set(sys.modules)
import pyg_schnet, pyg_schnet.testing
pyg_schnet.SchNet, pyg_schnet.radius_graph
loaded = sorted(name for name in {heavy!r} if name in sys.modules and name not in before)
assert not loaded, loaded
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "room", ["SchNet", "analysis", "data", "engine", "interfaces", "models", "neighbors", "nn", "ops", "train"]
)
def test_import_shows_no_warnings_of_other_packages(room):
    result = run(f"import warnings; warnings.simplefilter('always'); from pyg_schnet import {room}")
    assert result.returncode == 0, result.stderr
    assert "torch.jit" not in result.stderr, result.stderr
    assert "FutureWarning" not in result.stderr, result.stderr


def test_import_does_not_touch_global_state():
    code = """
import torch
import torch_geometric
state = (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(), torch.is_grad_enabled())
from pyg_schnet import SchNet
assert state == (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(), torch.is_grad_enabled())
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["nn", "models", "neighbors"])
def test_all_lists_what_is_there_and_is_sorted(module):
    package = __import__(f"pyg_schnet.{module}", fromlist=["__all__"])
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)

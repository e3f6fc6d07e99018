import json
import os
import subprocess
import sys

import pytest

import pyg_schnet

ROOMS = ("SchNet", "analysis", "data", "engine", "interfaces", "models", "neighbors", "nn", "ops", "train")
USED = ("analysis", "interfaces")
HEAVY = ("ase", "numba", "lightning", "pytorch_lightning", "matplotlib", "tensorboard", "jsonargparse", "pytest")
FORK = """
import json, os, sys, tempfile, traceback, warnings
import torch
for name, code in json.loads(sys.argv[1]).items():
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            try:
                exec(code, {})
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stderr.flush()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        said.seek(0)
        print(json.dumps([name, status, said.read().decode()]), flush=True)
"""
"""Runs each code in a process of its own, forked off one that has imported torch, which is what takes long."""


@pytest.fixture(scope="module")
def results():
    """Exit status and messages of each code."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    codes = {f"import {room}": WARNINGS.format(room=room) for room in ROOMS} | {"light": LIGHT, "state": STATE}
    codes |= {f"use {room}": USING.format(room=room) for room in USED}
    codes["failing"] = "import warnings; warnings.warn('torch.jit is old', FutureWarning); assert False, 'reason'"
    done = subprocess.run(
        [sys.executable, "-c", FORK, json.dumps(codes)], stdout=subprocess.PIPE, text=True, check=True
    )
    return {name: (status, said) for name, status, said in map(json.loads, done.stdout.splitlines())}


LIGHT = f"""
import sys
import torch, torch_geometric
before = set(sys.modules)
import pyg_schnet, pyg_schnet.testing
pyg_schnet.SchNet, pyg_schnet.radius_graph
loaded = sorted(name for name in {HEAVY!r} if name in sys.modules and name not in before)
assert not loaded, loaded
"""
WARNINGS = "import warnings; warnings.simplefilter('always'); from pyg_schnet import {room}"
USING = "import sys, pyg_schnet.{room}; assert not {{'lightning', 'matplotlib'}} & set(sys.modules), 'too much'"
STATE = """
import torch
import torch_geometric
state = (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(), torch.is_grad_enabled())
from pyg_schnet import SchNet
assert state == (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(), torch.is_grad_enabled())
"""


def test_public_names_exist():
    assert pyg_schnet.__version__
    for name in pyg_schnet.__all__:
        assert hasattr(pyg_schnet, name)


def test_failures_and_warnings_are_noticed(results):
    status, said = results["failing"]
    assert status != 0
    assert "AssertionError: reason" in said
    assert "FutureWarning: torch.jit is old" in said


def test_import_needs_torch_and_pyg_alone(results):
    assert results["light"][0] == 0, results["light"][1]


@pytest.mark.parametrize("room", USED)
def test_using_models_needs_neither_training_nor_pictures(room, results):
    assert results[f"use {room}"][0] == 0, results[f"use {room}"][1]


@pytest.mark.parametrize("room", ROOMS)
def test_import_shows_no_warnings_of_other_packages(room, results):
    # PyG itself warns when it is imported, so warnings are errors for our modules only
    status, said = results[f"import {room}"]
    assert status == 0, said
    assert "torch.jit" not in said
    assert "FutureWarning" not in said


def test_import_does_not_touch_global_state(results):
    assert results["state"][0] == 0, results["state"][1]


@pytest.mark.parametrize("module", ["nn", "models", "neighbors"])
def test_all_lists_what_is_there_and_is_sorted(module):
    package = __import__(f"pyg_schnet.{module}", fromlist=["__all__"])
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)

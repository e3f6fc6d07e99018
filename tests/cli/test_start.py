"""Commands import what they need and no more, and what was left out is there when it is asked for."""

import subprocess
import sys

import pytest

from pyg_schnet.cli import COMMANDS, main
from pyg_schnet.cli._packages import import_for

UNUSED = ("torch._dynamo", "sympy", "pandas", "lightning", "matplotlib", "torch_geometric.datasets", "scipy.integrate")
LATER = """
import ase.dft, torch, torch_geometric.datasets
from ase.dft.kpoints import BandPath
assert ase.dft.kpoints.BandPath is BandPath
assert issubclass(torch._dynamo.OptimizedModule, torch.nn.Module)
assert torch_geometric.datasets.MD17 is not None
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_prediction_imports_little_and_the_rest_later():
    code = f"""
import gc, sys
from pyg_schnet.cli._packages import import_for
import_for("predict", "pyg_schnet.cli._prediction", quickly=True)
assert gc.isenabled()
found = [name for name in {UNUSED!r} if name in sys.modules]
assert found in ([], ["sympy"]), found  # torch 2.8 needs it itself
{LATER}"""
    result = run(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_torch(command):
    code = f"""
import sys
from pyg_schnet.cli import main
try:
    main([{command!r}, "--help"])
except SystemExit as stop:
    assert not stop.code
assert "torch" not in sys.modules
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert f"usage: pyg-schnet {command}" in result.stdout


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "missing_package", None)
    with pytest.raises(SystemExit, match=r"predict needs more packages .*pip install 'pyg_schnet\[train\]'"):
        import_for("predict", "missing_package")


def test_variables_that_a_package_cannot_read_are_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "strict_package.py").write_text("int('many')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match=r"cannot be imported \(.*many.*\); check the environment"):
        import_for("predict", "strict_package")


def test_unknown_commands_exit_with_the_usage(capsys):
    with pytest.raises(SystemExit, match="unknown command 'fly'"):
        main(["fly"])
    assert "usage: pyg-schnet" in capsys.readouterr().err

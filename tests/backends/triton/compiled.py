"""The kernels of the triton backend, compiled for GPUs that are not here; run by test_triton.py by itself."""

import json

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from benchmarks import registers
from pyg_schnet.backends import triton as backend
from pyg_schnet.ops import kernels_for

KERNELS = {
    "conv_windows", "conv_rows", "table_windows", "table_rows", "overlap", "basis_edges", "measure", "pull_windows",
    "pull_atoms", "cell_pieces", "project", "weigh",
}  # fmt: skip

KERNELS_OF_FEATURES = {name for name in KERNELS if name.split("_")[0] in ("conv", "table", "overlap", "basis")}


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_without_spilled_registers(capability):
    rows = registers.table([64, 128, 256], [capability])
    assert {row["kernel"] for row in rows} == KERNELS
    old = triton.__version__.startswith("3.6.")
    known = {"cell_pieces": 16, "basis_edges": 8} if old else {}  # bytes of stack of that compiler
    assert not [row for row in rows if row["local"] > 0 or row["stack"] > known.get(row["kernel"], 0)]
    assert max(row["reg"] for row in rows) <= 128


class Device:
    """What triton asks of a driver before it launches a kernel: a Hopper GPU that is not there."""

    launcher_cls = staticmethod(lambda *_, **__: None)

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.mark.parametrize(
    ("n_edges", "periodic"), [(30, False), (2048, True)], ids=["open, short rows", "periodic, long rows"]
)
def test_launches_as_on_a_device(n_edges, periodic, monkeypatch):
    """Arguments as triton takes and specialises them, for edges in order or not; all but the launch itself.

    Long rows in single precision are compiled above, and short ones have a part of what long ones have.
    """
    monkeypatch.setattr(driver, "_active", Device())
    dtype = torch.float64 if periodic else torch.float32
    for launch in registers.launches(40, dtype, n_edges, ordered=periodic, periodic=periodic):
        options = {"grid": launch.grid, "num_warps": launch.num_warps, "enable_fp_fusion": True}
        assert "cubin" in launch.kernel.warmup(**launch.arguments, **options).asm


@pytest.mark.parametrize("features", [torch.bfloat16, torch.float16])
def test_features_of_16_bits(features):
    rows = registers.table([128], [80, 90], features=features)
    assert {row["kernel"] for row in rows} == KERNELS_OF_FEATURES
    assert all(row["local"] == 0 and row["reg"] <= 128 for row in rows)
    if not triton.__version__.startswith("3.6."):  # a compiler that takes a little stack
        assert all(row["stack"] == 0 for row in rows)


def test_one_table_of_several_versions(tmp_path):
    files = []
    for version, features, stack in (("3.6.0", "bfloat16", 8), ("3.9.0", None, 0)):
        rows = [
            {"kernel": "conv_rows", "number": 1, "features": 64, "capability": 80, "reg": 48, "stack": 0, "local": 0},
            {
                "kernel": "conv_rows",
                "number": 1,
                "features": 64,
                "capability": 90,
                "reg": 40,
                "stack": stack,
                "local": 0,
            },
        ]
        files.append(tmp_path / f"{version}.json")
        files[-1].write_text(json.dumps({"triton": version, "features": features, "rows": rows}), encoding="utf-8")
    title, header, _, row = registers.joined(files)
    assert "sm_80 and sm_90" in title
    assert header == "| kernel | features | bf16, triton 3.6.0 | fp32, triton 3.9.0 |"
    assert row == "| `conv_rows` | 64 | 48, 40 (8) | 48, 40 |"


def test_double_precision():
    assert all(row["local"] == 0 for row in registers.table([128], [80], torch.float64))


def test_no_numbers_are_rounded_to_single_precision():
    """Constants of a kernel for float64 have all of their digits."""
    with backend.recorded() as found:
        backend.spline_basis(torch.zeros(3, dtype=torch.float64), 3.3, 10, with_slopes=True)
    assert f"{1 / 6}" in registers.compiled(found[0], 80).asm["ttir"]


def test_the_interpreter_is_off_here():
    with pytest.raises(ValueError, match="set TRITON_INTERPRET=1 beforehand"):
        backend.take_cpu_tensors()
    with pytest.raises(ValueError, match="backend='triton' cannot be used: it takes tensors on CUDA and ROCm devices"):
        kernels_for("triton", torch.zeros(2))

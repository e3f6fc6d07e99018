"""How many registers do the kernels of the triton backend take, and do any spill? Needs triton and no GPU.

Every operator is called once with tensors on the CPU. What it would launch is recorded, compiled for NVIDIA devices,
and examined by triton's own ``cuobjdump``. Several versions of triton, or precisions of features, make one table:

    python benchmarks/registers.py --feature-dtype bfloat16 --json new.json   # with one version of triton
    python benchmarks/registers.py --feature-dtype bfloat16 --json old.json   # with another one
    python benchmarks/registers.py --join old.json new.json
"""

import argparse
import json
import re
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyg_schnet.backends import triton as backend
from pyg_schnet.ops import SplineGraph

TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64", torch.int32: "*i32"}
TYPES |= {torch.bfloat16: "*bf16", torch.float16: "*fp16"}
SHORT = {"bfloat16": "bf16", "float16": "fp16"}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
INTERVALS = 12


def launches(n_features, dtype=torch.float32, n_edges=2048, *, ordered=True, periodic=True, features=None):
    """Everything that the operators launch, with all of their derivatives.

    Args:
        n_features: Number of features.
        dtype: Precision.
        n_edges: Number of edges; those of an atom are summed in two steps if there are more than 1,024.
        ordered: Whether edges are not sorted, so that they are read by an order.
        periodic: Whether they cross lattice vectors.
        features: Precision of features, if it is another one.
    """
    n_atoms, real = 9, {"dtype": dtype}
    index = torch.arange(2 * n_edges).view(2, -1) % n_atoms
    interval, order = torch.zeros(n_edges, dtype=torch.int64), torch.arange(n_edges)
    ptr, interval_ptr = torch.zeros(n_atoms + 1, dtype=torch.int64), torch.zeros(INTERVALS + 1, dtype=torch.int64)
    order = order if ordered else None
    graph = SplineGraph(interval, *index, ptr, order, ptr, order, interval_ptr, order)
    x, basis = torch.zeros(n_atoms, n_features, dtype=features or dtype), torch.zeros(n_edges, 4, **real)
    table, pos, dist = torch.zeros(INTERVALS + 3, n_features, **real), torch.zeros(n_atoms, 3, **real), basis[:, 0]
    shift, cell = torch.zeros(n_edges, 3, dtype=torch.int32), torch.zeros(2, 3, 3, **real)
    lattice = (index, shift, cell, torch.arange(n_atoms) % 2) if periodic else (index, None, None, None)
    cell = cell if periodic else None
    with backend.recorded() as found:
        backend.spline_conv(x, table, basis, graph)
        backend.spline_conv_grad_table(x, x, basis, INTERVALS + 3, graph)
        backend.spline_conv_grad_basis(x, x, table, graph)
        backend.edge_lengths(pos, *lattice, 5.0)
        backend.edge_lengths_backward(dist, pos, *lattice, dist, needs_cell=periodic)
        backend.edge_lengths_double_backward(pos, cell, dist, pos, *lattice, dist, needs_cell=periodic)
        backend.spline_basis(dist, 5.0, INTERVALS, with_slopes=True)
    return found


def compiled(launch, capability):
    """A recorded launch, compiled for a compute capability such as 90."""
    names, signature, constants, attributes = launch.kernel.arg_names, {}, {}, {}
    for place, name in enumerate(names):
        value = launch.arguments[name]
        if launch.kernel.params[place].is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[place,] = TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "i64" if value >= 2**31 else "i32"
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.num_warps, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(binary):
    """Registers of a thread, and bytes of its stack, local memory and shared memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    found = dict(re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", text.stdout))
    return {name.lower(): int(value) for name, value in found.items()}


def table(sizes, capabilities, dtype=torch.float32, features=None):
    """One row for each kernel, number of features and compute capability."""
    rows = []
    for n_features in sizes:
        for number, launch in enumerate(launches(n_features, dtype, features=features)):
            name = launch.kernel.fn.__name__.strip("_")
            if (n_features != sizes[0] or features) and "F" not in launch.arguments:
                continue
            for capability in capabilities:
                row = {"kernel": name, "number": number, "features": n_features if "F" in launch.arguments else None}
                row |= {"capability": capability, "warps": launch.num_warps, "dtype": str(dtype).split(".")[1]}
                rows.append(row | resources(compiled(launch, capability).asm["cubin"]))
    return rows


def joined(files):
    """Lines of one table of files that ``--json`` wrote: a column for each, with the numbers of all devices."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    capabilities = list(dict.fromkeys(row["capability"] for one in found for row in one["rows"]))
    names = [f"{SHORT.get(one['features'], 'fp32')}, triton {one['triton']}" for one in found]
    yield f"Registers on {' and '.join(f'sm_{one}' for one in capabilities)}, bytes of stack in brackets\n"
    yield f"| kernel | features | {' | '.join(names)} |"
    yield f"| --- | --- | {' | '.join('---' for _ in names)} |"
    cells = [{} for _ in found]
    for cell, one in zip(cells, found, strict=True):
        for row in one["rows"]:
            spilled = row["stack"] + row["local"]
            number = f"{row['reg']} ({spilled})" if spilled else f"{row['reg']}"
            cell.setdefault((row["kernel"], row["features"], row["number"]), []).append(number)
    for key in dict.fromkeys(key for cell in cells for key in sorted(cell, key=lambda one: (one[2], one[1] or 0))):
        numbers = [", ".join(cell.get(key, ["–"])) for cell in cells]
        yield f"| `{key[0]}` | {key[1] or 'any'} | {' | '.join(numbers)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[64, 128, 256], help="numbers of features")
    parser.add_argument("--capabilities", type=int, nargs="+", default=[80, 90], help="compute capabilities, times ten")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="precision")
    parser.add_argument("--feature-dtype", choices=["bfloat16", "float16"], help="precision of features alone")
    parser.add_argument("--json", type=Path, help="file to write all numbers to")
    parser.add_argument("--join", type=Path, nargs="+", help="print one table of such files, and compile nothing")
    options = parser.parse_args()
    if options.join:
        print(*joined(options.join), sep="\n")
        return
    features = getattr(torch, options.feature_dtype) if options.feature_dtype else None
    rows = table(options.features, options.capabilities, getattr(torch, options.dtype), features)
    precision = options.dtype if features is None else f"{options.dtype} with features of {options.feature_dtype}"
    print(f"triton {triton.__version__}, {precision}: registers of a thread, spilled bytes in brackets\n")
    columns = [f"sm_{capability}" for capability in options.capabilities]
    print(f"| kernel | features | warps | {' | '.join(columns)} |")
    print(f"| --- | --- | --- | {' | '.join('---' for _ in columns)} |")
    step = len(columns)
    for begin, end in pairwise(range(0, len(rows) + 1, step)):
        first = rows[begin]
        cells = [f"{row['reg']} ({row['stack'] + row['local']})" for row in rows[begin:end]]
        print(f"| `{first['kernel']}` | {first['features'] or 'any'} | {first['warps']} | {' | '.join(cells)} |")
    if options.json:
        content = {"triton": triton.__version__, "features": options.feature_dtype, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

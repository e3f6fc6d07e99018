"""The same work in this process, its children and its threads; run as a module, it prints the results."""

import functools
import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import DataLoader, Dataset

from pyg_schnet import SchNet
from pyg_schnet.ops import spline_conv, spline_conv_grad_basis, spline_conv_grad_table
from tests.ops.graphs import LARGE, make_case


@functools.cache
def large_case():
    return make_case(**LARGE, dtype=torch.float32)


def digest():
    """What the kernels give for a large graph, and their gradients: a hash of all bits."""
    g, x, c, h, graph = large_case()
    inputs = [value.detach().requires_grad_() for value in (x, c, h)]
    outputs = [
        *torch.autograd.grad(spline_conv(*inputs, graph), inputs, g),
        spline_conv(x, c, h, graph),
        spline_conv_grad_table(g, x, h, c.size(0), graph),
        spline_conv_grad_basis(g, x, c, graph),
    ]
    return hashlib.sha256(b"".join(value.detach().numpy().tobytes() for value in outputs)).hexdigest()


def build():
    torch.manual_seed(0)
    return SchNet(64, 64, 2, 20, 5.0).double().eval()


def energies(model):
    """Energies of a model for a cluster of 125 atoms, and one of its forces."""
    grid = torch.arange(5, dtype=torch.float64) * 1.4
    pos = torch.cartesian_prod(grid, grid, grid)
    pos = (pos + 0.1 * torch.sin(7.0 * pos.roll(1, 1))).requires_grad_()
    energy = model(torch.arange(125) % 9 + 1, pos)
    (gradient,) = torch.autograd.grad(energy.sum(), pos)
    return [energy.item(), *gradient[0].tolist()]


def work(model):
    return {"digest": digest(), "energies": energies(model)}


def work_in_child(model):
    """In a child that was forked off, torch itself hangs with more than one thread, but the kernels do not."""
    found = digest()
    torch.set_num_threads(1)
    return {"digest": found, "energies": energies(model)}


class Items(Dataset):
    """Work done where the data are loaded."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return work(self.model)


def in_process(method, model, **settings):
    os.environ |= settings
    with multiprocessing.get_context(method).Pool(1, torch.set_num_threads, (2,)) as pool:
        found = pool.apply_async(work_in_child, (model,)).get(timeout=60)
    for name in settings:
        del os.environ[name]
    return [found]


def in_threads(model):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(work, [model] * 8))


def main():
    torch.set_num_threads(2)
    model = build()
    found = {
        "this process": [work(model)],
        "forked off": in_process("fork", model),
        "one thread of numba": in_process("spawn", model, NUMBA_NUM_THREADS="1"),
        "one thread of OpenMP": in_process("spawn", model, OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="2"),
        "data loader": list(DataLoader(Items(model), batch_size=None, num_workers=1, timeout=60)),
        "threads": in_threads(model),
        "this process again": [work(model)],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Write ``schnetpack.safetensors``: outputs and gradients of small random SchNetPack models, in float64.

Run where SchNetPack 2.1 is installed, from the root of the repository::

    python -m tests.golden.make_schnetpack

Nothing of pyg_schnet is used: neighbours come from ASE, everything else from SchNetPack. The file holds the structures
(``molecules/...``, ``crystals/...``) and for each case the state dict (``<case>/state/...``), outputs and position
gradients of their sum.
"""

import json
from pathlib import Path

import ase
import numpy as np
import torch
import torch.nn.functional as F
from ase import Atoms
from ase.build import molecule
from ase.cluster import Octahedron
from ase.neighborlist import neighbor_list
from safetensors.torch import save_file

FILE = Path(__file__).with_name("schnetpack.safetensors")
CUTOFF = 5.0
CASES = {  # output module, activation, offsets added afterwards
    "sum-silu-offsets": {"mode": "sum", "activation": "silu", "offsets": True},
    "sum-ssp-two": {"mode": "sum", "activation": "ssp", "n_out": 2},
    "avg-ssp-offsets": {"mode": "avg", "activation": "ssp", "offsets": True},
    "dipole-silu": {"mode": "dipole", "activation": "silu"},
    "magnitude-ssp": {"mode": "dipole", "activation": "ssp", "magnitude": True, "correct": False},
}


def import_schnetpack():
    """SchNetPack 2.1 reads a name that newer torch no longer has."""
    from typing import TypeVar

    import torch.utils.data.dataloader

    if not hasattr(torch.utils.data.dataloader, "T_co"):
        torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)
    import schnetpack

    return schnetpack


def molecules():
    """Molecules, and a cluster whose inner atoms have more than 32 neighbours."""
    cluster = Octahedron("Cu", 5, latticeconstant=3.61)
    cluster.numbers[::3] = 79
    cluster.rattle(0.1, seed=2)
    return [molecule("H2O"), molecule("CH3CH2OH"), molecule("CH3OH"), molecule("C60")[:24], cluster]


def crystals():
    """A triclinic crystal and a cell smaller than the cutoff."""
    scaled = [[0.02, 0.05, 0.01], [0.48, 0.31, 0.22], [0.71, 0.82, 0.40], [0.23, 0.66, 0.74], [0.85, 0.12, 0.91]]
    cell = [[4.9, 0.3, -0.2], [1.4, 4.4, 0.5], [-0.9, 1.1, 5.3]]
    small = [[2.4, 0.1, 0.0], [0.3, 2.5, 0.2], [-0.1, 0.4, 2.6]]
    return [
        Atoms("TiO2SiC", scaled_positions=scaled, cell=cell, pbc=True),
        Atoms("SiC", scaled_positions=[[0.0, 0.0, 0.0], [0.46, 0.52, 0.49]], cell=small, pbc=True),
    ]


def build(
    mode,
    activation,
    offsets=False,
    magnitude=False,
    correct=True,
    n_out=1,
    seed=0,
    size=6,
    filters=5,
    gaussians=10,
    interactions=2,
    cutoff=CUTOFF,
):
    """SchNetPack model with random weights, biases and offsets, in float64."""
    spk = import_schnetpack()
    torch.manual_seed(seed)
    act = {"silu": F.silu, "ssp": spk.nn.shifted_softplus}[activation]
    if mode == "dipole":
        head = spk.atomistic.DipoleMoment(
            size, activation=act, predict_magnitude=magnitude, correct_charges=correct, dipole_key="y"
        )
    else:
        head = spk.atomistic.Atomwise(size, n_out, activation=act, aggregation_mode=mode)
    post = []
    if offsets:
        post.append(spk.transform.AddOffsets("y", add_mean=True, add_atomrefs=True, is_extensive=mode == "sum"))
        post[0].mean = torch.tensor([-3.2])
        post[0].atomref = torch.randn(100)
    model = spk.model.NeuralNetworkPotential(
        representation=spk.representation.SchNet(
            n_atom_basis=size,
            n_interactions=interactions,
            radial_basis=spk.nn.GaussianRBF(gaussians, cutoff),
            cutoff_fn=spk.nn.CosineCutoff(cutoff),
            n_filters=filters,
        ),
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[head],
        postprocessors=post,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.double().eval()


def evaluate(model, structures, cutoff=CUTOFF):
    """Outputs ``[B, ...]`` and gradient of their sum by the positions ``[N, 3]``."""
    dtype = next(model.parameters()).dtype
    index_i, index_j, offsets, start = [], [], [], 0
    for atoms in structures:
        i, j, shift = neighbor_list("ijS", atoms, cutoff)
        index_i.append(i + start)
        index_j.append(j + start)
        offsets.append(shift @ atoms.cell.array)
        start += len(atoms)
    sizes = [len(atoms) for atoms in structures]
    pos = torch.from_numpy(np.concatenate([atoms.positions for atoms in structures])).to(dtype).requires_grad_()
    out = model(
        {
            "_atomic_numbers": torch.from_numpy(np.concatenate([atoms.numbers for atoms in structures]).astype(int)),
            "_positions": pos,
            "_idx_i": torch.from_numpy(np.concatenate(index_i)),
            "_idx_j": torch.from_numpy(np.concatenate(index_j)),
            "_offsets": torch.from_numpy(np.concatenate(offsets)).to(dtype),
            "_idx_m": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
            "_n_atoms": torch.tensor(sizes),
        }
    )["y"]
    return out.detach(), torch.autograd.grad(out.sum(), pos)[0]


def main():
    """Write the file."""
    spk = import_schnetpack()
    tensors = {}
    for name, structures in (("molecules", molecules()), ("crystals", crystals())):
        sizes = [len(atoms) for atoms in structures]
        tensors[f"{name}/z"] = torch.from_numpy(np.concatenate([atoms.numbers for atoms in structures]).astype(int))
        tensors[f"{name}/pos"] = torch.from_numpy(np.concatenate([atoms.positions for atoms in structures]))
        tensors[f"{name}/batch"] = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        tensors[f"{name}/cell"] = torch.from_numpy(np.stack([atoms.cell.array for atoms in structures]))
    for seed, (case, options) in enumerate(CASES.items()):
        model = build(**options, seed=seed)
        tensors.update({f"{case}/state/{key}": value.contiguous() for key, value in model.state_dict().items()})
        for name, structures in (("molecules", molecules()), ("crystals", crystals())):
            if name == "crystals" and options["mode"] == "dipole":
                continue
            output, gradient = evaluate(model, structures)
            tensors[f"{case}/{name}/output"] = output.contiguous()
            tensors[f"{case}/{name}/gradient"] = gradient.contiguous()
    versions = {"schnetpack": spk.__version__, "torch": torch.__version__, "ase": ase.__version__}
    save_file(tensors, FILE, metadata={"versions": json.dumps(versions), "cases": json.dumps(CASES)})
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

"""A rough speed check of a small model, beside matrix products of the same machine in the same seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from ase.build import molecule

from pyg_schnet.data import AtomsDataset
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.models import SchNet

_NAMES = ("CH3CH2OH", "C6H6", "CH3COOH", "C5H5N", "CH3CONH2", "C4H4O", "CH3CH2NH2", "C3H8")
_SECONDS = {"matrices": 1.0, "energy_forces": 2.0, "training_step": 2.0}
_TOLERANCE = 1e-4  # relative to the largest force; kernels and torch differ by rounding in float32


class Check:
    """The model and molecules of the check, on one device.

    Args:
        device: Name of the device.

    Example:
        >>> check = Check("cpu")
        >>> check.disagreement() is None  # kernels compute what plain torch does
        True
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        is_cpu = self.device.type == "cpu"
        self.copies, self.rows = (8, 512) if is_cpu else (128, 4096)
        torch.manual_seed(0)
        self.model = SchNet(64, 64, 3, 25, 5.0).to(self.device)
        structures = [molecule(name) for name in _NAMES]
        dataset = AtomsDataset(structures)
        self.batch = collate_indices(dataset, [*range(len(dataset))] * self.copies).to(self.device)
        self.one = collate_indices(dataset, [0]).to(self.device)
        noise = 0.02 * torch.randn(self.batch.pos.shape, generator=torch.Generator().manual_seed(0))
        self.pos = self.batch.pos.to(torch.float32) + noise.to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0)  # the model stays as it is

    def energy_forces(self) -> None:
        """One evaluation of the batch."""
        self.model.eval()
        energy_forces_stress(self.model, self.batch.z, self.pos, self.batch.batch, batch_size=self.batch.num_graphs)

    def training_step(self) -> None:
        """One step of training on energies."""
        self.model.train()
        energy = self.model(self.batch.z, self.pos, self.batch.batch, batch_size=self.batch.num_graphs)
        self.optimizer.zero_grad()
        energy.square().mean().backward()
        self.optimizer.step()

    def matrix_product(self) -> Callable[[], Any]:
        """One product of square matrices."""
        left, right = (torch.randn(self.rows, self.rows, device=self.device) for _ in range(2))
        out = torch.empty_like(left)
        return lambda: torch.mm(left, right, out=out)

    def warm_up(self) -> float:
        """Seconds of the first calls, in which kernels are compiled or read."""
        start = time.perf_counter()
        self.energy_forces()
        self.training_step()
        self._wait()
        return time.perf_counter() - start

    def disagreement(self) -> str | None:
        """Sentence on forces that differ from those by plain torch operations; ``None`` where they do not."""
        self.model.eval()
        found: dict[str, Any] = {}
        for backend in ("auto", "reference"):
            self.model.backend = backend
            found[backend] = energy_forces_stress(
                self.model, self.batch.z, self.pos, self.batch.batch, batch_size=self.batch.num_graphs
            ).forces
        self.model.backend = "auto"
        difference = (found["auto"] - found["reference"]).abs().max() / found["reference"].abs().max()
        if float(difference) < _TOLERANCE:
            return None
        return (
            f"on {self.device}, kernels and plain torch operations give forces that differ by {float(difference):.1e} "
            "of the largest one; use backend='reference', and report it with the file of --json"
        )

    def measure(self) -> dict[str, Any]:
        """Speeds, as JSON can hold them; shares are those of the speed of matrix products."""
        products = 2.0 * self.rows**3 / self._seconds(self.matrix_product(), _SECONDS["matrices"])
        size = self.batch.num_graphs
        one: dict[str, Any] = {"batch_size": 1, "forces": True}
        found: dict[str, Any] = {
            "device": str(self.device),
            "channels": self.model.hidden_channels,
            "blocks": self.model.num_interactions,
            "batch_size": size,
            "n_atoms": self.batch.num_nodes / size,
            "program": self.model.eval().plan(self.one.z, self.one.pos.to(torch.float32), **one).program,
            "torch_threads": torch.get_num_threads(),
            "matrix_product_gflops": round(products / 1e9, 2),
        }
        for name in ("energy_forces", "training_step"):
            seconds = self._seconds(getattr(self, name), _SECONDS[name])
            speed = 2.0 * self.multiplications(training=name == "training_step") / seconds
            found[name] = {
                "structures_per_second": round(size / seconds, 1),
                "gflops": round(speed / 1e9, 3),
                "share": round(speed / products, 4),
            }
        return found

    def multiplications(self, *, training: bool) -> float:
        """Multiplications of dense layers, filters and convolutions of a call; softplus and searches count nothing.

        A pair of atoms has five for each filter, four for the spline and one for the feature; gradients with respect to
        features and to filters (distances, or tables) have as many each. Dense layers of atoms have one gradient more,
        with respect to features, or two, with weights. In training, tables are made by the filter network.
        """
        dense, network = self.of_layers()
        blocks, filters = self.model.num_interactions, self.model.num_filters
        n_atoms, pairs = self.batch.num_nodes, 5 * filters * blocks * self.num_edges()
        if not training:
            return 2 * dense * n_atoms + 3 * pairs
        block: Any = self.model.train().interactions[0]
        grid = block.conv.spline.num_grid_points
        return 3 * dense * n_atoms + 3 * pairs + 3 * blocks * grid * network

    def of_layers(self) -> tuple[int, int]:
        """Multiplications of all dense layers for an atom, and of one filter network for a distance."""
        model = self.model
        width, filters = model.hidden_channels, model.num_filters
        network: Any = model.readout.network
        readout = network.lin1.weight.numel() + network.lin2.weight.numel()
        blocks = model.num_interactions * (2 * width * filters + width * width)
        return blocks + readout, model.num_gaussians * filters + filters * filters

    def num_edges(self) -> int:
        """Number of pairs within the cutoff, each in both directions."""
        from pyg_schnet.neighbors import radius_graph

        return radius_graph(self.pos, self.model.cutoff, self.batch.batch).size(1)

    def _seconds(self, call: Callable[[], Any], budget: float) -> float:
        """Median time of a call within a time to spend."""
        call()
        self._wait()
        times: list[float] = []
        end = time.perf_counter() + budget
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            call()
            self._wait()
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

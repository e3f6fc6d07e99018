"""What LAMMPS calls in every step: forces of the own atoms, energy and virial of all."""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.interfaces.lammps.domain import DomainModel
from pyg_schnet.interfaces.lammps.exchange import ExchangePlan
from pyg_schnet.interfaces.lammps.halo import collect
from pyg_schnet.interfaces.lammps.neighbors import NeighborLists, check_complete
from pyg_schnet.potential import Potential

_VOIGT = np.array([0, 4, 8, 1, 2, 5])  # xx yy zz xy xz yz of a 3 × 3 matrix, LAMMPS' order


class DomainForces:
    r"""Callback of ``fix external``: forces of the atoms of a domain, energy and virial of the whole structure.

    With :math:`\mathbf{d}_{ij} = \mathbf{r}_j - \mathbf{r}_i` of the edges to own atoms i and
    :math:`\mathbf{g}_{ij} = \partial E_\mathrm{own} / \partial \mathbf{d}_{ij}`, where gradients that other ranks have
    of exchanged features are part of the derivative,

    .. math:: \mathbf{F}_i = \sum_j \mathbf{g}_{ij} - \sum_k \mathbf{g}_{ki}, \qquad
              W_{ab} = -\sum_{ij} d_{ij, a}\, g_{ij, b}

    Forces on atoms of other ranks are sent to these. Distances are computed in float64, the network in its own
    precision, and energies of elements are added in float64.

    Args:
        lmp: The ``lammps`` object.
        potential: The potential.
        numbers: Atomic number of each type of atom, from type 1 on.
        fix: Name of the ``fix external``.

    Attributes:
        energy: Potential energy of all atoms in eV, of the last call.
        plan: Which rows are exchanged; ``None`` before the first call.
        n_builds: How often edges were built.
        n_plans: How often plans of the exchange were made.
        seconds: Time in s spent in each part: ``"edges"``, ``"model"``, ``"sums"``.
    """

    def __init__(self, lmp: Any, potential: Potential, numbers: list[int], fix: str) -> None:
        self.lmp, self.potential, self.fix = lmp, potential, fix
        self.comm = lmp.get_mpi_comm().Dup()
        self.numbers = np.array([0, *numbers])
        self.model = DomainModel(potential.model)
        self.lists = NeighborLists(lmp)
        self.energy = 0.0
        self.n_builds = self.n_plans = 0
        self.seconds = {"edges": 0.0, "model": 0.0, "sums": 0.0}
        self._ids: np.ndarray | None = None
        self.plan: ExchangePlan | None = None
        self._last: tuple[float, int] | None = None  # builds of LAMMPS' list, and step

    def __call__(self, _: Any, step: int, num_own: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        """Fill the forces of the own atoms in eV/Å; any error ends the run on all ranks.

        Args:
            step: Number of the step.
            num_own: Number of own atoms.
            tag: Their identifiers, shape ``[num_own]``.
            x: Their positions in Å, shape ``[num_own, 3]``.
            f: Their forces, shape ``[num_own, 3]``.
        """
        try:
            self._compute(int(step), num_own, f)
        except BaseException:  # ctypes would print it, and LAMMPS go on with wrong forces
            traceback.print_exc()
            print(f"rank {self.comm.rank} could not compute forces of step {step}; the run ends", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            self.comm.Abort(1)

    def _compute(self, step: int, num_own: int, f: np.ndarray) -> None:
        begin = time.perf_counter()
        n_builds = self.lmp.get_thermo("nbuild")
        fresh = self._last != (n_builds, step - 1)  # the same on all ranks
        if fresh:
            self._build(num_own)
        self._last = n_builds, step
        plan = self.plan
        assert plan is not None
        pos = torch.from_numpy(self._positions(num_own + self._num_ghosts))
        vec = pos.index_select(0, self._source).sub_(pos.index_select(0, self._target))  # [E, 3]
        squared = vec.square().sum(1)
        inside = (squared < self.model.cutoff**2).nonzero()[:, 0]
        vec, dist = vec.index_select(0, inside), squared.index_select(0, inside).sqrt()
        index = self._rows.index_select(1, inside)
        if fresh:
            self.potential.check.edges(self._z, index, dist)
        middle = time.perf_counter()
        values, slope = self._evaluate(index, dist)
        behind = time.perf_counter()
        grad = vec * (slope / dist).unsqueeze(1)  # g, [E, 3]
        forces = torch.zeros(plan.num_own + plan.num_remote, 3, dtype=torch.float64)
        forces.index_add_(0, index[1], grad).index_add_(0, index[0], grad, alpha=-1.0)
        f[:] = collect(forces, plan).numpy()
        virial = -(vec.T @ grad)
        self._report(values, virial.numpy())
        for name, start, end in (("edges", begin, middle), ("model", middle, behind)):
            self.seconds[name] += end - start
        self.seconds["sums"] += time.perf_counter() - behind

    def _evaluate(self, index: Tensor, dist: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of the own atoms in eV, and derivatives of the energy of all with respect to distances."""
        potential, plan = self.potential, self.plan
        assert plan is not None
        with torch.inference_mode(False), torch.enable_grad():
            length = dist.to(potential.dtype).detach().requires_grad_()
            values = self.model(self._z, plan, index, length)
            (slope,) = torch.autograd.grad(values.sum(), length)
        energies = potential.factor * values.detach().to(torch.float64)
        if potential.element_energies is not None:
            energies = energies + potential.element_energies[self._z[: plan.num_own], 0]
        return energies, potential.factor * slope.to(torch.float64)

    def _report(self, energies: Tensor, virial: np.ndarray) -> None:
        """Give LAMMPS energy and virial of all atoms, which it wants on every rank, and energies of atoms."""
        mine, total = np.concatenate([[energies.sum()], virial.reshape(9)[_VOIGT]]), np.empty(7)
        self.comm.Allreduce(mine, total)
        if not np.isfinite(total).all():
            raise ValueError(
                f"energy and virial must be finite, got {total[0]} eV; atoms may be far closer than any in training"
            )
        self.energy = float(total[0])
        self.lmp.fix_external_set_energy_global(self.fix, self.energy)
        self.lmp.fix_external_set_virial_global(self.fix, total[1:].tolist())
        self.lmp.numpy.fix_external_set_energy_peratom(self.fix, energies.numpy())

    def _build(self, num_own: int) -> None:
        """Take edges from LAMMPS, and make a new plan if atoms or ghosts have changed on any rank."""
        num_atoms = self.lmp.extract_setting("nall")
        self._num_ghosts = num_atoms - num_own
        ids = self.lmp.numpy.extract_atom("id", nelem=num_atoms).copy()
        known = self._ids is not None and self.plan is not None and self.plan.num_own == num_own
        changed = not known or not np.array_equal(ids, cast(np.ndarray, self._ids))
        if self.comm.allreduce(int(changed)):  # on any rank
            self.plan, self._ids = ExchangePlan(self.comm, ids[:num_own], ids[num_own:]), ids
            self.n_plans += 1
        plan = self.plan
        assert plan is not None
        types = self.lmp.numpy.extract_atom("type", nelem=num_atoms)
        z = np.empty(plan.num_own + plan.num_remote, dtype=np.int64)
        z[plan.row] = self.numbers[types]
        self._z = torch.from_numpy(z)
        source, target, ptr = self.lists.edges(num_own)
        if self.n_builds == 0:
            check_complete(self._positions(num_atoms), num_own, source, ptr, self.model.cutoff)
        self._source, self._target = torch.from_numpy(source), torch.from_numpy(target)
        self._rows = torch.from_numpy(np.stack([plan.row[source], target]))
        self.n_builds += 1

    def _positions(self, num_atoms: int) -> np.ndarray:
        """Positions of own atoms and ghosts in Å, in LAMMPS' memory."""
        return self.lmp.numpy.extract_atom("x", nelem=num_atoms)

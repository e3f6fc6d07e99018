"""Mistakes picked by hand: those that once went unnoticed, and some of the physics and the contract of every module.

To refresh the list after the code has changed, run ``pytest tests/test_mutants.py``: it names every entry whose old
text no longer occurs exactly once.
"""

# ruff: noqa: E501 - tables, one line for each entry

from __future__ import annotations

from .mutant import Mutant

ONCE_UNNOTICED = [
    Mutant("verlet-largest-strain", "neighbors/verlet.py", "lattice.cell)[:, -1] if strained", "lattice.cell)[:, 0] if strained"),
    Mutant("other-devices-own-image", "ops/radius.py", "keep[omit[chunk] - shift[:, n_ranges // 2]] = False", "pass"),
    Mutant("other-devices-chunk", "ops/radius.py", 'rounding_mode="floor")) + chunk.start', 'rounding_mode="floor"))'),
    Mutant("other-devices-cutoff", "ops/radius.py", "source, target) < cutoff * cutoff", "source, target) <= cutoff * cutoff"),
    Mutant("differentiable-mean", "ops/interactions.py", "summed = summed if n_neighbors is None else summed / n_neighbors.unsqueeze(-1)", "summed = summed"),
    Mutant("differentiable-residual", "ops/interactions.py", "x = x + linear(shifted_softplus(", "x = linear(shifted_softplus("),
    Mutant("split-overlaps", "data/split.py", "together = np.concatenate([self.train, self.val, self.test])", "together = np.concatenate([np.unique(part) for part in (self.train, self.val)] + [self.test[:0]])"),
    Mutant("split-twice-in-test", "data/split.py", "together = np.concatenate([self.train, self.val, self.test])", "together = np.concatenate([self.train, self.val, np.unique(self.test)])"),
    Mutant("rmse-is-mse", "train/sums.py", "(square / count) ** 0.5", "square / count"),
    Mutant("scale-not-per-atom", "train/references.py", "residual, target = residual / n_atoms, target / n_atoms", "target = target / n_atoms"),
    Mutant("exported-shift", "train/references.py", "readout.shift.mul_(scale.to(readout.shift))", "pass"),
    Mutant("merge-validated-on-test", "cli/_merging.py", "np.concatenate([other.train, other.val])", "other.train"),
    Mutant("restarts-in-steps", "train/task.py", "epoch = self.trainer.global_step / steps_per_epoch(self.trainer)", "epoch = self.trainer.global_step"),
    Mutant("best-not-restored", "cli/train.py", 'task.load_state_dict(checkpoint["state_dict"])', "pass", tests=("cli/test_commands.py",)),
    Mutant("per-atom-without-label", "train/potential.py", "n_atoms = n_atoms if mask is None else n_atoms[mask]", "n_atoms = n_atoms if mask is None else n_atoms[: int(mask.sum())]"),
    Mutant("order-of-predictions", "cli/_prediction.py", "return torch.cat(values)", "return torch.cat(values[::-1])", tests=("cli/test_predict_batches.py",)),
    Mutant("p-value-ties", "analysis/embedding.py", "(null >= score).sum()", "(null > score).sum()"),
    Mutant("locality-at-radius", "analysis/atoms.py", "torch.searchsorted(dist, limits)", "torch.searchsorted(dist, limits, right=True)"),
    Mutant("strain-of-cell", "geometry.py", "return pos, cell + cell @ strain", "return pos, cell + 2 * cell @ strain"),
    Mutant("strain-of-positions", "geometry.py", 'torch.einsum("nd,nde->ne", pos, strain', '0.5 * torch.einsum("nd,nde->ne", pos, strain'),
    Mutant("volume", "geometry.py", "return torch.linalg.det(cell).abs()", "return cell.diagonal(dim1=-2, dim2=-1).prod(-1).abs()"),
]  # fmt: skip
"""What no test noticed, and what only tests with an oracle of the package's own did."""

NEIGHBORS = [
    Mutant("verlet-skin", "neighbors/verlet.py", "least * (self.cutoff + self.skin) - 2 * longest", "least * (self.cutoff + self.skin) - longest"),
    Mutant("verlet-wrap-sign", "neighbors/verlet.py", "- wrap.index_select(0, source.index_select(0, edges))", "+ wrap.index_select(0, source.index_select(0, edges))"),
    Mutant("verlet-drift", "neighbors/verlet.py", "vector_norm(step - drift.index_select(0, index), dim=1)", "vector_norm(step, dim=1)"),
    Mutant("verlet-same-number", "neighbors/verlet.py", "and torch.equal(lattice.pbc, old.lattice.pbc)", "and True"),
    Mutant("criterion-axis", "ops/radius.py", "for axis in range(3):\n        component = sources", "for axis in range(2):\n        component = sources"),
    Mutant("criterion-shift", "neighbors/criterion.py", "total += s[2] * a[2]", "total -= s[2] * a[2]"),
    Mutant("images-margin", "neighbors/lattice.py", "margin = cutoff / lattice.height", "margin = 0.9 * cutoff / lattice.height"),
    Mutant("wrap-sign", "neighbors/lattice.py", "wrap = torch.where(periodic, -frac.floor(), 0.0)", "wrap = torch.where(periodic, frac.floor(), 0.0)"),
    Mutant("bins-reach", "neighbors/search.py", "begin + 2 * REACH[2], right=True", "begin + 2 * REACH[2]"),
    Mutant("cell-of-another", "neighbors/periodic.py", "images.shift.index_select(0, image) - images.wrap.index_select(0, target)", "images.shift.index_select(0, image) + images.wrap.index_select(0, target)"),
    Mutant("interaction-batch", "neighbors/interaction.py", "radius_graph(pos, self.cutoff, batch, backend", "radius_graph(pos, self.cutoff, backend"),
]  # fmt: skip

LAYERS = [
    Mutant("vector-sign", "geometry.py", "pos.index_select(0, edge_index[0]) - pos.index_select(0, edge_index[1])", "pos.index_select(0, edge_index[1]) - pos.index_select(0, edge_index[0])"),
    Mutant("cell-of-structure", "geometry.py", "batch.index_select(0, edge_index[1]))  # [E, 3, 3]", "batch.index_select(0, edge_index[1]) * 0)"),
    Mutant("hartree", "units.py", "_HARTREE = 27.211386245988", "_HARTREE = 27.21"),
    Mutant("kilojoule", "units.py", "_KCAL_MOL / 4.184", "_KCAL_MOL / 4.19"),
    Mutant("gigapascal", "units.py", '"GPa": ("pressure", 1e-21', '"GPa": ("pressure", 1e-20'),
    Mutant("debye", "units.py", '"D": ("dipole", _DEBYE)', '"D": ("dipole", 1 / _DEBYE)'),
    Mutant("cosine-reenters", "nn/cutoff.py", "return torch.where(dist < cutoff, window, 0.0)", "return window"),
    Mutant("cosine-height", "nn/cutoff.py", "window = 0.5 * (torch.cos", "window = 1.0 * (torch.cos"),
    Mutant("gaussian-width", "nn/basis.py", "0.5 / (self.cutoff / (num_gaussians - 1)) ** 2", "0.5 / (self.cutoff / num_gaussians) ** 2"),
    Mutant("gaussian-centres", "nn/basis.py", "torch.linspace(0.0, self.cutoff, self.num_gaussians)", "torch.linspace(0.1, self.cutoff, self.num_gaussians)"),
    Mutant("softplus-shift", "ops/softplus.py", "return F.softplus(x) - _LN2", "return F.softplus(x)"),
    Mutant("filter-activation", "nn/filters.py", "return self.act(filters) if self.activate_filters else filters", "return filters"),
    Mutant("filter-window", "nn/filters.py", "self.amplitude(self.basis(dist)) * self.window(dist).unsqueeze(-1)", "self.amplitude(self.basis(dist))"),
    Mutant("conv-mean", "nn/conv.py", "out = out / neighbor_counts(", "out = out * neighbor_counts("),
    Mutant("conv-message", "nn/conv.py", "return x_j * filters", "return x_j + filters"),
    Mutant("dtnn-window", "nn/dtnn_conv.py", "torch.tanh(self.lin_out(x_j * factors)) * window", "torch.tanh(self.lin_out(x_j * factors))"),
    Mutant("interaction-residual", "nn/interaction.py", "return x_dst + self.lin2(", "return self.lin2("),
    Mutant("segment-derivative", "ops/segment_sum.py", "return src.index_select(0, index)", "return src.index_select(0, index) * 1.01"),
    Mutant("readout-mean", "ops/pool_atoms.py", "total = total / _at_least_one(scatter((z", "total = total * _at_least_one(scatter((z"),
    Mutant("readout-padding", "ops/pool_atoms.py", "torch.where((z > 0).unsqueeze(-1), scale", "torch.where((z >= 0).unsqueeze(-1), scale"),
    Mutant("dipole-neutral", "nn/charge_readout.py", "charges = charges - real * (excess / n_atoms).index_select(0, batch)", "charges = charges - real * excess.index_select(0, batch)"),
    Mutant("dipole-centre", "nn/charge_readout.py", "return pos - center.index_select(0, batch)", "return pos + center.index_select(0, batch)"),
    Mutant("extent-square", "nn/charge_readout.py", ".square().sum(-1), self.charges(x, z)", ".abs().sum(-1), self.charges(x, z)"),
    Mutant("max-of-padding", "nn/readout.py", "values = torch.where(real.unsqueeze(-1), values, lowest)", "values = torch.where(real.unsqueeze(-1), values, 0.0)"),
    Mutant("references-mean", "nn/atomref.py", "total / counts.clamp(min=1.0).unsqueeze(-1) if mean else total", "total"),
    Mutant("references-padding", "nn/atomref.py", "ones = (z > 0).to(", "ones = (z >= 0).to("),
    Mutant("forces-sign", "nn/response.py", "-gradients[0] if forces else None", "gradients[0] if forces else None"),
    Mutant("forces-by-hand", "nn/response.py", "-found.grad_pos if forces else None", "found.grad_pos if forces else None"),
    Mutant("stress-volume", "nn/response.py", "gradients[1] / volume(cell)[:, None, None] if stress else None", "gradients[1] if stress else None"),
    Mutant("stress-half", "nn/response.py", "0.5 * (strain + strain.mT)", "(strain + strain.mT)"),
    Mutant("virial-sign", "nn/response.py", "return -self.stress * volume(cell)", "return self.stress * volume(cell)"),
    Mutant("spline-nodes", "nn/spline.py", "dist = cutoff / (num_grid_points - 1) * steps", "dist = cutoff / num_grid_points * steps"),
    Mutant("spline-mirror", "nn/spline.py", "2.0 * cutoff - inside, inside)", "cutoff, inside)"),
    Mutant("spline-weights", "ops/bspline.py", "(4.0, 0.0, -6.0, 3.0)", "(4.0, 0.0, -6.0, 3.1)"),
    Mutant("spline-prefilter", "ops/bspline.py", "TAPS = (1.5, -10.0 / 36.0, 1.0 / 36.0)", "TAPS = (1.0, 0.0, 0.0)"),
    Mutant("spline-end", "ops/bspline.py", "out[-2] = -0.5 * out[-3]", "out[-2] = 0.5 * out[-3]"),
    Mutant("transposed-graph", "ops/graph.py", "target_order=self.source_order,", "target_order=self.target_order,"),
]  # fmt: skip

MODELS_AND_DATA = [
    Mutant("blocks-cycle", "models/base.py", "blocks * self.num_interactions if len(blocks) == 1 else blocks", "blocks[:1] * self.num_interactions"),
    Mutant("config-window", "models/schnet.py", '"window": self.window,', '"window": "cosine",'),
    Mutant("padding-edges", "models/edges.py", "torch.where(z.index_select(0, index[0]) == 0, cutoff, dist)", "dist"),
    Mutant("pyg-gamma", "models/pyg.py", "gamma=-model.distance_expansion.coeff", "gamma=-2 * model.distance_expansion.coeff"),
    Mutant("pyg-std", "models/pyg.py", "readout.shift.fill_(scale * model.mean)", "readout.shift.fill_(model.mean)"),
    Mutant("schnetpack-width", "models/schnetpack.py", "gamma=0.5 / float(widths[0]) ** 2", "gamma=1.0 / float(widths[0]) ** 2"),
    Mutant("merged-scale", "models/ensemble.py", "model.readout.scale / len(models)", "model.readout.scale"),
    Mutant("merged-shift", "models/ensemble.py", 'for name in ("shift", "atomref"):', 'for name in ("atomref",):'),
    Mutant("merged-elements", "models/ensemble.py", 'if all(symbol in one["elements"] for one in cards)', 'if any(symbol in one["elements"] for one in cards)'),
    Mutant("file-not-evaluated", "models/checkpoint.py", "return model.eval()", "return model"),
    Mutant("file-of-the-future", "models/checkpoint.py", 'if header["format"] > FORMAT:', 'if header["format"] > FORMAT + 1:'),
    Mutant("references-kept", "models/references.py", "readout.atomref.zero_()", "pass"),
    Mutant("voigt-order", "data/labels.py", "array.reshape(6)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]", "array.reshape(6)[[[0, 3, 4], [3, 1, 5], [4, 5, 2]]]"),
    Mutant("label-unit", "data/labels.py", "array * factor(label.unit, stored)", "array / factor(label.unit, stored)"),
    Mutant("old-results", "data/labels.py", "and calc.check_state(atoms)):", "and not calc):"),
    Mutant("missing-labels", "data/ase_files.py", 'torch.tensor([name in structure for structure in structures])', 'torch.tensor([True for structure in structures])'),
    Mutant("negative-index", "data/loader.py", "torch.where(index < 0, index + size, index)", "index.abs()"),
    Mutant("joined-index", "data/loader.py", "+ first_atom.index_select(0, owner)", ""),
    Mutant("md17-forces", "data/md17.py", "forces.reshape(-1, 3) * (to_ev / to_angstrom)", "forces.reshape(-1, 3) * to_ev"),
    Mutant("qm9-atomization", "data/qm9.py", "- of_atoms)", "+ of_atoms)"),
    Mutant("mlearn-sign", "data/materials.py", "value = -np.array(value, dtype=np.float64)[self._to_voigt]", "value = np.array(value, dtype=np.float64)[self._to_voigt]"),
    Mutant("lattice-angles", "data/materials.py", "(cos_a - cos_b * cos_g) / sin_g", "(cos_a + cos_b * cos_g) / sin_g"),
    Mutant("store-selection", "data/store.py", "return self.multi_get([chosen[i] for i in indices])", "return self.multi_get(list(indices))"),
    Mutant("mask-of-atoms", "data/base.py", "else values[mask[batch.batch]]", "else values"),
    Mutant("edges-of-structures", "data/transforms.py", "bounds, batch.ptr[:-1].cpu()", "bounds, batch.ptr[1:].cpu()"),
    Mutant("fingerprint-positions", "data/split.py", "batch_near_origin(pos, batch.ptr).float())", "z.float())"),
    Mutant("random-order", "data/split.py", "np.random.PCG64(seed).random_raw(n_structures)", "np.random.PCG64(seed + 1).random_raw(n_structures)"),
]  # fmt: skip

TRAINING_AND_USE = [
    Mutant("cosine-warmup", "train/schedule.py", "return progress / warmup", "return progress"),
    Mutant("restart-period", "train/schedule.py", "period *= multiplier", "pass"),
    Mutant("ema-decay", "train/ema.py", "(1 + step) / (10 + step)", "(1 + step) / (2 + step)"),
    Mutant("ema-every", "train/ema.py", ") ** self.every", ")"),
    Mutant("relaxed-weight", "train/relaxed.py", "self.forces_weight * safe_norm(found.forces).mean()", "safe_norm(found.forces).mean()"),
    Mutant("relaxed-trace", "train/relaxed.py", ".diagonal(dim1=1, dim2=2).sum(1)", ".sum((1, 2))"),
    Mutant("forces-of-labelled", "train/potential.py", 'rows = mask[batch.batch] if target.level == "atom" else mask', "rows = slice(None)"),
    Mutant("loss-weight", "train/potential.py", '"forces": self.forces_weight, **stress', '"forces": self.energy_weight, **stress'),
    Mutant("rms-of-forces", "train/datamodule.py", "(square / count) ** 0.5", "square / count"),
    Mutant("order-of-epochs", "train/datamodule.py", "np.random.default_rng([self.seed, self.epoch])", "np.random.default_rng([self.seed])"),
    Mutant("references-of-means", "train/task.py", 'mean = self.pooling != "sum"', "mean = False"),
    Mutant("huber-delta", "train/task.py", '{"delta": self.huber_delta}', '{"delta": 1.0}'),
    Mutant("units-of-errors", "train/report.py", "value * factor(unit, target)", "value / factor(unit, target)"),
    Mutant("seconds-of-a-resumed-run", "train/record.py", "return self.seconds + (0.0", "return (0.0"),
    Mutant("start-from-readout", "train/transfer.py", 'for part in ("embedding", "interactions"):', 'for part in ("embedding",):'),
    Mutant("calculator-per-atom", "interfaces/ase.py", "self.factor * (len(z) if self.per_atom else 1)", "self.factor"),
    Mutant("calculator-offset", "interfaces/ase.py", "factor * (energy.to(torch.float64) + offset)", "factor * energy.to(torch.float64)"),
    Mutant("calculator-spread", "interfaces/ase.py", "values.std(0)", "values.std(0, ddof=1)"),
    Mutant("modes-mass", "analysis/vibration.py", "displacements = (vectors / root.unsqueeze(1)).mT", "displacements = vectors.mT"),
    Mutant("modes-linear", "analysis/vibration.py", "exists = (size > _LINEAR * extent) & (size > 1e-6)", "exists = size > -1.0"),
    Mutant("spectrum-padding", "analysis/spectrum.py", "size = _even_fft_size(2 * n_frames)", "size = _even_fft_size(n_frames)"),
    Mutant("spectrum-damping", "analysis/spectrum.py", "absorption * density / damping", "absorption * density"),
    Mutant("dimer-force", "analysis/dimer.py", "0.5 * (along[:, 1] - along[:, 0])", "0.5 * (along[:, 0] - along[:, 1])"),
    Mutant("probe-reference", "analysis/probe.py", "return self.energies - self.reference", "return self.energies"),
    Mutant("surface-hand", "analysis/surface.py", "faces = faces[:, ::-1]  # a left-handed cell is a mirror", "pass"),
    Mutant("silhouette-own", "analysis/embedding.py", "np.maximum(counts[inverse] - 1, 1)", "np.maximum(counts[inverse], 1)"),
    Mutant("potential-per-atom", "analysis/_model.py", "energy = energy * n_atoms.view", "energy = energy / n_atoms.view"),
]  # fmt: skip

KERNELS = [
    Mutant("kernel-measure", "backends/numba/edge_lengths.py", "part = pos[j, d] - pos[i, d]", "part = pos[j, d] - pos[i, 0]", tests=("ops/test_contract.py",)),
    Mutant("kernel-push", "backends/numba/edge_lengths.py", "grad_pos[i, d] -= value", "grad_pos[i, d] += value", tests=("ops/test_contract.py",)),
    Mutant("kernel-candidates", "kernels/cpu/candidates.py", "and (omit is None or j != omit[i])", "", tests=("neighbors/test_radius.py",)),
    Mutant("kernel-directed", "kernels/cpu/convolution.py", "_add_row(k + 3, begin, end, s3, out)", "_add_row(k + 3, begin, end, s2, out)", tests=("kernels/test_operator.py",)),
    Mutant("kernel-undirected", "kernels/cpu/pairs.py", "store(out, j, fma(x_i, w, load(zero, out, j)))", "pass", tests=("kernels/test_operator.py",)),
    Mutant("kernel-softplus", "kernels/cpu/softplus.py", "slope[i] = large if x[i] >= zero else q * large", "slope[i] = large", tests=("nn/test_activation.py",)),
    Mutant("kernel-second", "kernels/cpu/second.py", "v - v * slope[n, f]  # σ' = σ (1 - σ)", "v", tests=("nn/test_learn.py",)),
    Mutant("kernel-pairs", "backends/numba/sort_edges.py", "if shift[e, d] != -shift[f, d]:", "if shift[e, d] != shift[f, d]:", tests=("ops/test_half_list.py",)),
]  # fmt: skip
"""Few, since all kernels are compiled again for each."""

PLANTED = [*ONCE_UNNOTICED, *NEIGHBORS, *LAYERS, *MODELS_AND_DATA, *TRAINING_AND_USE, *KERNELS]

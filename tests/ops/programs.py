"""Cases of the operators that compute several steps in one call, with formulas written out in numpy."""

import numpy as np
import torch

from pyg_schnet import ops
from pyg_schnet.ops import SplineGraph
from pyg_schnet.ops.bspline import TAPS
from pyg_schnet.ops.filter_table import GridSamples
from pyg_schnet.ops.potential import PotentialWeights

F64 = torch.float64
CUTOFF, INTERVALS = 4.0, 9


def draw(*shapes, dtype=F64, seed=0, scale=0.5):
    random = torch.Generator().manual_seed(seed)
    return tuple((scale * torch.randn(shape, generator=random, dtype=F64)).to(dtype) for shape in shapes)


def ssp(x):
    return np.log(0.5 * np.exp(x) + 0.5)


def half_list(n_atoms, n_structures=1):
    """All pairs of each structure, sorted by target, and where each target's begin and end."""
    size = n_atoms // n_structures
    pairs = [(j, i) for i in range(n_atoms) for j in range(i // max(size, 1) * size, i)] if size else []
    index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t().contiguous()
    return index, torch.searchsorted(index[1].contiguous(), torch.arange(n_atoms + 1))


def features(z, embedding, filters, index, weights, counts):
    """Atom features after all blocks, pair by pair; real or complex."""
    x = embedding[z]
    for t in range(len(filters)):
        w0, w1, b1, w2, b2 = weights[5 * t : 5 * t + 5]
        y = x @ w0.T
        total = np.zeros(y.shape, np.result_type(y, filters[t]))
        for e, (j, i) in enumerate(index.t().tolist()):
            total[i] += y[j] * filters[t][e]
            total[j] += y[i] * filters[t][e]
        u = (total / counts[:, None]) @ w1.T + b1
        x = x + ssp(u) @ w2.T + b2
    return x


def shapes(n_blocks, n_features, n_filters):
    one = (n_filters, n_features), (n_features, n_filters), (n_features,), (n_features, n_features), (n_features,)
    return one * n_blocks


def blocks(n_atoms=4, n_blocks=2, n_features=3, n_filters=2, normalize=False, learning=True, n_structures=1):
    def make(dtype):
        index, ptr = half_list(n_atoms, n_structures)
        interval = torch.arange(index.size(1)) % INTERVALS
        z = torch.arange(n_atoms) % 3
        counts = (1.0 + torch.arange(n_atoms) % 2) if normalize else torch.ones(n_atoms)
        graph = SplineGraph(interval, index[0], index[1], ptr)
        table_shape, basis_shape = (n_blocks, INTERVALS + 3, n_filters), (index.size(1), 4)
        inputs = draw((3, n_features), table_shape, basis_shape, *shapes(n_blocks, n_features, n_filters), dtype=dtype)

        def call(embedding, table, basis, *weights, backend="auto"):
            n_neighbors = counts.to(dtype) if normalize else None
            how = {"keep_for_weights": learning, "backend": backend}
            return ops.interactions(z, embedding, table, basis, graph, weights, n_neighbors, **how)

        def expected(embedding, table, basis, *weights):
            rows = interval.numpy()[:, None] + np.arange(4)
            filters = [np.einsum("em,emf->ef", basis, table[t][rows]) for t in range(n_blocks)]
            return features(z.numpy(), embedding, filters, index, weights, counts.double().numpy())

        return call, inputs, expected

    return make


def tables(n_networks=2, n_gaussians=4, n_filters=3, n_samples=14, activate=True, vanishing=True, refined=False):
    def make(dtype):
        n_rows = n_samples // 2 + 9 if refined else n_samples
        expansion, window = draw((n_rows, n_gaussians), (n_samples, 1), dtype=dtype, seed=1)
        samples = GridSamples(expansion, window, vanishing, refined)
        one = (n_filters, n_gaussians), (n_filters,), (n_filters, n_filters), (n_filters,)

        def call(*weights, backend="auto"):
            same = [value.to(weights[0].dtype) for value in samples[:2]]
            return ops.filter_table(GridSamples(*same, vanishing, refined), weights, activate, backend=backend)

        def expected(*weights):
            found = []
            for w1, b1, w2, b2 in zip(*[iter(weights)] * 4, strict=True):
                filters = ssp(expansion.double().numpy() @ w1.T + b1) @ w2.T + b2
                filters = ssp(filters) if activate else filters
                filters = (halved(filters, n_samples) if refined else filters) * window.double().numpy()
                center, near, far = TAPS
                f = filters
                out = center * f[2:-2] + near * (f[1:-3] + f[3:-1]) + far * (f[:-4] + f[4:])
                if vanishing:
                    out[-2], out[-1] = -0.5 * out[-3], out[-3]
                found.append(out)
            return np.stack(found)

        return call, draw(*one * n_networks, dtype=dtype), expected

    return make


def halved(values, n_samples):
    """Samples on a grid of half the spacing by the polynomial of degree nine through ten of them."""
    places = np.arange(-9.0, 10.0, 2.0)
    weights = np.linalg.solve(np.vander(places, increasing=True).T, np.eye(10)[0])  # the value at zero
    given = [values[i // 2 + 4] if i % 2 == 0 else weights @ values[i // 2 : i // 2 + 10] for i in range(n_samples)]
    return np.stack(given)


def spline_rows(dist):
    """Interval and basis functions of a distance, by the polynomials of cubic B-splines; real or complex."""
    position = dist * INTERVALS / CUTOFF
    interval = min(int(np.real(position)), INTERVALS - 1)
    t = position - interval
    basis = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
    inside = np.real(dist) < CUTOFF
    return interval, np.array(basis) * inside


def potentials(n_atoms=4, n_structures=1, normalize=False, mean=False, strain=False, periodic=False):
    def make(dtype):
        index, ptr = half_list(n_atoms, n_structures)
        batch = torch.arange(n_atoms) // max(n_atoms // n_structures, 1)
        z, shift, cell = 1 + torch.arange(n_atoms) % 2, None, None
        if periodic:
            shift = torch.arange(3 * index.size(1)).reshape(-1, 3) % 2
            cell = (3.0 * torch.eye(3, dtype=F64) + 0.2).repeat(n_structures, 1, 1)
        (pos,) = draw((n_atoms, 3), dtype=F64, seed=3, scale=1.2)
        numbers = draw((3, 3), (2, INTERVALS + 3, 2), *shapes(2, 3, 2), (2, 3), (2,), (1, 2), (1,), (1,), (1,), (3, 1))
        embedding, table, *rest = numbers

        def call(pos, backend="auto"):
            own = [value.to(pos.dtype) for value in rest]
            weights = PotentialWeights(
                CUTOFF, normalize, mean, embedding.to(pos.dtype), table.to(pos.dtype), own[:10], own[10:]
            )
            lattice = shift, None if cell is None else cell.to(pos.dtype)
            graph = index, ptr, *lattice
            found = ops.potential(pos, z, batch, n_structures, *graph, weights, strain=strain, backend=backend)
            return tuple(value for value in found if value is not None)

        def energies(pos, cells):
            filters, counts = np.zeros((2, index.size(1), 2), pos.dtype), np.zeros(n_atoms)
            for e, (j, i) in enumerate(index.t().tolist()):
                vec = pos[j] - pos[i] + (0.0 if cells is None else shift[e].numpy() @ cells[batch[i]])
                dist = np.sqrt(vec @ vec)
                interval, basis = spline_rows(dist)
                counts[[i, j]] += np.real(dist) < CUTOFF
                for t in range(2):
                    filters[t, e] = basis @ table[t].numpy()[interval : interval + 4]
            counts = np.maximum(counts, 1) if normalize else np.ones(n_atoms)
            given = [value.numpy() for value in rest]
            x = features(z.numpy(), embedding.numpy(), filters, index, given[:10], counts)
            w1, b1, w2, b2, scale, shift_, atomref = given[10:]
            each = scale * (ssp(x @ w1.T + b1) @ w2.T + b2) + shift_ + atomref[z.numpy()]
            out = np.zeros(n_structures, each.dtype)
            np.add.at(out, batch.numpy(), each[:, 0])
            return out / np.maximum(np.bincount(batch.numpy(), minlength=n_structures), 1) if mean else out

        def expected(pos):
            cells, step = None if cell is None else cell.numpy(), 1e-30  # derivatives by steps along the imaginary axis
            grad = np.zeros(pos.shape)
            for place in np.ndindex(*pos.shape):
                moved = pos.astype(complex)
                moved[place] += 1j * step
                grad[place] = energies(moved, cells).imag.sum() / step
            if not strain:
                return energies(pos, cells), grad
            grad_strain = np.zeros((n_structures, 3, 3))
            for b, r, s in np.ndindex(n_structures, 3, 3):
                way = np.eye(3, dtype=complex)
                way[r, s] += 0.5j * step
                way[s, r] += 0.5j * step
                moved, lattice = pos.astype(complex), None if cells is None else cells.astype(complex)
                moved[batch.numpy() == b] = pos[batch.numpy() == b] @ way
                if lattice is not None:
                    lattice[b] = cells[b] @ way
                grad_strain[b, r, s] = energies(moved, lattice)[b].imag / step
            return energies(pos, cells), grad, grad_strain

        return call, (pos.to(dtype),), expected

    return make


def case_of(make, differentiable=True):
    """As the table of operators has it."""
    from .table import Case

    return lambda dtype: Case(*make(dtype), differentiable=differentiable)


def fixed(make):
    return case_of(make, differentiable=False)

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.data import atomic_masses

from pyg_schnet.nn import (
    DipoleReadout,
    ElectronicSpatialExtentReadout,
    HeadsReadout,
    MaxReadout,
    MeanReadout,
    SumReadout,
)

F = 16


def inputs():
    """Features of two molecules, the second with a padding atom."""
    first, second = molecule("CH3OH"), molecule("H2O")
    z = torch.tensor([*first.numbers, *second.numbers, 0])
    pos = torch.tensor(np.vstack([first.positions, second.positions, [[9.0, 9.0, 9.0]]]))
    batch = torch.tensor([0] * len(first) + [1] * (len(second) + 1))
    torch.manual_seed(0)
    return torch.randn(len(z), F, dtype=torch.float64), z, pos, batch, 2


def heads():
    torch.manual_seed(1)
    found = {
        "mu": DipoleReadout(F),
        "vector": DipoleReadout(F, magnitude=False),
        "U0, H": SumReadout(F, 2, scale=2.0, shift=1.0),
        "gap": MeanReadout(F),
        "peak": MaxReadout(F),
        "r2": ElectronicSpatialExtentReadout(F, own_extent=True),
    }
    return {name: head.double() for name, head in found.items()}


def test_outputs_and_gradients_are_those_of_the_heads_alone():
    x, *rest = inputs()
    parts = heads()
    readout = HeadsReadout(parts)
    together, alone = (x.clone().requires_grad_() for _ in range(2))
    out = readout(together, *rest)
    expected = torch.cat([head(alone, *rest) for head in parts.values()], 1)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    weights = torch.arange(1.0, 1 + readout.out_channels, dtype=torch.float64)
    grads = [
        torch.autograd.grad((one * weights).sum(), (leaf, *readout.parameters()), retain_graph=True)
        for one, leaf in ((out, together), (expected, alone))
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_columns_and_heads_have_names():
    readout = HeadsReadout(heads())
    assert {name: (one.start, one.stop) for name, one in readout.columns.items()} == {
        "mu": (0, 1), "vector": (1, 4), "U0": (4, 5), "H": (5, 6), "gap": (6, 7), "peak": (7, 8), "r2": (8, 9),
    }  # fmt: skip
    assert readout.out_channels == 9
    head, columns = readout.head("H")
    assert (type(head), columns) == (SumReadout, slice(1, 2))
    x, *rest = inputs()
    torch.testing.assert_close(head(x, *rest)[:, columns], readout(x, *rest)[:, readout.columns["H"]])
    with pytest.raises(ValueError, match=r"no head for 'lumo'; there are mu, vector, U0"):
        readout.head("lumo")


def test_new_weights_are_drawn_and_statistics_kept():
    readout = HeadsReadout(heads())
    before = {name: value.clone() for name, value in readout.state_dict().items()}
    readout.reset_parameters()
    after = readout.state_dict()
    assert not torch.equal(before["heads.2.network.lin1.weight"], after["heads.2.network.lin1.weight"])
    assert torch.equal(before["heads.2.scale"], after["heads.2.scale"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "a dictionary with a readout for each"),
        ({"a, a": SumReadout(F, 2)}, ValueError, "each property has one head, but 'a' has two"),
        ({"a": SumReadout(F), "a ": MeanReadout(F)}, ValueError, "'a' has two"),
        ({"a, b": SumReadout(F)}, ValueError, "has 2 properties but out_channels=1"),
        ({"a, b": SumReadout(F, 4)}, ValueError, "a property of several numbers has a head of its own"),
        ({"a": SumReadout(F), "b": SumReadout(2 * F)}, ValueError, "heads for 16, 32 features"),
        ({"a,": SumReadout(F)}, ValueError, "a head needs the name of a property"),
        ({"": SumReadout(F)}, ValueError, "a head needs the name of a property"),
        ({"a": torch.nn.Linear(F, 1)}, TypeError, "must be a readout such as SumReadout, got a Linear"),
        ({"a": HeadsReadout({"b": SumReadout(F)})}, TypeError, "got a HeadsReadout"),
    ],
)
def test_what_is_no_set_of_heads_is_said(given, error, message):
    with pytest.raises(error, match=message):
        HeadsReadout(given)


def test_spatial_extents_of_atoms_are_those_of_the_formula():
    x, z, pos, batch, size = inputs()
    readout = ElectronicSpatialExtentReadout(F, own_extent=True).double()
    readout.scale.copy_(torch.tensor([0.3, 0.7]))
    readout.references[[1, 6, 8]] = torch.tensor([[3.0, 4.0], [22.0, 10.0], [29.0, 11.0]], dtype=torch.float64)
    found = readout(x, z, pos, batch, size).squeeze(1).tolist()
    values, masses = readout.network(x).detach().numpy(), atomic_masses[z.numpy()]
    for b in range(size):
        own = (batch.numpy() == b) & (z.numpy() > 0)
        center = (masses[own, None] * pos.numpy()[own]).sum(0) / masses[own].sum()
        square = ((pos.numpy()[own] - center) ** 2).sum(1)
        references = readout.references[z[torch.tensor(own)]].numpy()
        expected = ((0.3 * values[own, 0] + references[:, 0]) * square + 0.7 * values[own, 1] + references[:, 1]).sum()
        assert found[b] == pytest.approx(expected, rel=1e-6)  # masses are float32


def test_references_of_extents_are_those_of_least_squares():
    rng, names = np.random.default_rng(0), ["H2O", "CH4", "CH3OH", "C2H6", "H2CO", "CH3CHO", "C2H4", "CO2", "H2", "CO"]
    atoms = [molecule(name) for name in names for _ in range(3)]
    for one in atoms:
        one.positions += rng.normal(0, 0.2, one.positions.shape) + np.array([30.0, 0.0, 0.0])
    z, pos = (
        torch.tensor(np.hstack([one.numbers for one in atoms])),
        torch.tensor(np.vstack([one.positions for one in atoms])),
    )
    batch = torch.repeat_interleave(torch.arange(len(atoms)), torch.tensor([len(one) for one in atoms]))
    target = rng.normal(size=len(atoms))
    rows = []
    for k, one in enumerate(atoms):
        square = ((one.positions - one.get_center_of_mass()) ** 2).sum(1)
        rows.append(
            [*(square[one.numbers == n].sum() for n in (1, 6, 8)), *((one.numbers == n).sum() for n in (1, 6, 8))]
        )
        target[k] += np.dot(rows[-1], [3.0, 22.0, 29.0, 4.0, 10.0, 11.0])
    readout = ElectronicSpatialExtentReadout(F, own_extent=True)
    spread = readout.fit(readout.reference_terms(z, pos, batch, len(atoms)), torch.tensor(target))
    matrix = np.array(rows, float)
    solution = np.linalg.lstsq(matrix, target, rcond=None)[0]
    assert readout.references[[1, 6, 8]].T.flatten().tolist() == pytest.approx(solution, rel=1e-3)
    assert float(spread) == pytest.approx((target - matrix @ solution).std(), rel=1e-3)


def test_extents_without_own_extent_are_as_they_were():
    readout = ElectronicSpatialExtentReadout(F)
    assert sorted(readout.state_dict()) == [
        "atomic_mass", "network.lin1.bias", "network.lin1.weight", "network.lin2.bias", "network.lin2.weight", "scale",
    ]  # fmt: skip
    assert readout.config == {"hidden_channels": F, "activation": "ssp"}

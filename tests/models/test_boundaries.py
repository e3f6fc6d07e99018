import pytest
import torch

from pyg_schnet.models.boundaries import check_boundaries, check_origin
from pyg_schnet.nn import DipoleReadout, ElectronicSpatialExtentReadout, SumReadout

OPEN, MIXED = torch.zeros(2, 3, dtype=torch.bool), torch.tensor([[False] * 3, [True, True, False]])
NEAR, FAR = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [3e5, 4e5, 0.0]])


@pytest.mark.parametrize(
    ("readout", "what"), [(DipoleReadout(8), "dipole"), (ElectronicSpatialExtentReadout(8), "spatial extent")]
)
def test_charges_at_positions_need_open_boundaries(readout, what):
    check_boundaries(readout, OPEN)
    with pytest.raises(ValueError, match=rf"the {what} of a periodic structure is not defined.* structure 1 has pbc="):
        check_boundaries(readout, MIXED)
    check_boundaries(SumReadout(8), MIXED)


def test_dipoles_of_ions_depend_on_the_origin():
    for readout in (
        DipoleReadout(8, origin="zero", neutralize=False),
        DipoleReadout(8, origin="zero", total_charge=1.0),
    ):
        check_origin(readout, NEAR)
        with pytest.raises(ValueError, match=r"depends on it.*structure 1 is 5e\+05 Å from it"):
            check_origin(readout, FAR)
    for readout in (
        DipoleReadout(8),
        DipoleReadout(8, origin="zero"),
        DipoleReadout(8, neutralize=False),
        SumReadout(8),
    ):
        check_origin(readout, FAR)

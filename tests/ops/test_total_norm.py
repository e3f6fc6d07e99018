"""The norm of all gradients against torch's own."""

import pytest
import torch

from pyg_schnet.ops import total_norm


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one,
        torch.Tensor.double,
        torch.Tensor.bfloat16,
        lambda one: one.t() if one.dim() == 2 else one,
        lambda one: one.double() if one.dim() == 1 else one,  # some of another type
    ],
    ids=["float32", "float64", "bfloat16", "strided", "mixed"],
)
def test_norm_of_all_gradients_is_that_of_torch(change):
    random = torch.Generator().manual_seed(0)
    gradients = [
        change(weight)
        for weight in [torch.randn(*shape, generator=random) for shape in ((4, 3), (5,), (1,), (2, 2, 2))]
    ]
    expected = torch.nn.utils.get_total_norm([grad.double() for grad in gradients])
    tolerance = 1e-2 if gradients[0].dtype == torch.bfloat16 else 1e-6
    assert float(total_norm(gradients)) == pytest.approx(float(expected), rel=tolerance)


def test_norm_of_nothing():
    assert float(total_norm([])) == 0.0

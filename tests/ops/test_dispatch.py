"""Which tensors are given to kernels, and what the choice says where it cannot be carried out."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from pyg_schnet.ops import kernels_for
from pyg_schnet.ops.dispatch import is_at_hand, is_dense_cpu, is_transformed, numbers_of, other_types


def there(*tensors, **options):
    return kernels_for("auto", *tensors, **options) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32, torch.bool])
def test_dense_tensors_of_the_cpu_are_taken(dtype):
    x = torch.zeros(2, 3, dtype=dtype)
    assert there(x, None, x.t(), x[:0])
    assert there(torch.nn.Parameter(torch.zeros(2)))
    assert is_at_hand(x)
    assert is_dense_cpu(x) == (dtype in (torch.float32, torch.float64))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, device="meta"),
        torch.eye(2).to_sparse(),
        torch.zeros(2).as_subclass(Subclass),
        FakeTensorMode().from_tensor(torch.zeros(2)),
    ],
    ids=["bfloat16", "complex", "meta", "sparse", "subclass", "fake"],
)
def test_other_tensors_are_not(x):
    assert not there(x)
    assert not there(torch.zeros(2), x)
    assert not is_at_hand(x)
    with pytest.raises(ValueError, match=r"takes dense tensors of float32 or float64 on the CPU, got one of .*torch\."):
        kernels_for("numba", x)


def test_nothing_but_autograd_may_follow():
    seen = []

    def look(x):
        seen.append((there(x), there(torch.zeros(2)), is_transformed()))
        return x.sum()

    x = torch.zeros(2)
    torch.func.grad(look)(x)
    torch.func.jvp(look, (x,), (x,))
    torch.func.vmap(look)(x[None])
    with forward_ad.dual_level():
        look(x)
    assert seen == [(False, False, True)] * 4
    assert there(x.requires_grad_())
    assert not is_transformed()


def test_reasons():
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="it has no kernel 'convolve_everything'"):
        kernels_for("numba", x, needs="convolve_everything")
    assert not there(x, needs="convolve_everything")
    with pytest.raises(ValueError, match="cannot be used: the moon is full; backend='auto' takes plain torch"):
        kernels_for("numba", x, unless="the moon is full")
    assert not there(x, unless="the moon is full")
    assert kernels_for("reference", x) is None
    with pytest.raises(ValueError, match="backend must be one of auto, reference, numba, triton, got 'cuda'"):
        kernels_for("cuda", x)
    assert other_types(x, x) is None
    assert other_types(x, x.double()) == "its tensors must have one floating dtype, got torch.float32, torch.float64"


def test_numbers_behind_tensors():
    x = torch.ones(3)
    found = []
    torch.func.grad(lambda v: found.append(numbers_of(v, "positions")) or v.sum())(x)
    assert torch.equal(found[0], x)
    with pytest.raises(ValueError, match=r"cannot be searched inside of torch\.vmap over positions"):
        torch.func.vmap(lambda v: numbers_of(v, "positions"))(x)

"""The fused Adam against torch's own: the same weights after the same steps."""

import copy
import pickle

import pytest
import torch

from pyg_schnet.ops import total_norm
from pyg_schnet.optim import FusedAdamW


def make_weights(dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    return [
        torch.randn(*shape, generator=random).to(dtype).requires_grad_() for shape in ((4, 3), (5,), (1,), (2, 2, 2))
    ]


def give_gradients(weights, step, skipped=()):
    random = torch.Generator().manual_seed(step)
    for k, weight in enumerate(weights):
        grad = torch.randn(weight.shape, generator=random).to(weight.dtype)
        weight.grad = None if k in skipped else grad


def make_pair(dtype=torch.float32, **options):
    """Weights and optimizer, ours and torch's."""
    ours, theirs = make_weights(dtype), make_weights(dtype)
    return (ours, FusedAdamW(ours, **options)), (theirs, torch.optim.AdamW(theirs, **options, fused=True))


def advance(pair, steps, skipped=()):
    for weights, optimizer in pair:
        for step in steps:
            give_gradients(weights, step, skipped)
            optimizer.step()


def assert_equal(pair):
    (ours, optimizer), (theirs, expected) = pair
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    states = optimizer.state_dict()["state"], expected.state_dict()["state"]
    assert states[0].keys() == states[1].keys()
    for k, state in states[0].items():
        assert all(torch.equal(value, states[1][k][name]) for name, value in state.items())
    counts = [state["step"].data_ptr() for state in states[0].values()]
    assert len(set(counts)) == len(counts)  # torch adds to each of them


@pytest.fixture
def direct(monkeypatch):
    """Number of steps that torch's own optimizer makes."""
    calls, own = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args: (calls.append(type(args[0])), own(*args))[1])
    return lambda: sum(kind is FusedAdamW for kind in calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.0}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}, {"maximize": True}, {"amsgrad": True}],
    ids=str,
)
def test_equals_torch(options, dtype, direct):
    pair = make_pair(dtype, **options)
    advance(pair, range(10))
    assert_equal(pair)
    assert direct() == (10 if "amsgrad" in options else 1)


def test_weights_without_gradients_stay_behind(direct):
    pair = make_pair()
    advance(pair, range(3))
    advance(pair, range(3, 5), skipped=(1,))
    advance(pair, range(5, 9))
    assert_equal(pair)
    assert direct() == 3  # the first one, and those with a gradient missing


def test_a_gradient_missing_at_first(direct):
    pair = make_pair()
    advance(pair, range(2), skipped=(0, 2))
    advance(pair, range(2, 6))
    assert_equal(pair)


def test_groups_and_changing_rates():
    found = []
    for cls, options in ((FusedAdamW, {}), (torch.optim.AdamW, {"fused": True})):
        weights = make_weights()
        groups = [{"params": weights[:2], "lr": 0.1}, {"params": weights[2:3], "weight_decay": 0.5}]
        optimizer = cls(groups, **options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        for step in range(6):
            if step == 3:
                scheduler = None
                optimizer.add_param_group({"params": weights[3:], "lr": 0.2})
            give_gradients(weights, step)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        found.append((weights, optimizer))
    assert_equal(found)


def test_training_goes_on_from_either_state():
    pair = make_pair()
    advance(pair, range(4))
    swapped = make_pair()
    for (weights, optimizer), (_, other), (values, _) in zip(swapped, pair[::-1], pair, strict=True):
        advance([(weights, optimizer)], range(2))  # what it knew is forgotten
        optimizer.load_state_dict(copy.deepcopy(other.state_dict()))
        with torch.no_grad():
            for weight, value in zip(weights, values, strict=True):
                weight.copy_(value)
    advance(pair, range(4, 8))
    advance(swapped, range(4, 8))
    assert_equal(pair)
    assert_equal(swapped)
    assert torch.equal(swapped[0][0][0], pair[0][0][0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda whole: pickle.loads(pickle.dumps(whole))])
def test_copies_are_on_their_own(copied):
    pair = make_pair()
    advance(pair, range(3))
    copies = [copied(one) for one in pair]
    advance(pair, range(3, 5))
    advance(copies, range(3, 9))
    assert_equal(pair)
    assert_equal(copies)


def test_closures_and_scaled_gradients():
    pair = make_pair()
    advance(pair, range(2))
    for weights, optimizer in pair:

        def closure(weights=weights):
            loss = sum(weight.square().sum() for weight in weights)
            for weight, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = grad
            return loss

        assert optimizer.step(closure) > 0
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)  # as a GradScaler does
        give_gradients(weights, 7)
        optimizer.step()
        optimizer.grad_scale = optimizer.found_inf = None
    advance(pair, range(2))
    assert_equal(pair)


def test_no_gradients_at_all():
    (weights, optimizer), _ = make_pair()
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))


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
    gradients = [change(weight.detach()) for weight in make_weights()]
    expected = torch.nn.utils.get_total_norm([grad.double() for grad in gradients])
    tolerance = 1e-2 if gradients[0].dtype == torch.bfloat16 else 1e-6
    assert float(total_norm(gradients)) == pytest.approx(float(expected), rel=tolerance)


def test_norm_of_nothing():
    assert float(total_norm([])) == 0.0

import io
import random

import numpy as np
import torch

from pyg_schnet.train.random_state import random_state, set_random_state


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()  # noqa: NPY002


def test_generators_go_on_from_a_checkpoint():
    draw()  # so that the second number of a pair of normal ones is waiting
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = draw(), draw()
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert (draw(), draw()) == expected

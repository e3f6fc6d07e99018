"""Explainers of PyTorch Geometric see and mask the messages of every model."""

import pytest
import torch
from torch_geometric.explain import Explainer, GNNExplainer, GraphMaskExplainer
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet.models.convert.like_pyg import SchNet as LikePyG

MODELS = {
    "SchNet": lambda: SchNet(8, 8, 2, 10, 5.0),
    "DTNN": lambda: DTNN(8, 6, 2, 10, 5.0),
    "under PyG's name": lambda: LikePyG(8, 8, 2, 10, 5.0),
}


class OfEdges(torch.nn.Module):
    """Calls a model as explainers do, which hand on features and edges."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, edge_index, z):
        return self.model(z, x, None, edge_index=edge_index)


@pytest.fixture
def molecule():
    torch.manual_seed(0)
    pos = 3 * torch.rand(6, 3)
    return {"x": pos, "edge_index": radius_graph(pos, 5.0), "z": torch.tensor([1, 6, 7, 8, 1, 1])}


@pytest.mark.parametrize("name", MODELS)
def test_masked_messages_are_not_sent(name, molecule):
    model = OfEdges(MODELS[name]().eval())
    with torch.no_grad():
        before = model(**molecule)
        n_edges = molecule["edge_index"].size(1)
        set_masks(model, torch.full((n_edges,), -1e9), molecule["edge_index"])
        masked = model(**molecule)
        clear_masks(model)
        alone = model(molecule["x"], molecule["edge_index"][:, :0], molecule["z"])
        torch.testing.assert_close(masked, alone, rtol=1e-5, atol=1e-5)
        assert (masked - before).abs() > 1e-4
        torch.testing.assert_close(model(**molecule), before)


@pytest.mark.parametrize("name", MODELS)
def test_edges_are_explained(name, molecule):
    torch.manual_seed(0)
    explain = Explainer(
        OfEdges(MODELS[name]().eval()),
        algorithm=GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "graph", "return_type": "raw"},
    )
    mask = explain(molecule["x"], molecule["edge_index"], z=molecule["z"]).edge_mask
    assert mask.shape == (30,)
    assert mask.std() > 0


@pytest.mark.parametrize("name", [*MODELS, "shared blocks", "a copy of PyG's"])
def test_graph_masks(name, molecule):
    """One layer of the explainer for each convolution; blocks that are shared have one."""
    models = {
        **MODELS,
        "DTNN": lambda: DTNN(8, 6, 2, 10, 5.0, shared_weights=False),
        "shared blocks": lambda: DTNN(8, 6, 2, 10, 5.0),
        "a copy of PyG's": lambda: LikePyG.from_model(PyGSchNet(8, 6, 2, 10, 5.0)),
    }
    torch.manual_seed(0)
    model = models[name]().eval()
    convs = [module for module in model.modules() if isinstance(module, MessagePassing)]
    sizes, found = [], []
    for conv in convs:
        handle = conv.register_message_forward_hook(
            lambda conv, args, out: sizes.append((conv.in_channels, out.size(1)))
        )
        found.append(handle)
    model(molecule["z"], molecule["x"], None, edge_index=molecule["edge_index"])
    assert sizes
    assert all(stated == sent for stated, sent in sizes)
    for handle in found:
        handle.remove()
    explain = Explainer(
        OfEdges(model),
        algorithm=GraphMaskExplainer(len(convs), epochs=2, log=False),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "graph", "return_type": "raw"},
    )
    mask = explain(molecule["x"], molecule["edge_index"], z=molecule["z"]).edge_mask
    assert mask.shape == (molecule["edge_index"].size(1),)
    assert set(mask.unique().tolist()) <= {0.0, 0.5, 1.0}

import collections

import numpy as np
import pytest

from dl_pipelines.inference.export import export_onnx
from dl_pipelines.inference.parity import session_outputs, torch_outputs
from dl_pipelines.inference.pooled_views import drop_pooled_views
from dl_pipelines.inference.runtimes import open_runtime


@pytest.fixture(scope="module")
def pooled():
    """A module of channels-last images whose pooling torch exports as a gather, and one that pools to two by two."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self, size):
            super().__init__()
            torch.manual_seed(size)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(size), nn.Flatten(),
                nn.Linear(8 * size * size, 3),
            )  # fmt: skip

        def forward(self, image):
            return self.body(image.permute(0, 3, 1, 2).float() / 255)

    return lambda size: Network(size).eval()


def exported(module):
    """As torch writes it, before anything of ours."""
    import torch

    example = torch.zeros((2, 6, 6, 3), dtype=torch.uint8)
    return torch.onnx.export(
        module, (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    ).model_proto  # fmt: skip


def operators(model):
    return collections.Counter(node.op_type for node in model.graph.node)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_gather_goes_and_all_that_only_it_needed(pooled):
    import onnx

    model = exported(pooled(1))
    assert {"Gather", "Shape", "Range"} <= set(operators(model))
    assert drop_pooled_views(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert operators(model) == collections.Counter(
        ["Transpose", "Cast", "Div", "Conv", "Relu", "ReduceMean", "Reshape", "Gemm"]
    )
    read = {name for node in model.graph.node for name in node.input}
    assert {item.name for item in model.graph.initializer} <= read
    assert drop_pooled_views(model) == 0


def test_answers_stay_for_every_batch(pooled, tmp_path):
    from dl_pipelines.tasks.image_classification import ImageClassification

    task = ImageClassification(ImageClassification.Params(classes=("a", "b", "c"), height=6, width=6, channels=3))
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 6, 3), dtype=np.uint8)
    for size in (1, 2):
        module = pooled(size)
        session = open_runtime("onnxruntime", export_onnx(module, task, tmp_path / f"{size}.onnx"))
        for batch in (1, 4):
            outputs = session_outputs(session, images, batch)
            np.testing.assert_allclose(outputs, torch_outputs(module, images), atol=1e-5)


def test_another_gather_stays():
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "flat"], ["row"]),
        helper.make_node("Gather", ["row", "order"], ["y"]),
    ]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        for name, values in (("axes", [1]), ("flat", [-1]), ("order", [0]))
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [given], [gives], constants))
    before = model.SerializeToString(deterministic=True)
    assert drop_pooled_views(model) == 0
    assert model.SerializeToString(deterministic=True) == before

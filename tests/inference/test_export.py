import numpy as np
import pytest

from dl_pipelines.inference.export import OPSET, ExportError, export_onnx


def test_the_graph_has_the_signatures_names_types_and_a_free_batch(onnx_file):
    import onnx

    model = onnx.load(str(onnx_file))
    onnx.checker.check_model(model, full_check=True)
    (given,), (gives,) = model.graph.input, model.graph.output
    assert (given.name, gives.name) == ("image", "logits")
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert gives.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert given.type.tensor_type.shape.dim[0].dim_param == gives.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim[1:]] == [6, 5, 3]
    assert {item.domain: item.version for item in model.opset_import} == {"": OPSET}


def test_there_is_one_file_that_says_nothing_of_this_machine(onnx_file):
    assert [path.name for path in onnx_file.parent.glob("*.*")] == ["model.onnx"]
    content = onnx_file.read_bytes()
    for trace in (b"/site-packages", b".py", b"stack_trace", str(onnx_file.parent).encode()):
        assert trace not in content


def test_the_same_weights_give_the_same_bytes(network, small_task, onnx_file, tmp_path):
    again = export_onnx(network, small_task, tmp_path / "deep" / "again.onnx")
    assert again.read_bytes() == onnx_file.read_bytes()


def test_onnx_gives_what_its_reference_implementation_says(network, onnx_file, images):
    from onnx.reference import ReferenceEvaluator

    from dl_pipelines.inference.parity import torch_outputs

    (outputs,) = ReferenceEvaluator(str(onnx_file)).run(None, {"image": images[:5]})
    np.testing.assert_allclose(outputs, torch_outputs(network, images[:5]), atol=1e-5)


def test_training_mode_is_refused(network, small_task, tmp_path):
    network.train()
    try:
        with pytest.raises(ExportError, match="found a module in training mode; expected eval mode"):
            export_onnx(network, small_task, tmp_path / "model.onnx")
    finally:
        network.eval()
    assert not list(tmp_path.iterdir())


def test_a_forward_that_branches_on_the_data_is_refused(small_task, tmp_path):
    import torch

    class Branches(torch.nn.Module):
        def forward(self, image):
            flat = image.flatten(1)[:, :3].float()
            return flat if flat.sum() > 0 else -flat

    with pytest.raises(ExportError, match=r"found Branches that torch\.onnx can't export .* without branches"):
        export_onnx(Branches().eval(), small_task, tmp_path / "model.onnx")


def test_a_batch_fixed_in_the_graph_is_refused(small_task, tmp_path):
    import torch

    class Fixed(torch.nn.Module):
        def forward(self, image):
            return image.reshape(2, -1)[:, :3].float()

    with pytest.raises(
        ExportError, match=r"found 'logits' with a batch of 2 fixed in the graph; expected a free batch"
    ):
        export_onnx(Fixed().eval(), small_task, tmp_path / "model.onnx")

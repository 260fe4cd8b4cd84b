"""Graphs of series: recurrent layers and attention, frames with missing values, from torch to both runtimes."""

import numpy as np

from dl_pipelines.inference.export import export_onnx
from dl_pipelines.inference.parity import check_parity, session_outputs, torch_outputs
from dl_pipelines.inference.runtimes import open_runtime, save_openvino
from tests.sequences import frames, make_network, make_task, onnx_file


def test_both_runtimes_answer_as_torch_where_values_are_missing(tmp_path):
    path, inputs = onnx_file(tmp_path / "model.onnx"), frames(33)
    reference = torch_outputs(make_network(), inputs)
    assert np.isnan(inputs).any(axis=(1, 2)).all() and np.isfinite(reference).all()
    xml, _ = save_openvino(path, tmp_path / "ir" / "model.xml")
    for runtime, file in (("onnxruntime", path), ("openvino", xml)):
        session = open_runtime(runtime, file)
        parity, outputs = check_parity(make_task(), reference, session, inputs)
        assert parity.passed, parity.summary
        assert parity.max_difference < 1e-5
        assert outputs.shape == (33, 7, 4)
        assert np.isfinite(session.run(np.zeros_like(inputs[:2]))).all(), "what a warm-up sends"


def test_the_same_weights_give_the_same_bytes_with_a_free_batch(tmp_path):
    import onnx

    path = onnx_file(tmp_path / "model.onnx")
    again = export_onnx(make_network(), make_task(), tmp_path / "deep" / "again.onnx")
    assert again.read_bytes() == path.read_bytes()
    graph = onnx.load(str(path)).graph
    assert {"LSTM", "GRU", "IsNaN", "Softmax"} <= {node.op_type for node in graph.node}
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_no_rows_give_no_answers_of_the_right_shape(tmp_path):
    session = open_runtime("onnxruntime", onnx_file(tmp_path / "model.onnx"))
    for outputs in (torch_outputs(make_network(), frames(0)), session_outputs(session, frames(0))):
        assert outputs.shape == (0, 7, 4) and outputs.dtype == np.float32

"""A model that compression chose in bfloat16 is computed so by the server too."""

import numpy as np
import pytest

from benchmarks.tiny import FIRST, SECOND, reference, tiny_onnx
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.precision import missing_units
from dl_pipelines.inference.runtimes import open_runtime, save_openvino
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import running
from dl_pipelines.store.artifacts import Gate


@pytest.mark.skipif(missing_units("bf16") is not None, reason="no units for bfloat16: OpenVINO computes in float32")
def test_the_server_answers_in_bfloat16(make_workspace, task, data, serving, evaluation):
    from dl_pipelines.data.batches import window_rows

    workspace = make_workspace("precise")
    window = workspace.get("training_window", FIRST.daily)
    inputs = window_rows(workspace, window, "validation", data, task).inputs

    def chosen(draft):
        path, _ = save_openvino(tiny_onnx(draft.work / "model.onnx", 1), draft.file("model/model.xml"))
        outputs = session_outputs(open_runtime("openvino", path, 1, "bf16"), inputs)
        assert np.abs(outputs - reference(inputs, 1)).max() > 10 * serving.parity_tolerance, "it rounds"
        draft.write_json("choice.json", {
            "runtime": "openvino", "variant": "bf16", "precision": "bf16", "file": "model/model.xml",
        })  # fmt: skip
        np.save(draft.file("outputs_validation.npy"), outputs)
        draft.gate(Gate("parity", True, "made by a test", blocking=True))

    with running(workspace.home, lazy=True):
        workspace.make("compressed_model", SECOND, chosen, settings={"precision": "bf16"}, parents={})
        made = make_triton_repository(workspace, SECOND, serving, data, task, evaluation)
    assert made.measured["parity"]["difference"] <= serving.parity_tolerance
    assert 'key: "INFERENCE_PRECISION_HINT"' in made.file("model/config.pbtxt").read_text()

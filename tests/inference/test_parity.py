import numpy as np

from dl_pipelines.inference.parity import TOLERANCE, check_parity, session_outputs, torch_outputs
from dl_pipelines.inference.runtimes import Session, open_runtime


class Changed(Session):
    """A sound session whose answers are spoiled on purpose."""

    runtime = "changed"

    def __init__(self, session, spoil):
        self.session, self.spoil = session, spoil

    def _load(self, path, threads, precision):
        raise AssertionError("it is open already")

    def _run(self, inputs):
        return self.spoil(self.session.run(inputs))


def test_export_is_at_parity_on_every_row(network, small_task, onnx_file, images):
    parity, outputs = check_parity(
        small_task, torch_outputs(network, images), open_runtime("onnxruntime", onnx_file), images
    )
    assert parity.passed
    assert parity.rows == len(images)
    assert parity.max_difference < 1e-5
    assert parity.tolerance == TOLERANCE == 1e-3
    assert outputs.shape == (37, 3)


def test_a_difference_above_the_tolerance_fails_exactly_and_passes_as_compressed(
    network, small_task, onnx_file, images
):
    session = Changed(open_runtime("onnxruntime", onnx_file), lambda outputs: outputs * np.float32(1.5))
    reference = torch_outputs(network, images)
    exact, _ = check_parity(small_task, reference, session, images)
    assert not exact.passed
    assert "largest difference <= 0.001" in exact.summary
    assert check_parity(small_task, reference, session, images, exact=False)[0].passed


def test_other_decisions_fail_also_as_compressed(network, small_task, onnx_file, images):
    session = Changed(open_runtime("onnxruntime", onnx_file), lambda outputs: -outputs)
    parity, _ = check_parity(small_task, torch_outputs(network, images), session, images, exact=False)
    assert not parity.passed
    assert "agreement >= 98%" in parity.summary


def test_an_answer_that_depends_on_its_batch_is_found(network, small_task, onnx_file, images):
    session = Changed(
        open_runtime("onnxruntime", onnx_file), lambda outputs: outputs if len(outputs) > 1 else outputs + 1
    )
    parity, _ = check_parity(small_task, torch_outputs(network, images), session, images)
    assert not parity.passed
    assert parity.summary == "answers depend on the batch: one row alone differs by 1.00e+00"


def test_rows_keep_their_order_through_batches(onnx_file, images):
    session = open_runtime("onnxruntime", onnx_file)
    np.testing.assert_allclose(
        session_outputs(session, images[::-1], 8), session_outputs(session, images)[::-1], atol=1e-6
    )

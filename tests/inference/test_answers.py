import numpy as np
import pytest

from benchmarks.tiny import FIRST, make_compressed, reference
from dl_pipelines.inference.answers import compressed_answers
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.image_classification import ImageClassification


@pytest.fixture
def tiny() -> ImageClassification:
    return ImageClassification(ImageClassification.Params(classes=("dark", "bright")))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_files_that_serve_answer_in_this_process(tmp_path, tiny, runtime):
    compressed = make_compressed(Workspace(Home(tmp_path).prepare(), "tiny"), FIRST, tiny, 3, runtime)
    images = np.random.default_rng(2).integers(0, 256, (300, 8, 8, 1)).astype(np.uint8)
    answers = compressed_answers(compressed, images)
    assert answers.shape == (300, 2)
    np.testing.assert_allclose(answers, reference(images, 3), atol=1e-3)


def test_a_damaged_model_is_not_asked(tmp_path, tiny):
    compressed = make_compressed(Workspace(Home(tmp_path).prepare(), "tiny"), FIRST, tiny, 3, "onnxruntime")
    compressed.file("model/model.onnx").write_bytes(b"else")
    with pytest.raises(ArtifactError, match=r"found model/model\.onnx of compressed_model .* damaged"):
        compressed_answers(compressed, np.zeros((1, 8, 8, 1), np.uint8))

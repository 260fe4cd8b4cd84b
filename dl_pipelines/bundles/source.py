"""Opens a compressed model for bundling: verified files, validation rows spread over the split, recorded answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.brief.live import Serving
from dl_pipelines.brief.sections import Data
from dl_pipelines.bundles.base import BundleError, Options, Source
from dl_pipelines.inference.model_files import check_model_folder, model_hashes
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np

PARITY_ROWS, MANY_ROWS = 32, 1024
STAGE = "bundle"


def open_source(
    workspace: Workspace, partition: Partition, serving: Serving, data: Data, task: Task, options: Options | None = None
) -> Source:  # fmt: skip
    """The source of a partition's bundles.

    The window is the one that the model was compressed on, whatever the partition's is now. Raises ArtifactError when
    the model is missing, damaged, failed a gate or has files that no runtime should open (ModelFileError, one too),
    BundleError when its answers are not of the window's rows.
    """
    import numpy as np

    from dl_pipelines.compression.candidates import spread
    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.inference.onnx_contents import check_onnx

    compressed = workspace.get("compressed_model", partition).require_gates().verify()
    check_model_folder(compressed.path / "model", model_hashes(compressed), task.signature())
    check_onnx(compressed.file("network.onnx"), task.signature())
    window = workspace.by_digest("training_window", compressed.parents["training_window"]).require_gates()
    rows = window_rows(workspace, window, "validation", data, task)
    recorded = np.load(compressed.file("outputs_validation.npy"), allow_pickle=False)
    if len(recorded) != len(rows) or not len(rows):
        raise BundleError(
            f"found {len(recorded)} recorded answers for {len(rows)} validation rows; expected as many, at least one; "
            "run compressed_model again"
        )

    def some(count: int) -> tuple[np.ndarray, np.ndarray]:
        kept = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
        return np.ascontiguousarray(rows.inputs[kept]), np.ascontiguousarray(recorded[kept])

    def calibrate(count: int) -> np.ndarray:
        return spread(window_rows(workspace, window, "train", data, task), count)

    def repository() -> Artifact:
        made = workspace.get("triton_repository", partition).require_gates().verify()
        if made.parents.get("compressed_model") != compressed.digest:
            raise BundleError(
                f"found a triton_repository of another model than compressed_model {compressed.short}; expected it to "
                "be of this one; run `dlp run` for that date again"
            )
        return made

    def tell(message: str) -> None:
        workspace.progress(STAGE, message)

    return Source(
        workspace.project, partition, compressed, task, serving, *some(PARITY_ROWS), *some(MANY_ROWS), calibrate,
        repository, tell, options or Options(),
    )  # fmt: skip

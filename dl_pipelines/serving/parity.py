"""Live parity: the served model answers as its artifact did when it was made, on a few rows kept with it."""

from __future__ import annotations

from dl_pipelines.brief.live import Serving
from dl_pipelines.serving.client import Caller, batched
from dl_pipelines.serving.deadly import noted
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store.artifacts import Artifact

KEPT_ROWS = 32
INPUTS, OUTPUTS = "parity_inputs.npy", "parity_outputs.npy"


class ParityError(ValueError):
    """A loaded model answers otherwise than its artifact; it gets no traffic."""


def kept_rows(total: int, serving: Serving) -> int:
    """How many rows an artifact keeps for its parity: a full batch at least, where there are as many."""
    return min(total, max(KEPT_ROWS, serving.max_batch))


def load_and_compare(server: TritonServer, artifact: Artifact, model: str) -> float:
    """Load an installed model, warmed up, then `require_live_parity`. Raises TritonError, DeadlyError too."""
    with noted(server, artifact, model):
        server.control.load(model)
        return require_live_parity(server, artifact, model)


def require_live_parity(server: TritonServer, artifact: Artifact, model: str) -> float:
    """The largest difference on the artifact's own rows. Raises ParityError when it is too large.

    TritonError when the server went away meanwhile: that tells nothing about the model.
    Of values above one it is a share of the value: an answer of a thousand units has no more exact digits than one of
    one unit.
    """
    import numpy as np
    from tritonclient.utils import InferenceServerException

    inputs = np.load(artifact.file(INPUTS), allow_pickle=False)
    expected = np.load(artifact.file(OUTPUTS), allow_pickle=False)
    about = artifact.read_json("model.json")
    call = Caller(server.grpc, model, about["input"], about["output"])
    try:
        found = batched(call, inputs, about["max_batch"])
    except InferenceServerException as error:
        away = "UNAVAILABLE" in str(error.status()) or not server.control.ready()
        raise (TritonError if away else ParityError)(
            f"found that {model} does not answer ({error.message()}); expected the outputs of {artifact.stage} "
            f"{artifact.short}; the old model keeps the traffic"
        ) from error
    if found.shape != expected.shape or not np.isfinite(found).all():
        what = list(found.shape) if found.shape != expected.shape else "values that are not finite"
        raise ParityError(
            f"found {what} in the outputs of the live {model}; expected finite {list(expected.shape)} as of "
            f"{artifact.stage} {artifact.short}; the old model keeps the traffic"
        )
    apart = np.abs(found.astype(np.float64) - expected) / np.maximum(np.abs(expected), 1)
    difference = float(apart.max())
    if not difference <= about["tolerance"]:
        raise ParityError(
            f"found a largest difference of {difference:.3g} between the live {model} and its artifact on "
            f"{len(expected)} rows; expected at most {about['tolerance']:g} (serving.parity_tolerance); the old model "
            "keeps the traffic"
        )
    return difference

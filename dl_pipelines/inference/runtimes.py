"""Runtimes that execute a model file on the CPU, behind one `Session`. Which one serves is compression's choice."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from dl_pipelines.inference.lean_graph import make_lean

if TYPE_CHECKING:
    import numpy as np

MODEL_FILES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
}
"""What each runtime serves from a folder `model/`, the file to open first."""


PRECISION_HINTS: Mapping[str, str] = {"bf16": "bf16", "fp16": "f16"}
"""What OpenVINO computes in where a model's precision says so; else float32 where a layer is not quantized."""


class RuntimeFileError(ValueError):
    """A runtime can't open a model file; says which and what to do."""


class RuntimeMissing(RuntimeFileError):
    """A runtime's package is not installed here."""


class ModelRunError(ValueError):
    """A loaded model refused its input or failed on it."""


class Session(ABC):
    """A loaded model with one input and one output, both with a batch dimension. One thread at a time."""

    runtime: str

    def __init__(self, path: Path, threads: int, precision: str = "fp32"):
        self._given = path, threads, precision
        self._load(path, threads, precision)

    def again(self) -> Session:
        """Another one of the same file, that may run beside this one."""
        return type(self)(*self._given)

    @abstractmethod
    def _load(self, path: Path, threads: int, precision: str) -> None: ...

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """[N, ...] of the graph's input dtype -> [N, ...], a new array. Raises ModelRunError."""
        try:
            return self._run(inputs)
        except Exception as error:  # each runtime has error types of its own, none of them public in both
            raise ModelRunError(
                f"found an input of {inputs.dtype} {list(inputs.shape)} that {self.runtime} can't run "
                f"({_short(error)}); expected what the task's signature says, with a batch dimension"
            ) from error

    @abstractmethod
    def _run(self, inputs: np.ndarray) -> np.ndarray: ...


class OnnxRuntimeSession(Session):
    """ONNX Runtime on the CPU, `threads` in an operator, operators one after the other."""

    runtime = "onnxruntime"
    optimises: ClassVar[bool] = True

    def _load(self, path: Path, threads: int, precision: str) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise _missing(self.runtime, error) from error

        options = ort.SessionOptions()
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        for name, value in onnxruntime_settings(threads).items():
            setattr(options, name, value)
        # As it is served: idle threads that spin take the cores of whatever is timed in the next turn, for some 20 ms.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not self.optimises:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        return self._session.run(self._outputs, {self._input: inputs})[0]  # pyright: ignore[reportReturnType]


class UnoptimisedSession(OnnxRuntimeSession):
    """The graph as it is written: for comparing, not for serving."""

    optimises = False


class OpenVinoSession(Session):
    """OpenVINO on the CPU, one stream, float32 where a layer is not quantized; reads IR (`.xml`) or ONNX."""

    runtime = "openvino"

    def _load(self, path: Path, threads: int, precision: str) -> None:
        package = openvino()
        self._tensor = package.Tensor
        settings = openvino_settings(threads, precision)
        self._request = package.Core().compile_model(str(path), "CPU", settings).create_infer_request()

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        # Handing over a tensor, not an array, spares a dispatch in Python that costs as much as a small model.
        shared = np.require(inputs, requirements=("C", "W"))
        self._request.set_input_tensor(self._tensor(shared, shared_memory=True))
        self._request.infer(share_outputs=True)
        return self._request.get_output_tensor(0).data.copy()


def onnxruntime_settings(threads: int) -> dict[str, Any]:
    """Attributes of ONNX Runtime's session options, as plain data."""
    return {
        "intra_op_num_threads": threads, "inter_op_num_threads": 1, "use_deterministic_compute": True,
        "log_severity_level": 3,
    }  # fmt: skip


def openvino_settings(threads: int, precision: str = "fp32") -> dict[str, Any]:
    """OpenVINO's properties of a compiled model, as plain data."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS.get(precision, "f32"),
        "ENABLE_CPU_PINNING": False,
    }


RUNTIMES: Mapping[str, type[Session]] = {cls.runtime: cls for cls in (OnnxRuntimeSession, OpenVinoSession)}


def open_runtime(name: str, path: Path, threads: int = 1, precision: str = "fp32") -> Session:
    """Load a model file with `threads` CPU threads, as its precision asks (fp32, int8, bf16, fp16).

    Raises ValueError (no such runtime), RuntimeMissing or RuntimeFileError.
    """
    if name not in RUNTIMES:
        raise ValueError(f"found the runtime {name!r}; expected one of {', '.join(sorted(RUNTIMES))}")
    return _opened(RUNTIMES[name], path, threads, precision)


def open_unoptimised(path: Path, threads: int = 1) -> Session:
    """Load an ONNX file as it is written, in ONNX Runtime. Raises RuntimeMissing or RuntimeFileError."""
    return _opened(UnoptimisedSession, path, threads, "fp32")


def _opened(kind: type[Session], path: Path, threads: int, precision: str) -> Session:
    name = kind.runtime
    if not path.is_file():
        raise RuntimeFileError(f"found no file {path}; expected a model for {name}; run compressed_model again")
    try:
        return kind(path, threads, precision)
    except RuntimeMissing:
        raise
    except Exception as error:  # each runtime has error types of its own, none of them public in both
        raise RuntimeFileError(
            f"found {path.name}, which {name} can't load ({_short(error)}); expected a sound model file; remove the "
            f"folder {path.parent} and run compressed_model again"
        ) from error


def openvino() -> ModuleType:
    """The `openvino` package, imported without its telemetry: importing it would report to its makers.

    Raises RuntimeMissing.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        import openvino as package
    except ImportError as error:
        raise _missing("openvino", error) from error

    return package


def _missing(name: str, error: ImportError) -> RuntimeMissing:
    return RuntimeMissing(
        f"found no runtime {name} here ({error}); expected the package to be installed; install what requirements.lock "
        f"lists, or take {name} out of compression.runtimes"
    )


def save_openvino(onnx_path: Path, xml_path: Path, half_weights: bool = False) -> tuple[Path, Path]:
    """Convert ONNX to OpenVINO's IR, weights as they are or stored in float16. Returns the `.xml` and the `.bin`.

    Raises RuntimeFileError when OpenVINO can't read the graph.
    """
    return write_openvino(read_openvino(onnx_path), xml_path, half_weights)


def read_openvino(onnx_path: Path) -> Any:
    """An ONNX file as OpenVINO's own model. Raises RuntimeFileError."""
    package = openvino()
    try:
        import onnx

        graph = make_lean(onnx.load(str(onnx_path), load_external_data=False))
        return package.Core().read_model(graph.SerializeToString(), b"")
    except Exception as error:  # OpenVINO's own type is not public; protobuf and onnx have one each
        raise RuntimeFileError(
            f"found {onnx_path.name}, which openvino can't read ({_short(error)}); expected ONNX with operators that "
            "it has"
        ) from error


def write_openvino(model: Any, xml_path: Path, half_weights: bool = False) -> tuple[Path, Path]:
    """Write a model of OpenVINO's as `.xml` and `.bin`: the same graph gives the same bytes, whatever came before."""
    _name_by_position(model)
    xml_path.parent.mkdir(parents=True, exist_ok=True)
    openvino().save_model(model, str(xml_path), compress_to_fp16=half_weights)
    return xml_path, xml_path.with_suffix(".bin")


def _name_by_position(model: Any) -> None:
    """Replace names that OpenVINO made up by counting the process's nodes: the same graph gives the same bytes."""
    for position, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_at_{position}")


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:200]}"

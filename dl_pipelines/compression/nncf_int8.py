"""Static int8 by OpenVINO's own tool, NNCF: for that runtime alone, and accuracy-aware where the plain one misses.

The tool finds the operators that OpenVINO fuses, shifts biases by what quantization moved (fast bias correction) and,
accuracy-aware, gives layers back to float until the loss is within the budget (docs.openvino.ai, "Quantizing with
accuracy control"). It reports to nobody, prints nothing and asks no network.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant, short
from dl_pipelines.inference.runtimes import RuntimeFileError, openvino, read_openvino, write_openvino
from dl_pipelines.store import durable

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.compression.workshop import Workshop

RUNTIME = "openvino"
BATCH = 256
"""Validation rows at once, while accuracy is controlled."""


class NncfInt8(Technique):
    """`nncf_int8`, and `nncf_int8_accurate` where that misses the budget."""

    name = "nncf_int8"
    phase = "quantize"
    template_row = "QUANT"

    class Params(BaseParams):
        """What calibrates, how activations are quantized, whether accuracy is controlled."""

        calibration_rows: int = Field(default=256, ge=2, le=100_000, description="of the train split")
        preset: Literal["auto", "performance", "mixed"] = Field(
            default="auto", description="performance: symmetric activations; mixed: asymmetric; auto: the tool's choice"
        )
        accuracy_control: Literal["auto", "off"] = Field(
            default="auto", description="auto: when int8 misses the budget, give layers back to float"
        )
        restored: int = Field(default=12, ge=1, le=1000, description="layers that it may give back")

    params: Params

    def unsuited(self, start: Network, shop: Workshop) -> str | None:
        """See Technique.unsuited."""
        if RUNTIME in shop.compression.runtimes:
            return None
        return "its graphs are for openvino, which compression.runtimes leaves out"

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants."""
        rows = shop.calibrate(self.params.calibration_rows)
        tool = _Tool(start, shop, self.params, rows)
        details: dict[str, Any] = {"calibration": {"rows": len(rows), "preset": self.params.preset}}
        shop.say("quantizing")
        plain = self._variant("nncf_int8", shop, tool.quantized, details)
        made = [plain]
        if self.params.accuracy_control == "auto" and self._misses(plain, shop):
            shop.say("quantizing with accuracy control")
            made.append(self._variant("nncf_int8_accurate", shop, tool.controlled, details))
        return made

    def _misses(self, plain: Variant, shop: Workshop) -> bool:
        """Whether it was made and misses the budget. Where that can't be told, its own row of the ledger says why."""
        path = plain.path
        if path is None:
            return False
        try:
            return not shop.decide_once("meets", lambda: shop.within_budget(shop.outputs(path, RUNTIME, "int8")))
        except TechniqueError:
            return False

    def _variant(self, name: str, shop: Workshop, make: Callable[[], Any], details: dict[str, Any]) -> Variant:
        folder, part = shop.folder / name, shop.folder / f"{name}.part"
        path = folder / "model.xml"
        if not folder.exists():  # one that does is whole
            try:
                model = make()
            except (TechniqueError, RuntimeFileError) as error:
                return Variant(name, self.name, "int8", None, str(error), runtimes=(RUNTIME,))
            durable.remove_tree(part)
            write_openvino(model, part / path.name)
            durable.flush_tree(part)
            durable.rename(part, folder)
        return Variant(name, self.name, "int8", path, runtimes=(RUNTIME,), details=details)


class _Tool:
    """NNCF on one network."""

    def __init__(self, start: Network, shop: Workshop, params: NncfInt8.Params, rows: np.ndarray):
        self.start, self.shop, self.params, self.rows = start, shop, params, rows

    def quantized(self) -> Any:
        """OpenVINO's model in int8. Raises TechniqueError, RuntimeFileError."""
        with _quiet() as nncf:
            model = nncf.quantize(self._model(), self._dataset(nncf), **self._settings(nncf))
            return _checked(model, "found no operator that int8 covers; the graph would stay as it is")

    def controlled(self) -> Any:
        """The same with as few layers back in float as meet the budget, by the ends of the losses' intervals."""
        with _quiet() as nncf:
            positions = list(range(len(self.shop.rows)))
            settings = nncf.AdvancedAccuracyRestorerParameters(
                max_num_iterations=self.params.restored, ranking_subset_size=min(len(positions), 64),
                num_ranking_workers=1,
            )  # fmt: skip
            model = nncf.quantize_with_accuracy_control(
                self._model(), self._dataset(nncf), nncf.Dataset(positions, self._row), self._validate,
                max_drop=self.shop.compression.max_loss, advanced_accuracy_restorer_parameters=settings,
                **self._settings(nncf),
            )  # fmt: skip
            return _checked(model, "every layer went back to float before the loss was within the budget")

    def _model(self) -> Any:
        return read_openvino(self.start.onnx)

    def _dataset(self, nncf: Any) -> Any:
        return nncf.Dataset([self.rows[at : at + 1] for at in range(len(self.rows))])

    def _settings(self, nncf: Any) -> dict[str, Any]:
        presets = {
            "auto": None,
            "performance": nncf.QuantizationPreset.PERFORMANCE,
            "mixed": nncf.QuantizationPreset.MIXED,
        }
        return {
            "preset": presets[self.params.preset],
            "subset_size": len(self.rows),
            "model_type": nncf.ModelType.TRANSFORMER if _attends(self.start.onnx) else None,
        }

    def _row(self, position: int) -> np.ndarray:
        return self.shop.rows.inputs[position : position + 1]

    def _validate(self, compiled: Any, positions: Iterable[int]) -> tuple[float, list[list[np.ndarray]]]:
        """One (the tool divides by the float network's) minus Workshop.worst, which slices count in; the answers.

        By the answers' error the tool ranks its layers.
        """
        import numpy as np

        inputs = self.shop.rows.inputs[list(positions)]
        request = compiled.create_infer_request()
        answers = np.concatenate([
            request.infer({0: np.ascontiguousarray(inputs[at : at + BATCH])})[0].copy()
            for at in range(0, len(inputs), BATCH)
        ])  # fmt: skip
        whole = len(answers) == len(self.shop.rows)
        return (1.0 - self.shop.worst(answers) if whole else 1.0), [[answer] for answer in answers]


def _attends(onnx: Path) -> bool:
    """Whether activations are multiplied with one another, as attention does."""
    import onnx as package

    graph = package.load(str(onnx)).graph
    fixed = {item.name for item in graph.initializer}
    return any(node.op_type == "MatMul" and not fixed & set(node.input) for node in graph.node)


def _checked(model: Any, otherwise: str) -> Any:
    """That something of it is quantized. Raises TechniqueError."""
    if not any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        raise TechniqueError(otherwise)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """The package, without its telemetry, its bars and its log; what it raises becomes a TechniqueError."""
    disabled = logging.root.manager.disable
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own code
        logging.disable(logging.WARNING)  # torch, which it looks for, warns where there is no GPU
        try:
            yield _nncf()
        except (TechniqueError, RuntimeFileError):
            raise
        except Exception as error:  # the tool raises whatever an unforeseen graph leads it to
            raise TechniqueError(f"NNCF can't quantize this graph ({short(error)})") from error
        finally:
            logging.disable(disabled)


def _nncf() -> Any:
    """Importing it would set the class of all later loggers."""
    openvino()  # before it: without telemetry
    kind = logging.getLoggerClass()
    try:
        import nncf
    finally:
        logging.setLoggerClass(kind)
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function also lowers handlers that are not its own
    return nncf

"""The bundle for an edge device that has Python: the served files, their runtime's settings, a script of 30 lines.

The script has answered the parity rows in a fresh environment with only its runtime before the bundle gets its name.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

from dl_pipelines.bundles.base import Built, BundleError, Source
from dl_pipelines.bundles.environment import closure, fresh_environment, requirements, run
from dl_pipelines.inference.model_files import check_model_folder, model_hashes
from dl_pipelines.inference.runtimes import onnxruntime_settings, openvino_settings
from dl_pipelines.serving.config import write_labels
from dl_pipelines.store import durable

SCRIPTS = Path(__file__).parent / "scripts"
INPUTS, OUTPUTS = "parity_inputs.npy", "parity_outputs.npy"


def build(source: Source, folder: Path, work: Path) -> Built:
    """See base.Build."""
    runtime = source.choice["runtime"]
    script = SCRIPTS / f"infer_{runtime}.py"
    if not script.is_file():
        raise BundleError(f"found the runtime {runtime!r}; expected onnxruntime or openvino")
    names = ("numpy", runtime)
    (folder / "model").mkdir()
    inside = model_hashes(source.compressed)
    for name in inside:
        shutil.copyfile(source.compressed.file(f"model/{name}"), folder / "model" / name)
    check_model_folder(folder / "model", inside, source.signature)
    shutil.copyfile(script, folder / "infer.py")
    durable.put_json(folder / "runtime.json", _settings(source))
    durable.put_text(folder / "requirements.txt", requirements(names))
    write_labels(source.signature, folder)
    write_rows(source, folder)
    source.tell(f"running infer.py in a fresh environment with {runtime} alone")
    check = source.check(
        "infer.py in a fresh environment, with the recorded answers", source.outputs, _answers(folder, work, names)
    )
    facts = {
        "runtime": runtime, "precision": source.choice["precision"], "threads": source.serving.threads,
        "tested": {
            "python": platform.python_version(), "machine": platform.machine(),
            "packages": {name: found.version for name, found in closure(names).items()},
        },
    }  # fmt: skip
    return Built((check,), facts, _readme(runtime))


def write_rows(source: Source, folder: Path) -> None:
    """The parity rows [N, ...] and their recorded answers, as two .npy files."""
    import numpy as np

    np.save(folder / INPUTS, source.inputs, allow_pickle=False)
    np.save(folder / OUTPUTS, source.outputs, allow_pickle=False)


def _settings(source: Source) -> dict[str, Any]:
    """`runtime.json`: everything that the script has to know."""
    choice, threads = source.choice, source.serving.threads
    runtime, precision = choice["runtime"], choice["precision"]
    settings = openvino_settings(threads, precision) if runtime == "openvino" else onnxruntime_settings(threads)
    given, gives = source.signature.inputs[0], source.signature.outputs[0]
    return {
        "runtime": runtime, "precision": precision, "file": choice["file"], "settings": settings,
        "input": given.name, "input_dtype": given.dtype, "input_shape": list(given.shape), "output": gives.name,
        "tolerance": source.largest_allowed(source.outputs, source.serving.parity_tolerance),
    }  # fmt: skip


def _answers(folder: Path, work: Path, names: tuple[str, ...]) -> Any:
    import numpy as np

    python = fresh_environment(work / "environment", names)
    taken = work / "answers.npy"
    run(python, [folder / "infer.py", folder / INPUTS, taken], work)
    return np.load(taken, allow_pickle=False)


def _readme(runtime: str) -> str:
    return f"""
The file that serves, with {runtime} and its settings, and a script that needs nothing else.

```bash
python -m venv .venv
.venv/bin/pip install -r requirements.txt
.venv/bin/python infer.py                        # tests itself on {INPUTS}
.venv/bin/python infer.py rows.npy answers.npy   # answers rows of your own
```

| file | what it is |
|---|---|
| `infer.py` | the script; `from infer import infer` works too: rows [N, ...] in, answers [N, ...] out |
| `runtime.json` | settings of {runtime} (threads, precision), names, dtype and shape of the input, tolerance |
| `model/` | the served files |
| `requirements.txt` | exact versions that the script was tested with |
| `{INPUTS}`, `{OUTPUTS}` | validation rows and what the served model answered to them |

Set the number of threads in `runtime.json` to the cores of the device. Another processor may add in another order: a
difference up to `tolerance` of `runtime.json` is no fault. Beyond it, or where an answer is not a number, the self-test
ends with exit code 1.
"""

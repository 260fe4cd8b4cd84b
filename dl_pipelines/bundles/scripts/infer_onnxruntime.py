"""Answers rows with this folder's model: `python infer.py ROWS.npy ANSWERS.npy`; alone it tests itself."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

here = Path(__file__).resolve().parent
about = json.loads((here / "runtime.json").read_text())
options = onnxruntime.SessionOptions()
for name, value in about["settings"].items():
    setattr(options, name, value)
session = onnxruntime.InferenceSession(str(here / about["file"]), options, providers=["CPUExecutionProvider"])


def infer(rows: np.ndarray, batch: int = 64) -> np.ndarray:
    """Answers [N, ...] to rows [N, ...], as runtime.json describes them."""
    parts = [np.ascontiguousarray(rows[at : at + batch]) for at in range(0, len(rows), batch)]
    return np.concatenate([session.run([about["output"]], {about["input"]: part})[0] for part in parts])  # type: ignore


if __name__ == "__main__":
    if len(sys.argv) == 3:
        np.save(sys.argv[2], infer(np.load(sys.argv[1])))
    else:
        apart = np.abs(infer(np.load(here / "parity_inputs.npy")) - np.load(here / "parity_outputs.npy"))
        print(f"{len(apart)} rows, largest difference {apart.max():.2e}, at most {about['tolerance']:.2e} is right")
        sys.exit(not apart.max() <= about["tolerance"])  # nan is above any tolerance

"""A small forecasting task, frames with holes in them, and a network for it that needs no training and no family."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from dl_pipelines.tasks.forecasting import Forecasting

HISTORY, HORIZON = 14, 7
QUANTILES = (0.1, 0.5, 0.9)
WIDTH = 64


def make_task() -> Forecasting:
    """Two weeks in, one week out; frames of `day`, `item`, `value`, `price`."""
    params = Forecasting.Params(
        history=HISTORY, horizon=HORIZON, known=("price",), quantiles=QUANTILES, stride=7, gap=0
    )
    return Forecasting(params)


def frames(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, 21, 4] with missing values, a history of zeros and one of nothing; four items an origin."""
    rng = np.random.default_rng(seed)
    made = rng.gamma(4, 5, (count, HISTORY + HORIZON, 4)).astype(np.float32)
    made[rng.random(made.shape) < 0.05] = np.nan
    made[:, :, 0] = 20_000 + 7 * (np.arange(count) // 4)[:, None] + np.arange(HISTORY + HORIZON)
    made[:, :, 1] = (np.arange(count) % 4)[:, None]
    made[:, HISTORY:, 2] = np.nan
    made[1:2, :HISTORY, 2], made[2:3, :, 2] = 0, np.nan
    return made


def targets(inputs: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32 [N, 7 + 4]: what comes after frames, with origin, item, MASE's scale and level."""
    rng = np.random.default_rng(seed)
    extra = np.stack([inputs[:, HISTORY, 0], inputs[:, 0, 1], np.full(len(inputs), 5), np.full(len(inputs), 20)], 1)
    return np.concatenate([rng.gamma(4, 5, (len(inputs), HORIZON)), extra], axis=1).astype(np.float32)


@functools.cache
def make_network():
    """[N, 21, 4] -> [N, 7, 4] in eval mode: LSTM, GRU and attention. It is told what is missing."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.entry = nn.Linear(4, WIDTH)
            self.weekday = nn.Embedding(7, WIDTH)
            self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
            self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
            self.head = nn.Linear(WIDTH, 1 + len(QUANTILES))

        def forward(self, frame):
            values, there = torch.nan_to_num(frame[:, :, 2:]), ~torch.isnan(frame[:, :, 2:])
            known = there[:, :HISTORY, 0].sum(1).clamp(min=1)
            level = (values[:, :HISTORY, 0].abs().sum(1) / known).clamp(min=1)[:, None, None]
            target = torch.where(there[:, :, :1], values[:, :, :1] / level, torch.zeros_like(values[:, :, :1]))
            seen = self.entry(torch.cat([target, values[:, :, 1:] / 20, there.float()], 2))
            seen = self.lstm(seen + self.weekday(frame[:, :, 0].long() % 7))[0]
            seen = self.gru(seen)[0]
            future = seen[:, HISTORY:]
            future = future + self.attention(future, seen, seen, need_weights=False)[0]
            answer = nn.functional.softplus(self.head(future))
            return torch.cat([answer[:, :, :1], torch.cumsum(answer[:, :, 1:], 2)], 2) * level

    return Network().eval()


@functools.cache
def onnx_bytes() -> bytes:
    """The network as ONNX; exporting takes seconds, so that tests of a process share it."""
    from dl_pipelines.inference.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        return export_onnx(make_network(), make_task(), Path(folder) / "model.onnx").read_bytes()


def onnx_file(path: Path) -> Path:
    """The same written to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(onnx_bytes())
    return path


def tiny_onnx(path: Path) -> Path:
    """A graph by hand: the mean of the history where it is known, times a constant for each step and channel."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Slice", ["frame", "from", "to", "axes"], ["history"]),
        helper.make_node("IsNaN", ["history"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "history"], ["known"]),
        helper.make_node("ReduceMean", ["known", "axis"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "shape"], ["forecast"]),
    ]
    shape = np.array([1, 0.6, 1.0, 1.4]) * np.linspace(0.98, 1.02, HORIZON)[:, None]
    constants = {"from": np.array([0, 2]), "to": np.array([HISTORY, 3]), "axes": np.array([1, 2]),
                 "axis": np.array([1]), "zero": np.float32(0), "shape": shape[None].astype(np.float32)}  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, ["batch", HISTORY + HORIZON, 4])],
        [helper.make_tensor_value_info("forecast", TensorProto.FLOAT, ["batch", HORIZON, 1 + len(QUANTILES)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path

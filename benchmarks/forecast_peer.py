"""The peer of `forecasting.library_*`: neuralforecast's LSTM, in a process of its own; nothing of ours is imported.

Run as `python -m benchmarks.forecast_peer FOLDER` with `.venv-bench` on PYTHONPATH; FOLDER holds `series.parquet` and
`peer.json` (see forecast_data.py). Once it is ready it says `{"library": NAME}`, then answers each JSON line that it
reads with one: `{"train": WINDOWS, "history": DAYS}` with `seconds` and `windows`, `{"forecast": FILE}` when FILE
(.npy, float32 [origins, items, horizon]) is there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

BATCH = 128
"""Windows a step."""
SERIES = 8
"""Series a step that they are drawn from: every window of each is unfolded, so that more of them take longer."""
PAST = 364
"""Days before an origin that it is given to forecast from."""
SETTINGS: dict[str, Any] = {
    "encoder_hidden_size": 64,
    "encoder_n_layers": 1,
    "decoder_hidden_size": 64,
    "decoder_layers": 2,
    "learning_rate": 1e-3,
    "scaler_type": "standard",
}
"""The best of those tried on validation rows; see docs/log.md."""


class Peer:
    """The library with the data loaded; imports are done before anything is timed."""

    def __init__(self, folder: Path):
        import pandas as pd
        import torch
        from neuralforecast import NeuralForecast
        from neuralforecast.losses.pytorch import MAE
        from neuralforecast.models import LSTM

        self.make, self.lstm, self.loss = NeuralForecast, LSTM, MAE
        self.given = json.loads((folder / "peer.json").read_text())
        torch.set_num_threads(self.given["threads"])
        self.series = pd.read_parquet(folder / "series.parquet")
        self.columns = ["unique_id", "ds", "y", "available_mask", *self.given["future"], *self.given["past"]]
        self.static = self.series.groupby("unique_id", as_index=False)[self.given["static"]].first()
        self.fitted: Any = None

    def model(self, steps: int, history: int) -> Any:
        """An untrained model; its loss is the mean absolute error, which is what WAPE measures."""
        given = self.given
        return self.lstm(
            h=given["horizon"],
            input_size=history,
            inference_input_size=history,
            futr_exog_list=given["future"],
            hist_exog_list=given["past"],
            stat_exog_list=given["static"],
            cat_exog_list=list(given["categories"]),
            categorical_cardinalities=given["categories"],
            loss=self.loss(),
            max_steps=steps,
            num_lr_decays=3,
            batch_size=SERIES,
            windows_batch_size=BATCH,
            random_seed=given["seed"],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            **SETTINGS,
        )

    def train(self, windows: int, history: int) -> dict[str, Any]:
        """Fit on the days up to `train_until`; seconds include what the library prepares of a data frame."""
        train, steps = self.series[self.series["ds"] <= self.given["train_until"]], round(windows / BATCH)
        started = time.perf_counter()
        self.fitted = self.make(models=[self.model(steps, history)], freq="D")
        self.fitted.fit(train[self.columns], static_df=self.static)
        return {"seconds": time.perf_counter() - started, "windows": steps * BATCH}

    def forecast(self, path: Path) -> dict[str, Any]:
        """Forecasts of every item at each origin, clipped at zero."""
        import numpy as np
        import pandas as pd

        given, found = self.given, []
        for text in given["origins"]:
            origin = pd.Timestamp(text)
            past = self.series[(self.series["ds"] < origin) & (self.series["ds"] >= origin - pd.Timedelta(days=PAST))]
            ahead = self.series[
                (self.series["ds"] >= origin) & (self.series["ds"] < origin + pd.Timedelta(days=given["horizon"]))
            ]
            answer = self.fitted.predict(
                df=past[self.columns], static_df=self.static, futr_df=ahead[["unique_id", "ds", *given["future"]]]
            )
            table = answer.pivot(index="unique_id", columns="ds", values="LSTM").loc[given["items"]]
            found.append(table.to_numpy(np.float32))
        np.save(path, np.maximum(np.stack(found), 0), allow_pickle=False)
        return {"forecast": str(path)}


def main() -> None:
    """Answer each line of the standard input."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anyone
    warnings.filterwarnings("ignore")
    peer = Peer(Path(sys.argv[1]))
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    answers, sys.stdout = sys.stdout, sys.stderr  # what the library prints is no answer
    print(json.dumps({"library": f"neuralforecast {version('neuralforecast')}"}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = (
            peer.train(asked["train"], asked["history"]) if "train" in asked else peer.forecast(Path(asked["forecast"]))
        )
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""The peer of `training_loop.lightning`: PyTorch Lightning, in a process of its own; nothing of ours is imported.

Run as `python -m benchmarks.lightning_peer FOLDER` with `.venv-bench` on PYTHONPATH; FOLDER holds `peer.json`. Once
it is ready it says `{"library": NAME}`, then answers each line with `seconds` and mean `loss` of one epoch.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer each line of the standard input."""
    warnings.filterwarnings("ignore")
    given = json.loads((Path(sys.argv[1]) / "peer.json").read_text())
    import pytorch_lightning as lightning
    import torch

    from benchmarks import training_works as works

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(given["threads"])
    work = works.images(given["network"], given["side"], given["batch"], given["steps"])
    bare = works.Bare(work, bf16=True)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.losses, self.started, self.seconds = bare.network, [], 0.0, 0.0

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = work.loss({"network": self.network}, *batch)
            self.losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return bare.optimizer

        def on_train_epoch_start(self) -> None:
            self.losses, self.started = [], time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.seconds = time.perf_counter() - self.started

    class Epoch(torch.utils.data.IterableDataset):
        number = 0

        def __iter__(self) -> Any:
            self.number += 1
            return work.batches(self.number)

    module, rows = Module(), torch.utils.data.DataLoader(Epoch(), batch_size=None)
    answers, sys.stdout = sys.stdout, sys.stderr  # what the library prints is no answer
    name = f"pytorch-lightning {version('pytorch-lightning')}"
    print(json.dumps({"library": name}), file=answers, flush=True)
    for _ in sys.stdin:
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, precision="bf16-mixed", max_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, rows)
        found = {"seconds": module.seconds, "loss": float(torch.stack(module.losses).mean())}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Our training loop against a bare PyTorch loop, against eager fp32, against Lightning; and its overhead a step.

ResNet-18 on random images of 112 pixels, batch 32: the same weights, the same batches in the same order, the same
optimizer, and as many threads as there are cores. `gpu` (ResNet-50 and a GPT-style stack) needs one.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.contract import Comparison, against_limit, main, paired

NETWORK, SIDE, BATCH, STEPS, PAIRS = "resnet18", 112, 32, 5, 30
LIMITS = {"bare": 0.98, "eager_fp32": 2.3, "lightning": 1.0, "overhead": 20, "gpu": 0.98}
TOLERANCE = {"same": 2e-3, "fp32": 0.03}
"""Of the mean loss of the first epoch, as a share: of the same number format, and of another."""
Clock = Callable[[], float]
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 operations a second, by the makers' data sheets."""


class Ours:
    """Our loop for a work; an epoch at a time, without validation and checkpoint, which the peers have not either."""

    def __init__(self, work: Any, precision: str, device: str = "cpu"):
        import numpy as np

        from dl_pipelines.brief.references import TaskRef
        from dl_pipelines.brief.sections import AugmentationPlan, Training
        from dl_pipelines.data.augmentation import Online
        from dl_pipelines.data.feed import Feed
        from dl_pipelines.models.recipe import Objective, Phase, Recipe
        from dl_pipelines.tasks.registry import TASKS
        from dl_pipelines.training.communicators.single import SingleCommunicator
        from dl_pipelines.training.loop import Trainer

        training = Training(
            epochs=1000, batch_size=work.batch, learning_rate=1e-3, schedule="constant", warmup_epochs=0.0,
            precision=precision, device=device, compile="off",
        )  # fmt: skip
        phases = (Phase("supervised", (Objective("cross_entropy", ("network",), work.loss),)),)
        params = {"classes": ["a", "b"], "height": 8, "width": 8, "channels": 3}
        task = TASKS.make(TaskRef(name="image_classification", params=params))
        online = Online(AugmentationPlan())
        self.trainer = Trainer(
            Recipe({"network": work.network()}, "network", phases), task, training, online, SingleCommunicator()
        )
        ids = np.arange(len(work.inputs)).astype(str)
        gpu = device != "cpu"
        rows = work.inputs, work.targets, ids
        self.feed = Feed(rows, online, work.batch, 0, ahead=2 if gpu else 0, pinned=gpu)
        self.epoch, self.loss = 0, 0.0

    def run(self, clock: Clock = time.perf_counter) -> float:
        """Seconds of an epoch; `loss` is its mean then."""
        self.epoch += 1
        started = clock()
        self.loss = self.trainer._epoch(self.epoch, self.feed)
        return clock() - started


def agree(ours: float, peer: float, tolerance: float) -> dict[str, Any]:
    """As conditions, that the first epoch's losses are the same. Raises SystemExit where they are not."""
    difference = abs(ours - peer) / abs(peer) if peer else abs(ours)
    if difference > tolerance:
        raise SystemExit(f"found losses of {ours:.6g} (ours) and {peer:.6g}; expected a difference of {tolerance:g}")
    return {"loss": round(ours, 5), "peer_loss": round(peer, 5), "tolerance": tolerance}


def interleaved(
    ours: Any, peer: Any, pairs: int = PAIRS, clock: Clock = time.perf_counter
) -> tuple[list[float], list[float]]:
    """Seconds of each; who is first changes from pair to pair."""
    mine, theirs = [], []
    for place in range(pairs):
        for arm in (ours, peer) if place % 2 else (peer, ours):
            (mine if arm is ours else theirs).append(arm.run(clock))
    return mine, theirs


def versus(
    name: str, ours: Any, peer: Any, tolerance: float, limit: float, shared: bool = False, **conditions: Any
) -> Comparison:
    """Warm up with one epoch each, whose losses have to agree; then the pairs, of `shared` on one network."""
    peer.run()
    ours.run()
    told = agree(ours.loss, peer.loss, tolerance)
    if shared:
        # Where a second network of a process lies in memory is worth 3 %, which is more than there is between loops.
        (mover,) = ours.trainer.movers.values()
        peer.network, (peer.optimizer,) = ours.trainer.recipe.network, mover.optimizers
    return paired(f"training_loop.{name}", *interleaved(ours, peer), "s", limit=limit, **told, **conditions)


def settings() -> dict[str, Any]:
    """Of both sides."""
    return {"network": NETWORK, "side": SIDE, "batch": BATCH, "steps": STEPS, "threads": cores()}


def loop() -> Iterator[Comparison]:
    """Against the bare loop of the same settings, and against what most begin with."""
    import torch

    from benchmarks import training_works as works

    torch.set_num_threads(cores())
    work, plain = (works.images(NETWORK, SIDE, BATCH, STEPS, contiguous=value) for value in (False, True))
    yield versus("bare", Ours(work, "bf16"), works.Bare(work, True), TOLERANCE["same"], LIMITS["bare"], shared=True,
                 peer_is="a bare loop: bf16 autocast, channels-last inputs, fused optimizer", **settings())  # fmt: skip
    yield versus("eager_fp32", Ours(work, "bf16"), works.Bare(plain, False), TOLERANCE["fp32"], LIMITS["eager_fp32"],
                 peer_is="a bare loop: eager, fp32, NCHW", **settings())  # fmt: skip


class Lightning:
    """Lightning's process as an arm."""

    def __init__(self, folder: Path):
        from benchmarks.peer import PeerProcess

        (folder / "peer.json").write_text(json.dumps(settings()))
        self.process, self.loss = PeerProcess("benchmarks.lightning_peer", "pytorch_lightning", folder), 0.0

    def run(self, clock: Clock = time.perf_counter) -> float:
        """Seconds of an epoch, by its own clock."""
        found = self.process.ask({"train": 1})
        self.loss = found["loss"]
        return found["seconds"]


def lightning() -> Iterator[Comparison]:
    """Against Lightning with the same network and settings, without a logger, progress bar or checkpoints."""
    import torch

    from benchmarks import training_works as works

    torch.set_num_threads(cores())
    work = works.images(NETWORK, SIDE, BATCH, STEPS)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        peer = Lightning(Path(scratch))
        try:
            yield versus("lightning", Ours(work, "bf16"), peer, TOLERANCE["same"], LIMITS["lightning"],
                         library=peer.process.version, **settings())  # fmt: skip
        finally:
            peer.process.__exit__()


def overhead() -> Iterator[Comparison]:
    """A network without work: what a step of ours takes beyond a bare one."""
    import torch

    from benchmarks import training_works as works

    torch.set_num_threads(1)
    work = works.nothing(BATCH, 300)
    ours, bare = Ours(work, "fp32"), works.Bare(work, False)
    bare.run()
    ours.run()
    told = agree(ours.loss, bare.loss, TOLERANCE["same"])
    # A loop without work is one thread that never waits: what else runs must not count.
    mine, theirs = interleaved(ours, bare, 41, time.process_time)
    beyond = [(one - other) / work.steps * 1e6 for one, other in zip(mine, theirs, strict=True)]
    alone = round(statistics.median(theirs) / work.steps * 1e6, 1)
    yield against_limit(
        "training_loop.step_overhead", statistics.median(beyond), LIMITS["overhead"], "us a step", bare=alone,
        clock="process time", runs=len(mine), steps=work.steps, **told,
    )  # fmt: skip


def gpu() -> Iterator[Comparison]:
    """ResNet-50 and a GPT-style stack against the bare loop, with the share of the GPU's peak."""
    import torch

    from benchmarks import training_works as works

    if not torch.cuda.is_available():
        print("training_loop: there is no GPU here; nothing of `gpu` was measured", file=sys.stderr)
        return
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK.items() if key in name), None)
    given = {
        "resnet50": works.images("resnet50", 224, 128, 20),
        "gpt": works.text(1024, 8, 1024, 8, 20),
    }
    for key, work in given.items():
        ours, bare = Ours(work, "bf16", "cuda"), works.Bare(work, True, "cuda")
        flops = operations(work)
        bare.run()
        ours.run()
        told = agree(ours.loss, bare.loss, 0.02)
        mine, theirs = interleaved(ours, bare)
        reached = flops * work.steps / statistics.median(mine)
        share = None if peak is None else round(reached / peak, 4)
        yield paired(f"training_loop.gpu_{key}", mine, theirs, "s", limit=LIMITS["gpu"], device=name, batch=work.batch,
                     tera_operations_per_second=round(reached / 1e12, 1), share_of_peak=share, **told)  # fmt: skip


def operations(work: Any) -> int:
    """Of a forward and backward pass of one batch, counted (a product and its sum are two)."""
    from torch.utils.flop_counter import FlopCounterMode

    network = work.network().to("cuda")
    inputs, targets = (value.to("cuda") for value in next(work.batches(1)))
    with FlopCounterMode(display=False) as counter:
        work.loss({"network": network}, inputs, targets).backward()
    return counter.get_total_flops()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main({"loop": loop, "lightning": lightning, "overhead": overhead, "gpu": gpu}, __doc__ or "")

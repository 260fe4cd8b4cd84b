"""How networks rank that are trained from scratch, beside what shared weights say of them. Chooses nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dl_pipelines.evaluation.candidates import is_done
from dl_pipelines.store import durable
from dl_pipelines.training.job import FINAL

if TYPE_CHECKING:
    import torch

    from dl_pipelines.compression.search_front import Looked
    from dl_pipelines.compression.workshop import Workshop
    from dl_pipelines.models.plan import NetworkPlan


def ranked(
    some: Mapping[str, tuple[Looked, NetworkPlan]], shop: Workshop, score: Callable[[torch.nn.Module], float]
) -> dict[str, Any]:  # fmt: skip
    """Spearman's correlation (None where it isn't defined) of shared scores and of networks trained from scratch.

    They are trained side by side, by one process each, with the brief's epochs; what fails is left out.
    """
    from dl_pipelines.compression.search_front import rank_correlation

    _train({name: plan for name, (_, plan) in some.items()}, shop)
    pairs = [
        (name, one.score, score(plan.load(shop.task, _folder(shop, name) / FINAL)))
        for name, (one, plan) in some.items()
        if is_done(_folder(shop, name))
    ]
    correlation = rank_correlation([shared for _, shared, _ in pairs], [alone for _, _, alone in pairs])
    return {"spearman": correlation, "networks": len(pairs), "checked": [list(pair) for pair in pairs]}


def _train(plans: Mapping[str, NetworkPlan], shop: Workshop) -> None:
    from dl_pipelines.training.pool import Pool

    jobs = [shop.job_for(f"scratch/{name}", plan, pooled=True) for name, plan in plans.items()]
    left = [job for job in jobs if not is_done(job.folder)]
    if not left:
        return
    shop.say("architecture search: training from scratch, to compare", len(jobs) - len(left), len(jobs))
    with Pool() as pool:
        for job in left:
            pool.submit(job)
        while pool.waiting:
            for ended in pool.wait():
                durable.remove_tree(ended.job.folder / "checkpoints")
                name = ended.job.folder.name
                told = f"training {name} failed: {ended.error.splitlines()[0]}" if ended.error else f"{name} is trained"
                shop.say(told, len(jobs) - pool.waiting, len(jobs))


def _folder(shop: Workshop, name: str) -> Any:
    return shop.folder / "scratch" / name

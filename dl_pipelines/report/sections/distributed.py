"""5. On what machine and with how many workers the model was trained, and what that cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dl_pipelines.evaluation.wording import number, percent, plural
from dl_pipelines.report.cells import Cell, Extra, Found, made, not_applicable, not_measured, told
from dl_pipelines.report.facts import Facts, library
from dl_pipelines.report.sections.scaling import figure, find, place_of, scaling

_MEASURED = "outcome.json#/measured"


def cells(facts: Facts) -> dict[str, Cell]:
    """The section's cells."""
    return {**_infrastructure(facts), **_strategy(facts), **_performance(facts)}


def extras(facts: Facts) -> list[Extra]:
    """Every number of workers, where the brief asked for a scaling report."""
    return scaling(facts)


def _trained(facts: Facts, path: str) -> Found | Cell:
    return facts.find("trained_model", f"{_MEASURED}/{path}")


def _infrastructure(facts: Facts) -> dict[str, Cell]:
    machine, devices = _trained(facts, "hardware"), _trained(facts, "hardware/gpus")
    spec: Cell = machine if isinstance(machine, Cell) else told(
        f"{machine.value['cpu']}, {machine.value['cores']} cores", machine.source
    )  # fmt: skip
    if isinstance(devices, Cell):
        kind: Cell = devices
    elif devices.value:
        kind = not_measured("the driver's files tell how many there are, not which")
    else:
        kind = not_applicable("this machine has none")
    network = _trained(facts, "network")
    speed = network if isinstance(network, Cell) else not_measured(f"no network between workers ({network.value})")
    return {
        "HARDWARE_SPEC": spec,
        "GPU_COUNT": _cell(devices, "GPUs"),
        "GPU_TYPE": kind,
        "MEMORY_SIZE": _cell(_trained(facts, "hardware/memory_gb"), "GB"),
        "STORAGE_SIZE": _cell(_trained(facts, "hardware/storage_gb"), "GB", lambda value: number(value / 1000)),
        "NETWORK_SPEED": speed,
    }


def _strategy(facts: Facts) -> dict[str, Cell]:
    workers, communicator = _trained(facts, "workers"), _trained(facts, "communicator")
    threads, network = _trained(facts, "threads"), _trained(facts, "network")
    attempts = _trained(facts, "attempts")
    if isinstance(workers, Cell) or isinstance(communicator, Cell):
        reason = workers if isinstance(workers, Cell) else communicator
        assert isinstance(reason, Cell)
        names = ("PARALLEL_TYPE", "DIST_FRAMEWORK", "COMM_BACKEND", "GRAD_AGG", "CHECKPOINT_FREQ")
        return dict.fromkeys(names, reason)
    many = workers.value > 1
    per = f", {plural(threads.value, 'thread')} each" if isinstance(threads, Found) else ""
    alone = not_applicable("one worker: nothing is exchanged")
    tried = (
        f"; {plural(len(attempts.value), 'attempt')}"
        if isinstance(attempts, Found) and isinstance(attempts.value, list)
        else ""
    )
    return {
        "PARALLEL_TYPE": told(f"data parallel, {workers.value} workers{per}", workers.source)
        if many else told(f"none: one worker{per}", workers.source),
        "DIST_FRAMEWORK": communicator.cell(),
        "COMM_BACKEND": _cell(network, "") if many else alone,
        "GRAD_AGG": _aggregation(facts) if many else alone,
        "CHECKPOINT_FREQ": told(f"{_often(facts)}; a lost worker resumes from the last one{tried}",
                                library("training.checkpoint")),
    }  # fmt: skip


def _often(facts: Facts) -> str:
    """When checkpoints are written."""
    steps = facts.find("trained_model", "manifest.json#/settings/settings/training/checkpoint_steps")
    return f"every {steps.value} steps and each epoch" if isinstance(steps, Found) and steps.value else "each epoch"


def _aggregation(facts: Facts) -> Cell:
    """How gradients became means, and the way they took: it was chosen when the workers met."""
    given = facts.find("trained_model", "manifest.json#/settings/settings/distributed")
    route = _trained(facts, "gradients")
    if isinstance(given, Cell) or isinstance(route, Cell):
        return given if isinstance(given, Cell) else not_measured("the way of the gradients was not recorded")
    way = f"through {route.value}" if "memory" in route.value else f"by the all-reduce of {route.value}"
    return told(
        f"{given.value['reduction']}, {way}, in fixed buckets; compression: {given.value['compression']}",
        given.source, route.source,
    )  # fmt: skip


def _performance(facts: Facts) -> dict[str, Cell]:
    seconds, workers, devices = _trained(facts, "seconds"), _trained(facts, "workers"), _trained(facts, "hardware/gpus")
    if isinstance(seconds, Cell) or isinstance(workers, Cell) or isinstance(devices, Cell):
        reason = next(item for item in (seconds, workers, devices) if isinstance(item, Cell))
        names = ("SINGLE_TIME", "MULTI_TIME", "SCALE_EFF", "THROUGHPUT", "TRAINING_COST")
        return dict.fromkeys(names, reason)
    on = "CPU workers, no GPU" if not devices.value else f"workers, {plural(devices.value, 'GPU')}"
    taken = _hours(seconds, f"{workers.value} {on}")
    many = workers.value > 1
    one, several = place_of(facts, 1), place_of(facts, workers.value if many else None)
    compared = one is not None and several is not None
    return {
        "SINGLE_TIME": taken if not many
        else _same_samples(facts, one, "one worker") if compared
        else not_measured("no training with one worker was run beside it"),
        "MULTI_TIME": _several_time(facts, several, seconds if many else None) if compared
        else taken if many
        else not_applicable("one worker"),
        "SCALE_EFF": _efficiency(facts, several) if compared
        else not_measured("needs the time of one worker on the same input: distributed.scaling.workers") if many
        else not_applicable("one worker"),
        "THROUGHPUT": _cell(_trained(facts, "samples_per_second"), "samples/s", note="(the training, with validation)"),
        "TRAINING_COST": _cost(facts, seconds),
    }  # fmt: skip


def _hours(seconds: Found, note: str) -> Cell:
    return seconds.cell("s", lambda value: number(value / 3600), f"({number(seconds.value)} s; {note})")


def _same_samples(facts: Facts, place: int | None, who: str, whole: Found | None = None) -> Cell:
    """Hours for the samples of the scaling report; beside them what the `whole` training took."""
    seconds, samples = find(facts, place, "seconds"), find(facts, place, "samples")
    if isinstance(seconds, Cell) or isinstance(samples, Cell):
        return seconds if isinstance(seconds, Cell) else not_measured("no samples")
    beside = f"; the whole training {number(whole.value)} s" if whole else ""
    return _hours(seconds, f"{plural(samples.value, 'sample')}, {who}{beside}")


def _several_time(facts: Facts, place: int | None, whole: Found | None) -> Cell:
    workers = find(facts, place, "workers")
    count = workers.value if isinstance(workers, Found) else 0
    return _same_samples(facts, place, f"{count} workers", whole)


def _efficiency(facts: Facts, place: int | None) -> Cell:
    workers = find(facts, place, "workers")
    note = f"({workers.value} workers)" if isinstance(workers, Found) else ""
    return figure(facts, place, "efficiency", "share", percent).noted(note)


def _cost(facts: Facts, seconds: Found) -> Cell:
    if facts.brief["distributed"]["price_per_hour"] is None:
        return not_measured("the brief has no price of an hour")
    price = facts.of_brief("distributed", "price_per_hour")
    note = f"(the training's {number(seconds.value)} s at ${number(price.value)} an hour)"
    return made("cost", [price, seconds]).cell("USD", number, note)


def _cell(found: Found | Cell, unit: str, show: Callable[[Any], str] | None = None, note: str = "") -> Cell:
    return found if isinstance(found, Cell) else found.cell(unit, show, note)

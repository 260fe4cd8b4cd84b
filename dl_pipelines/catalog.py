"""Everything a brief may name, and the checks that need to know it; the one place that knows every registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dl_pipelines import brief as frame
from dl_pipelines.brief.errors import closest
from dl_pipelines.brief.overrides import check_experiment_name
from dl_pipelines.brief.registry import Kind
from dl_pipelines.brief.targets import MEASURED_ON, SYSTEM_METRICS
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.data.registry import AUGMENTATIONS, SOURCES
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.monitoring.registry import TRAFFIC
from dl_pipelines.monitoring.thresholds import least_resamples
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.tasks.base import Task
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training.brief_checks import check_candidates, check_losses, check_search

KINDS: Mapping[str, Kind] = {kind.kind: kind for kind in (TASKS, SOURCES, FAMILIES, AUGMENTATIONS, TECHNIQUES, TRAFFIC)}


def task_of(brief: frame.Brief) -> Task:
    """The task that a brief is about."""
    return TASKS.make(brief.problem.task)


def load_brief(path: Path) -> frame.Brief:
    """Read and check a brief file. Raises BriefError with every problem found."""
    return frame.load_brief(path, KINDS, CHECKS)


def read_brief(text: str, source: str) -> frame.Brief:
    """Check a brief given as YAML text. Raises BriefError."""
    return frame.read_brief(text, source, KINDS, CHECKS)


def with_overrides(brief: frame.Brief, overrides: Mapping[str, Any]) -> frame.Brief:
    """A brief with dotted paths replaced, checked again. Raises BriefError."""
    return frame.with_overrides(brief, overrides, KINDS, CHECKS)


def save_experiment(home: Home, brief: frame.Brief, name: str, overrides: Mapping[str, Any]) -> None:
    """Remember the overrides of an experiment. Raises ValueError when the name is taken by other overrides."""
    check_experiment_name(name)
    with_overrides(brief, overrides)
    path = home.experiments / brief.project / f"{name}.json"
    if name == frame.BASE:
        if overrides:
            raise ValueError(f"found overrides for {frame.BASE!r}; expected none; give another --experiment")
        return
    if path.exists() and durable.read_json(path) != dict(overrides):
        raise ValueError(
            f"found the experiment {name!r} with other overrides ({durable.read_json(path)}); expected a new name"
        )
    durable.write_json(path, dict(overrides))


def experiments(home: Home, project: str) -> list[str]:
    """The experiments of a project: the base and every saved one, sorted."""
    return [frame.BASE, *sorted(path.stem for path in (home.experiments / project).glob("*.json"))]


def brief_of(home: Home, brief: frame.Brief, experiment: str | None) -> frame.Brief:
    """The brief as an experiment sees it. Raises ValueError when the experiment is not known."""
    if experiment in (None, frame.BASE):
        return brief
    path = home.experiments / brief.project / f"{experiment}.json"
    if not path.exists():
        raise ValueError(
            f"found no experiment {experiment!r} of {brief.project}; expected one of "
            f"{', '.join(experiments(home, brief.project))}; make it with --set path=value"
        )
    return with_overrides(brief, durable.read_json(path))


def check_targets(brief: frame.Brief) -> Iterator[frame.Problem]:
    """Every target and threshold names a metric that the task or the system has, where it can be measured."""
    task = task_of(brief)
    known = sorted([*task.metrics, *SYSTEM_METRICS])
    for position, target in enumerate(brief.problem.targets):
        path = f"problem.targets[{position}]"
        if target.metric not in known:
            yield frame.Problem(
                f"{path}.metric",
                f"one of {', '.join(known)}",
                repr(target.metric),
                closest=closest(target.metric, known),
            )
        elif target.metric in MEASURED_ON and target.where not in MEASURED_ON[target.metric]:
            where = ", ".join(MEASURED_ON[target.metric])
            yield frame.Problem(f"{path}.where", f"one of {where} for {target.metric}", repr(target.where))
        elif target.slice is not None and target.metric in SYSTEM_METRICS:
            yield frame.Problem(f"{path}.slice", "no slice for a metric of the system", repr(target.slice))
    for metric in brief.evaluation.thresholds:
        if metric not in task.metrics:
            yield frame.Problem(
                f"evaluation.thresholds.{metric}",
                f"one of {', '.join(sorted(task.metrics))}",
                repr(metric),
                closest=closest(metric, task.metrics),
            )


def check_timezone(brief: frame.Brief) -> Iterator[frame.Problem]:
    """A source that says itself where a day begins agrees with `data.timezone`: else its days aren't the partitions."""
    source = brief.data.source
    fields = SOURCES.params_model(source.name).model_fields if source.name in SOURCES.names else {}
    if "timezone" in fields:
        given = source.params.get("timezone", fields["timezone"].default)
        if given != brief.data.timezone:
            path = "data.source.params.timezone"
            yield frame.Problem(path, f"{brief.data.timezone!r}, as data.timezone says", repr(given))


def check_resamples(brief: frame.Brief) -> Iterator[frame.Problem]:
    """So few false alarms can be told from so many resamples."""
    given, rate = brief.monitoring.resamples, brief.monitoring.false_alarms
    if given < least_resamples(rate):
        expected = f"at least {least_resamples(rate)} for {rate:g} false alarms"
        yield frame.Problem("monitoring.resamples", expected, str(given))


def check_live(brief: frame.Brief) -> Iterator[frame.Problem]:
    """A live experiment judges answers: they are kept, and until their labels are due."""
    log, given = brief.serving.log, brief.lifecycle
    if given.evidence != "live":
        return
    if log.sample == 0:
        yield frame.Problem("serving.log.sample", "above 0 where lifecycle.evidence is live: answers are judged", "0")
    if log.keep_days is not None and log.keep_days * 24 <= given.rollout.label_hours:
        expected = f"more than the {given.rollout.label_hours:g} hours of lifecycle.rollout.label_hours"
        yield frame.Problem("serving.log.keep_days", expected, f"{log.keep_days} ({log.keep_days * 24} hours)")
    rules = given.rollout
    if rules.max_hours <= (least := max(rules.min_hours, rules.label_hours)):
        expected = f"more than {least:g}, as rollout.min_hours or .label_hours says"
        yield frame.Problem("lifecycle.rollout.max_hours", expected, f"{rules.max_hours:g}")


def check_kinds(brief: frame.Brief) -> Iterator[frame.Problem]:
    """The family and the augmentations take what the task's inputs are."""
    task, plan = task_of(brief), brief.data.augmentation
    named = [("architecture.family", FAMILIES, brief.architecture.family.name)]
    for part in ("offline", "online"):
        refs = enumerate(getattr(plan, part))
        named += [(f"data.augmentation.{part}[{place}]", AUGMENTATIONS, ref.name) for place, ref in refs]
    for path, registry, name in named:
        if name in registry.names and registry.load(name).kind != task.kind:
            fitting = ", ".join(other for other in registry.names if registry.load(other).kind == task.kind)
            yield frame.Problem(f"{path}.name", f"one that takes inputs of {task.name}: {fitting}", repr(name))
    if plan.offline and "augmented_dataset" in task.not_applicable:
        reason = task.not_applicable["augmented_dataset"]
        yield frame.Problem("data.augmentation.offline", f"none for {task.name} ({reason}); use online", "some")


CHECKS = (
    check_targets, check_timezone, check_resamples, check_live, check_kinds, check_losses, check_candidates,
    check_search,
)  # fmt: skip

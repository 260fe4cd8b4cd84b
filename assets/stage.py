"""What every asset of a stage is made of: key, partitions, checks, pool, and from an artifact to Dagster's results."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dl_pipelines import catalog
from dl_pipelines.brief import BASE, Brief
from dl_pipelines.store.artifacts import Artifact, StageSkipped
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from resources import results
from resources.attempt import attempt
from resources.instance import POOL
from resources.lost import mark
from resources.workspaces import Finished, WorkspaceResource

BACKFILL_TAGS = ("dlp/backfill", "dagster/backfill")
"""A run with one of these moves no traffic."""


@dataclass(frozen=True)
class Step:
    """What a stage computes one partition with. `brief` is as the partition's experiment sees it."""

    context: dg.AssetExecutionContext
    workspace: Workspace
    partition: Partition
    brief: Brief
    task: Task

    @property
    def moves_traffic(self) -> bool:
        """Whether a finished model may take traffic: not in a backfill, and not as an experiment."""
        tags = self.context.run.tags
        return self.partition.experiment == BASE and not any(name in tags for name in BACKFILL_TAGS)


Make = Callable[[Step], Artifact]
Deps = Sequence[str | tuple[str, dg.PartitionMapping]]
NONE: Mapping[str, str] = {}


def key_of(brief: Brief, stage: str) -> dg.AssetKey:
    """An asset's key: the project, then the stage."""
    return dg.AssetKey([brief.project, stage])


def stage_asset(
    brief: Brief,
    stage: str,
    make: Make,
    *,
    partitions: dg.PartitionsDefinition,
    deps: Deps = (),
    blocking: Mapping[str, str] = NONE,
    warning: Mapping[str, str] = NONE,
    kinds: set[str] | None = None,
    description: str,
) -> dg.AssetsDefinition:
    """The asset of one stage of one brief; `blocking` and `warning` are its gates with what each is about.

    Days run together in one run, models one partition a run.
    """
    key, about = key_of(brief, stage), {**blocking, **warning}
    declared = {name: name in blocking for name in about}
    daily = isinstance(partitions, dg.DailyPartitionsDefinition)

    @dg.asset(
        key=key,
        group_name=brief.project,
        deps=[_dep(brief, dep) for dep in deps],
        partitions_def=partitions,
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, blocking=blocks, partitions_def=partitions, description=about[name])
            for name, blocks in declared.items()
        ],
        backfill_policy=dg.BackfillPolicy.single_run() if daily else dg.BackfillPolicy.multi_run(1),
        output_required=False,
        pool=POOL,
        kinds=kinds,
        description=description,
        tags={"dlp/stage": stage},
    )
    def compute(context: dg.AssetExecutionContext, workspaces: dg.ResourceParam[WorkspaceResource]):
        mark(context.instance, context.run)
        keys = context.partition_keys
        made = {name: _make(context, workspaces, brief, stage, make, name) for name in keys}
        yield from _results(context, key, declared, made)

    return compute


def _dep(brief: Brief, dep: str | tuple[str, dg.PartitionMapping]) -> dg.AssetDep:
    if isinstance(dep, str):
        return dg.AssetDep(key_of(brief, dep))
    return dg.AssetDep(key_of(brief, dep[0]), partition_mapping=dep[1])


def _make(
    context: dg.AssetExecutionContext, workspaces: Any, brief: Brief, stage: str, make: Make, name: str
) -> Artifact | StageSkipped:
    """One partition: its artifact, or why there is nothing to do. Raises dg.Failure with the library's words."""
    partition, started = Partition.parse(name), time.monotonic()
    workspace: Workspace = workspaces.open(brief.project, context.log.info)
    workspaces.watcher.started(stage, partition)
    before = len(workspace.made)

    def work() -> Artifact:
        seen = catalog.brief_of(workspace.home, brief, partition.experiment)
        return make(Step(context, workspace, partition, seen, catalog.task_of(seen)))

    found = attempt(work)
    seconds = time.monotonic() - started
    if isinstance(found, StageSkipped):
        context.log.warning(f"{partition.key} is skipped: {found.reason}")
        workspaces.watcher.finished(Finished(stage, partition, seconds, skipped=found.reason))
    else:
        made = found.digest in {item.digest for item in workspace.made[before:]}
        workspaces.watcher.finished(Finished(stage, partition, seconds, found, made))
    return found


def _results(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    declared: Mapping[str, bool],
    made: Mapping[str, Artifact | StageSkipped],
) -> Iterator[Any]:
    """What Dagster records; no materialisation when no partition had anything to do."""
    found = {name: item for name, item in made.items() if isinstance(item, Artifact)}
    if context.has_partition_key and found:  # a range is not one, also where it holds a single day
        (artifact,) = found.values()
        yield dg.MaterializeResult(
            asset_key=key,
            metadata=results.metadata(artifact),
            data_version=results.data_version([artifact]),
            check_results=list(results.check_results(key, artifact, declared)),
        )
        return
    # Without a result of their own the checks' outputs are required, also where there is nothing to check.
    for name in declared:
        yield dg.Output(None, context.assets_def.get_output_name_for_asset_check_key(dg.AssetCheckKey(key, name)))
    if not found:
        return
    for name, item in made.items():
        # One run over many days is one output: Dagster marks each day of the range, also one without records.
        shown = {"skipped": item.reason} if isinstance(item, StageSkipped) else results.metadata(item)
        context.add_asset_metadata(shown, asset_key=key, partition_key=name)
    yield dg.MaterializeResult(asset_key=key, data_version=results.data_version(found.values()))
    for name, artifact in found.items():
        yield from results.check_evaluations(key, artifact, declared, name)

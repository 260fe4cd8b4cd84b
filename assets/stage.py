"""What every asset of a stage is made of: key, partitions, checks, pool, and from an artifact to Dagster's results."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg

from dl_pipelines import catalog
from dl_pipelines.brief import BASE, Brief
from dl_pipelines.store.artifacts import Artifact, StageSkipped
from dl_pipelines.store.database import Database
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from resources import results
from resources.attempt import attempt
from resources.events import together
from resources.instance import POOL
from resources.lost import mark
from resources.workspaces import LISTED, Finished, WorkspaceResource

BACKFILL_TAGS = ("dlp/backfill", "dagster/backfill")
"""A run with one of these moves no traffic."""
RETRAIN = "dlp/retrain"
"""Tag of a daily run: the partition (`date|experiment`) of the model that is trained when it succeeded."""


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
MakeDays = Callable[[Step, Sequence[date]], Iterator[tuple[date, Artifact | StageSkipped]]]
"""Many days at once; the step is that of the first of them."""
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
    make_days: MakeDays | None = None,
    partitions: dg.PartitionsDefinition,
    deps: Deps = (),
    blocking: Mapping[str, str] = NONE,
    warning: Mapping[str, str] = NONE,
    kinds: set[str] | None = None,
    description: str,
) -> dg.AssetsDefinition:
    """The asset of one stage of one brief; `blocking` and `warning` are its gates with what each is about.

    A stage that the brief's task has not is no dependency. Days run together in one run, models one partition a run.
    """
    key, about = key_of(brief, stage), {**blocking, **warning}
    declared = {name: name in blocking for name in about}
    daily, left_out = isinstance(partitions, dg.DailyPartitionsDefinition), catalog.task_of(brief).not_applicable

    @dg.asset(
        key=key,
        group_name=brief.project,
        deps=[_dep(brief, dep) for dep in deps if _name(dep) not in left_out],
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
        workspace = workspaces.open(brief.project, context.log.info)
        attempt(lambda: Database.claim(workspace.home, brief.project))  # whichever stage a run begins with
        work = _Work(context, workspaces, workspace, brief, stage)
        parts = [Partition.parse(name) for name in context.partition_keys]
        made = work.together(make_days, parts) if make_days and len(parts) > 1 else work.one_by_one(make, parts)
        with together(context.instance):
            yield from _results(context, key, declared, made)

    return compute


def _name(dep: str | tuple[str, dg.PartitionMapping]) -> str:
    return dep if isinstance(dep, str) else dep[0]


def _dep(brief: Brief, dep: str | tuple[str, dg.PartitionMapping]) -> dg.AssetDep:
    if isinstance(dep, str):
        return dg.AssetDep(key_of(brief, dep))
    return dg.AssetDep(key_of(brief, dep[0]), partition_mapping=dep[1])


@dataclass(frozen=True)
class _Work:
    """One step of a run: partitions of one stage; whoever watches is told of each."""

    context: dg.AssetExecutionContext
    workspaces: Any
    workspace: Workspace
    brief: Brief
    stage: str

    def step(self, partition: Partition) -> Step:
        """What to compute a partition with."""
        seen = catalog.brief_of(self.workspace.home, self.brief, partition.experiment)
        return Step(self.context, self.workspace, partition, seen, catalog.task_of(seen))

    def one_by_one(self, make: Make, parts: Sequence[Partition]) -> dict[str, Artifact | StageSkipped]:
        """Each partition's artifact, or why there is nothing to do. Raises dg.Failure with the library's words."""
        made, told = {}, set[str]()
        for partition in parts:
            self.workspaces.watcher.started(self.stage, partition)
            started = time.monotonic()
            made[partition.key] = attempt(lambda partition=partition: make(self.step(partition)))
            self._tell(partition, made[partition.key], time.monotonic() - started, len(parts), told)
        return made

    def together(self, make: MakeDays, parts: Sequence[Partition]) -> dict[str, Artifact | StageSkipped]:
        """The same for many days at once."""
        made, told = {}, set[str]()
        self.workspaces.watcher.started(self.stage, parts[0])
        outcomes = attempt(lambda: make(self.step(parts[0]), [partition.day for partition in parts]))
        assert not isinstance(outcomes, StageSkipped), "each day is skipped by itself"
        while True:
            started = time.monotonic()
            found = attempt(lambda: next(outcomes, None))
            if found is None:
                self._sum_up(made)
                return made
            assert not isinstance(found, StageSkipped), "each day is skipped by itself"
            partition = Partition(found[0])
            made[partition.key] = found[1]
            self._tell(partition, found[1], time.monotonic() - started, len(parts), told)

    def _tell(
        self, partition: Partition, found: Artifact | StageSkipped, seconds: float, among: int, told: set[str]
    ) -> None:
        end: dict[str, Any] = {"stage": self.stage, "partition": partition, "seconds": seconds, "among": among}
        if isinstance(found, StageSkipped):
            if among <= LISTED:
                self.context.log.warning(f"{partition.key} is skipped: {found.reason}")
            self.workspaces.watcher.finished(Finished(**end, skipped=found.reason))
        else:
            told |= {item.digest for item in self.workspace.made[len(told) :]}
            self.workspaces.watcher.finished(Finished(**end, artifact=found, made=found.digest in told))

    def _sum_up(self, made: Mapping[str, Artifact | StageSkipped]) -> None:
        """One line for the skipped days of a long range: a weekly series has six of seven."""
        skipped = [name for name, item in made.items() if isinstance(item, StageSkipped)]
        if len(made) > LISTED and skipped:
            self.context.log.warning(f"{len(skipped):,} of {len(made):,} days have no records: {skipped[0]} the first")


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

"""`ab_experiment`: what the model of a partition has shown live as a challenger, when the brief asks for it."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def ab_experiment(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """The evidence and the decision of a live experiment."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.lifecycle.ab_stage import make_ab_experiment

        return make_ab_experiment(step.workspace, step.partition, step.brief.lifecycle)

    return stage_asset(
        brief,
        "ab_experiment",
        make,
        partitions=partitions.models,
        deps=("triton_repository", "prediction_log"),
        warning={
            "guardrails": "no guardrail of the live experiment is harmed",
            "sample_ratio": "each arm of the live experiment has had its share of the units",
        },
        kinds={"json"},
        description="Evidence, decision and ledger of the live experiment of this model; only when asked for.",
    )

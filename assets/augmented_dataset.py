"""`augmented_dataset`: seeded variants of the records that may train."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def augmented_dataset(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Records and their copies."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.data.augmentation import make_augmented_dataset

        return make_augmented_dataset(step.workspace, step.partition, step.brief.data, step.task)

    return stage_asset(
        brief,
        "augmented_dataset",
        make,
        partitions=partitions.days,
        deps=("validated_data",),
        blocking={
            "only_train_grows": "copies are made of train records only, as many as the brief asks for",
            "targets_with_inputs": "each copy has the target of its parent",
        },
        kinds={"lance", "pytorch"},
        description="The clean records of one day, and seeded copies of those that may train.",
    )

"""From what the library skips or refuses to what Dagster understands; any other exception is a fault of ours."""

from collections.abc import Callable

import dagster as dg

from dl_pipelines.store.artifacts import Artifact, StageSkipped


def attempt(make: Callable[[], Artifact]) -> Artifact | StageSkipped:
    """The artifact, or the reason why there is nothing to do. Raises dg.Failure with the library's words."""
    try:
        return make()
    except StageSkipped as skip:
        return skip
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from error

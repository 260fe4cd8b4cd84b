"""From what the library skips or refuses to what Dagster understands; any other exception is a fault of ours."""

from collections.abc import Callable
from typing import TypeVar

import dagster as dg

from dl_pipelines.store.artifacts import StageSkipped
from dl_pipelines.store.space import no_space

Found = TypeVar("Found")

NO_SPACE = "no_space"
"""In the metadata of a failure: the machine is at fault, not what the stage was given."""


def attempt(make: Callable[[], Found]) -> Found | StageSkipped:
    """What is made, or the reason why there is nothing to do. Raises dg.Failure with the library's words.

    A full disk is told as well, with what to do; any other OSError is raised as it is.
    """
    try:
        return make()
    except StageSkipped as skip:
        return skip
    except (ValueError, OSError) as error:
        if full := no_space(error):
            raise dg.Failure(full, metadata={NO_SPACE: True}, allow_retries=False) from error
        if isinstance(error, OSError):
            raise
        raise dg.Failure(str(error), allow_retries=False) from error

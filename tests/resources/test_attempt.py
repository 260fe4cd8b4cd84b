"""What is skipped, what is refused in the library's words, and that a fault of ours stays one."""

import errno
import os
from pathlib import Path

import dagster as dg
import pytest

from dl_pipelines.store.artifacts import Artifact, ArtifactError, StageSkipped
from resources.attempt import NO_SPACE, attempt

MADE = Artifact(Path("nowhere"), "raw_data", "0" * 64, {}, {}, {})


def fail(error: Exception) -> Artifact:
    raise error


def test_an_artifact_is_passed_on():
    assert attempt(lambda: MADE) is MADE


def test_a_skip_keeps_its_reason():
    found = attempt(lambda: fail(StageSkipped("no records arrived on 2026-02-01")))
    assert isinstance(found, StageSkipped)
    assert found.reason == "no records arrived on 2026-02-01"


@pytest.mark.parametrize("error", [ValueError("found X; expected Y"), ArtifactError("found X; expected Y")])
def test_what_a_user_can_mend_fails_in_these_words_and_is_not_tried_again(error):
    with pytest.raises(dg.Failure) as refused:
        attempt(lambda: fail(error))
    assert refused.value.description == "found X; expected Y"
    assert refused.value.allow_retries is False
    assert refused.value.__cause__ is error


def test_a_full_disk_is_told_with_what_to_do_and_as_no_fault_of_the_input():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(dg.Failure) as refused:
        attempt(lambda: fail(error))
    assert refused.value.description.startswith("found no space left on the disk ([Errno 28] No space left on device);")
    assert NO_SPACE in refused.value.metadata
    assert refused.value.allow_retries is False


@pytest.mark.parametrize("error", [AssertionError("ours"), OSError("denied"), KeyError("name"), KeyboardInterrupt()])
def test_any_other_exception_is_left_as_it_is(error):
    with pytest.raises(type(error)) as raised:
        attempt(lambda: fail(error))
    assert raised.value is error

"""A training's launcher with real processes: what they say, how they fail, and what they may see."""

import os
import sys

import dagster as dg

from dl_pipelines.training.launch import LaunchFailed, worker_environment
from resources.pipes import PipesLauncher

TALKS = """
import os
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    pipes.log.info(f"epoch 1 of 12, threads {os.environ['OMP_NUM_THREADS']}, secret {os.environ.get('SECRET_URL')!r}")
"""


def launched(program: str) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """A program launched from an asset, as `trained_model` does, and what the run's log has of it."""

    @dg.asset
    def trained(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        PipesLauncher(context)([sys.executable, "-c", program], worker_environment(threads=3))
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([trained], raise_on_error=False, instance=instance)
        return result, [entry.user_message for entry in instance.all_logs(result.run_id)]


def test_what_rank_0_says_lands_in_the_log(monkeypatch):
    monkeypatch.setenv("SECRET_URL", "postgresql://user:hunter2@host/db")
    result, said = launched(TALKS)
    assert result.success
    assert "epoch 1 of 12, threads 3, secret ''" in said
    assert "hunter2" not in "".join(said)


def test_another_exit_code_than_0_is_a_failed_launch():
    result, _ = launched("raise SystemExit(3)")
    assert not result.success
    (event,) = [event for event in result.all_events if event.is_step_failure]
    causes, error = [], event.step_failure_data.error
    while error:
        causes.append((error.cls_name, error.message.strip()))
        error = error.cause
    name = f"{LaunchFailed.__module__}.{LaunchFailed.__name__}"
    assert any(message.startswith(name) for _, message in causes), causes


def test_it_ends_with_its_parent(tmp_path):
    """The command is started under a parent death signal, however the orchestrator dies."""
    program = f"import os, pathlib; pathlib.Path({str(tmp_path / 'parent')!r}).write_text(str(os.getppid()))"
    assert launched(program)[0].success
    assert int((tmp_path / "parent").read_text()) == os.getpid(), "nothing between that would outlive us"

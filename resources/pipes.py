"""A training's launcher that goes through Dagster Pipes: what rank 0 says lands in the run's log, a cancel ends it."""

import os
from collections.abc import Mapping

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from dl_pipelines.training.launch import LaunchFailed, die_with_parent


class PipesLauncher:
    """Runs the training's supervisor as a Pipes subprocess (see training/launch.py for the protocol).

    The client asks it to end when the run is cancelled; it ends with this process, however that dies.
    """

    def __init__(self, context: dg.AssetExecutionContext):
        self._context = context

    def __call__(self, command: list[str], env: Mapping[str, str]) -> None:
        """Run it to its end. Raises LaunchFailed on another exit code than 0."""
        client = dg.PipesSubprocessClient(termination_timeout_seconds=30)
        try:
            client.run(context=self._context, command=[*die_with_parent(), *command], env=_only(env))
        except DagsterPipesExecutionError as error:
            raise LaunchFailed(1) from error


def _only(env: Mapping[str, str]) -> dict[str, str]:
    """`env`, and nothing in every other variable of ours: the client adds them all, also those that hold secrets."""
    return {**dict.fromkeys(os.environ, ""), **env}

"""A home whose server has networks behind the project's real router, its log on: what the serving benchmarks ask.

A network is published under a project's name with settings of its own; `direct` is the model, without the router.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving_models import Network
from dl_pipelines.brief.live import Serving
from dl_pipelines.serving import config, repository
from dl_pipelines.serving.probe import router_pbtxt
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.wire.log_reading import read_file, segments
from dl_pipelines.wire.records import ANSWERED
from dl_pipelines.wire.routing import only


@dataclass(frozen=True)
class Published:
    """A network under a project's name. `runtime` serves it."""

    network: Network
    serving: Serving
    runtime: str = "openvino"


@contextlib.contextmanager
def served(folder: Path, projects: Mapping[str, Published]) -> Iterator[TritonServer]:
    """A server of a home below `folder` that answers for these projects; it ends with the block. Raises TritonError."""
    home = Home(folder).prepare()
    for project, published in projects.items():
        _publish(home, project, published)
    with running(home) as server:
        yield server


def direct(project: str) -> str:
    """The model behind a project's router."""
    return f"{project}__model"


def logged(server: TritonServer, project: str) -> int:
    """How many rows the router has logged as answered."""
    found = segments(server.home.predictions / project)
    return sum(record["k"] == ANSWERED for path in found for record in read_file(path))


def _publish(home: Home, project: str, published: Published) -> None:
    network, serving, model = published.network, published.serving, direct(project)
    folder = home.repository / model
    (folder / "1").mkdir(parents=True)
    if published.runtime == "openvino":
        shutil.copyfile(network.ir, folder / "1" / "model.xml")
        shutil.copyfile(network.ir.with_suffix(".bin"), folder / "1" / "model.bin")
    else:
        shutil.copyfile(network.onnx, folder / "1" / "model.onnx")
    text = config.model_config(network.signature, published.runtime, serving, "int8")
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    durable.write_json(TritonServer(home).routing(project), only(project, model, 0).plain())
    text = router_pbtxt(project, network.signature, serving)
    repository.install(home, project, repository.router_files(text))

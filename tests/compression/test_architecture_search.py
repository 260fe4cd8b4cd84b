"""A whole search over eight networks of the digits, interrupted and resumed; what can't be searched; stub timings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import spearmanr

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.architecture_search import ArchitectureSearch
from dl_pipelines.compression.base import Network, TechniqueError
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.compression.search_front import Looked
from dl_pipelines.compression.search_run import Search
from dl_pipelines.compression.trials import Bench
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.models.elastic import Point, Space
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.image_classification import ImageClassification
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training import pool
from dl_pipelines.training.job import FINAL, Job
from dl_pipelines.training.worker import run
from tests.training.conftest import write_job

PARAMS = {"widths": (0.5, 1.0), "depths": (1, 2), "measured": 3, "slack": 0.3}
BUDGET = 0.1


class Interrupted(BaseException):
    """As Ctrl-C."""


class Here:
    """A pool of no processes."""

    jobs: ClassVar[Counter[str]] = Counter()

    def __init__(self):
        self._queue: list[Job] = []

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def wait(self) -> list[pool.Ended]:
        job = self._queue.pop(0)
        self.jobs[job.folder.name] += 1
        job.write()
        run(job)
        return [pool.Ended(job, [], 0.0, None)]


class Place:
    """A workshop on a trained network of the digits, which trains in this process; what was trained and told."""

    def __init__(self, folder: Path, trained: Network, job: Job, objective: str = "size"):
        self.trainings: Counter[str] = Counter()
        self.decided: dict[str, Any] = {}
        self.stops: Callable[[str], bool] = lambda message: False
        task = TASKS.make(job.task)
        inputs, targets, ids = (np.load(job.rows / f"validation_{name}.npy") for name in ("inputs", "targets", "ids"))
        rows, train = Rows(inputs, targets, ids), np.load(job.rows / "train_inputs.npy")
        bench = Bench(task, rows, np.zeros((len(rows), 10), np.float32), 1, 5)
        compression = Compression(objective=objective, max_loss=BUDGET)  # type: ignore[arg-type]
        self.shop = Workshop(
            bench, compression, lambda place: replace(job, folder=place), trained, self._launch, folder,
            lambda count: train[:count], self._decide, self._tell,
        )  # fmt: skip

    def _launch(self, command: list[str], _: Any) -> None:
        path = Path(command[-1])
        self.trainings[path.parent.name] += 1
        run(Job.read(path))

    def _decide(self, name: str, measure: Any) -> Any:
        if name not in self.decided:
            self.decided[name] = measure()
        return self.decided[name]

    def _tell(self, message: str, *_: Any) -> None:
        if self.stops(message):
            raise Interrupted


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    made = write_job(tmp_path_factory.mktemp("rows") / "job", training={"epochs": 4, "compile": "off"})
    made = replace(made, family=FamilyRef(name="cnn", params={"width": 16}))
    made.write()
    run(made)
    return made


@pytest.fixture(scope="module")
def trained(job) -> Network:
    from dl_pipelines.inference.export import export_onnx

    plan, weights = NetworkPlan(job.family, job.statistics), job.folder / FINAL
    task = TASKS.make(job.task)
    return Network("fp32", plan, weights, export_onnx(plan.load(task, weights), task, job.folder / "model.onnx"))


@pytest.fixture
def place(tmp_path, trained, job, monkeypatch) -> Place:
    monkeypatch.setattr(pool, "Pool", Here)
    return Place(tmp_path, trained, job)


def search(**changed: Any) -> ArchitectureSearch:
    return ArchitectureSearch(ArchitectureSearch.Params(**{**PARAMS, **changed}))


def test_a_search_that_is_interrupted_trains_nothing_twice(place, trained):
    technique, shop = search(trained=2, checked=3, measured=2), place.shop
    assert technique.unsuited(trained, shop) is None
    stops = [
        lambda message: message.startswith("exporting 16x2_32x2"), lambda message: message.startswith("scoring 16x2"),
        lambda message: message.endswith(" is trained"),
        lambda message: message.startswith("architecture search: training") and place.trainings.total() == 2,
    ]  # fmt: skip
    for place.stops in stops:
        with pytest.raises(Interrupted):
            technique.variants(trained, shop)
        assert place.trainings["shared_2"] == 1
    assert place.trainings.total() == 2, "one of two that are trained on their own"
    place.stops = lambda message: False
    first, second = technique.variants(trained, shop)
    names = {first.name, second.name}
    assert Here.jobs == Counter({one[0]: 1 for one in first.details["rank"]["checked"]})
    assert place.trainings == Counter({"shared_2": 1, **dict.fromkeys(names, 1)})
    again = technique.variants(trained, shop)
    assert place.trainings.total() == 3 and [one.details for one in again] == [first.details, second.details]
    for variant in (first, second):
        _look_at(variant, trained, shop)


def _look_at(variant, trained, shop):
    from dl_pipelines.inference.parity import torch_outputs

    network, details = variant.network, variant.details
    assert variant.path is network.onnx and variant.precision == "fp32" and variant.failure is None
    assert variant.path.stat().st_size < trained.onnx.stat().st_size
    name, score, cost = details["found"].values()
    point = Point(tuple(network.plan.family.params["widths"]), tuple(network.plan.family.params["depths"]))
    assert variant.name == f"searched_{name}" == f"searched_{point.name}"
    space = Space(((8, 16), (16, 32)), ((1, 2), (1, 2)), 2)
    assert point in [space[place] for place in range(len(space))]
    outputs = torch_outputs(shop.module(network), shop.rows.inputs)
    assert np.allclose(shop.outputs(variant.path, "onnxruntime"), outputs, atol=1e-4)
    assert shop.task.measure(outputs, shop.rows.targets)["accuracy"] > score, "more than its slice of shared weights"
    # The same graph with other weights: as many bytes, but for how long numbers are written.
    assert cost == pytest.approx(variant.path.stat().st_size / 1e6, rel=0.01)
    assert details["space"] == details["looked"] == 16 and details["unit"] == "MB" and details["fit_error"] > 0
    costs, scores = [one["cost"] for one in details["front"]], [one["score"] for one in details["front"]]
    assert costs == sorted(costs) and scores == sorted(scores) and 0 < score <= 1
    rank = details["rank"]
    assert rank["networks"] == len({one[0] for one in rank["checked"]}) == 3
    pairs = [one[1:] for one in rank["checked"]]
    assert rank["spearman"] == pytest.approx(spearmanr(pairs).statistic)
    assert set(details["seconds"]) == {"sharing", "measuring", "scoring"}


def test_a_training_that_fails_is_a_variant_that_says_why(place, trained, monkeypatch):
    def fail(self, name, point):
        raise TechniqueError("its loss became infinite")

    monkeypatch.setattr(Search, "trained", fail)
    monkeypatch.setattr(Search, "choose", lambda self, looked: looked[:1])
    place.decided["costs"] = {"of": {"fp32": 1.0, "8x1_16x1": 1.0, "16x2_32x2": 2.0}, "seconds": 0.0}
    (variant,) = search(checked=0, epochs=1, measured=2).variants(trained, place.shop)
    assert (variant.path, variant.network) == (None, None) and variant.failure == "its loss became infinite"
    assert variant.details["rank"] is None


def of_table(table: dict[str, float], given: dict[str, Any], trained: Network, tmp_path: Path) -> Search:
    """A search that knows the costs of networks by a table, and exports nothing."""
    compression = Compression(objective="latency", max_loss=0.01)
    shop: Any = SimpleNamespace(
        compression=compression, folder=tmp_path, decide_once=lambda name, measure: measure(),
        task=ImageClassification(ImageClassification.Params(classes=tuple("0123456789"))),
    )  # fmt: skip
    space = Space(((8, 16), (16, 32)), ((1,), (1,)), 2)
    made = Search(ArchitectureSearch.Params(**given), trained, shop, space)
    object.__setattr__(made, "_measured", lambda points: {name: table[name] for name in table})
    vars(made)["costs"] = {"of": table, "seconds": 0.0}
    return made


LOOKED = [
    Looked(Point((8, 16), (1, 1)), 0.95, 1.0), Looked(Point((16, 16), (1, 1)), 0.97, 2.0),
    Looked(Point((8, 32), (1, 1)), 0.985, 3.0), Looked(Point((16, 32), (1, 1)), 0.99, 4.0),
]  # fmt: skip


def test_rows_that_do_not_determine_the_metric_are_the_techniques_reason(place, trained, monkeypatch):
    monkeypatch.setattr(ImageClassification, "measure", lambda *_: {})
    with pytest.raises(TechniqueError, match=r"^found answers or rows that don't determine "):
        Search(ArchitectureSearch.Params(), trained, place.shop, Space(((16,), (32,)), ((2,), (2,)), 2))._score(
            place.shop.module(trained)
        )


def test_costs_that_were_measured_decide(trained, tmp_path):
    # By the fit the cheapest was 8x1_16x1; measured, it is dearer than what it is to replace.
    table = {"fp32": 3.5, "8x1_16x1": 3.6, "16x1_16x1": 2.5, "8x1_32x1": 2.2}
    found = of_table(table, {"slack": 0.05, "trained": 2}, trained, tmp_path).choose(LOOKED)
    assert [(one.point.name, one.cost) for one in found] == [("8x1_32x1", 2.2), ("16x1_16x1", 2.5)]


def test_the_network_that_it_began_with_is_not_chosen(trained, tmp_path):
    table = {"fp32": 3.5, "16x2_32x2": 1.0, "8x1_16x1": 2.5, "16x1_32x1": 4.0}
    own = Looked(Point((16, 32), (2, 2)), 0.99, 1.0)
    found = of_table(table, {"slack": 0.05}, trained, tmp_path).choose([own, *LOOKED[:1], *LOOKED[3:]])
    assert [one.point.name for one in found] == ["8x1_16x1"]


def test_the_network_that_it_began_with_is_built_once(trained, tmp_path, monkeypatch):
    built, build = Counter[NetworkPlan](), NetworkPlan.build
    monkeypatch.setattr(NetworkPlan, "build", lambda self, task: built.update([str(self)]) or build(self, task))
    table = {"fp32": 3.5, "8x1_16x1": 2.5, "16x1_16x1": 2.6, "8x1_32x1": 2.7, "16x1_32x1": 4.0}
    of_table(table, {"slack": 0.05}, trained, tmp_path).choose(LOOKED)
    assert built[str(trained.plan)] == 1 and built.total() == 1 + len(LOOKED)


def test_a_space_without_anything_cheaper_is_told(trained, tmp_path):
    table = {"fp32": 0.5}
    with pytest.raises(
        TechniqueError, match=r"found none of 4 networks that is cheaper than fp32 and loses at most 0.03"
    ):
        of_table(table, {"slack": 0.02}, trained, tmp_path).choose(LOOKED)


@pytest.mark.parametrize(
    ("family", "cuts", "params", "message"),
    [
        ("vit", (), {}, "the family vit has no widths or depths to search; expected one with `space`, such as cnn"),
        ({"network": "resnet18"}, (), {}, "this network of the family cnn has no widths or depths to search"),
        ({}, (("1", True, (0,)),), {}, "found a network with channels cut away; expected a whole one"),
        ({}, (), {"widths": (1.0,), "depths": (2,)}, "expected some to choose from"),
        ({"width": 400}, (), {"widths": (1.0, 2.0)}, "the largest network of the space can't be: Input should be less"),
    ],
)
def test_what_can_not_be_searched_is_told(place, trained, family, cuts, params, message):
    ref = FamilyRef(name=family) if isinstance(family, str) else FamilyRef(name="cnn", params=family)
    start = replace(trained, plan=NetworkPlan(ref, trained.plan.statistics, cuts))
    assert message in str(search(**params).unsuited(start, place.shop))


def test_it_is_a_technique_of_the_brief():
    made = TECHNIQUES.make(Compression(techniques=({"name": "architecture_search"},)).techniques[0])  # type: ignore
    assert isinstance(made, ArchitectureSearch)
    assert (made.phase, made.template_row, made.trains) == ("search", "NAS", True)
    with pytest.raises(ValidationError, match="greater than 0"):
        search(widths=(0.0,))

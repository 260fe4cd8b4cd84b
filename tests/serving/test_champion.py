import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiny import FIRST, SECOND, reference
from dl_pipelines.serving import repair, repository
from dl_pipelines.serving.champion import NoChampion, champion, ledger
from dl_pipelines.serving.client import predict
from dl_pipelines.serving.parity import ParityError
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.repair import reconcile
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.traffic import ensure_champion, give_traffic, rollback
from dl_pipelines.serving.unloading import drop
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.digest import digest_file
from dl_pipelines.wire.routing import read_table


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture(scope="module")
def duel(make_workspace, task, data, serving, evaluation):
    """A home with two published models; its server runs for the whole module."""
    workspace = make_workspace()
    with running(workspace.home, lazy=True):
        yield (
            workspace,
            [
                make_triton_repository(workspace, partition, serving, data, task, evaluation)
                for partition in (FIRST, SECOND)
            ],
        )


def name_of(artifact):
    return artifact.read_json("model.json")["model"]


def events(workspace):
    return [(row["event"], row["model"]) for row in ledger(workspace)]


def answers(workspace, task, inputs, tag):
    return predict(workspace, task, inputs, [f"{tag}/{place}" for place in range(len(inputs))])


def test_the_whole_life_of_a_champion(duel, task, inputs):
    workspace, (first, second) = duel
    assert champion(workspace) is None
    with pytest.raises(NoChampion, match="found nothing published for tiny; expected a champion; run `dlp run`"):
        answers(workspace, task, inputs, "early")
    assert ensure_champion(workspace, FIRST, first) is True
    assert ensure_champion(workspace, SECOND, second) is False
    now = champion(workspace)
    assert now and (now.model, now.digest, now.partition) == (name_of(first), first.digest, FIRST.key)
    np.testing.assert_allclose(answers(workspace, task, inputs, "a"), reference(inputs, 0), atol=1e-4)
    with pytest.raises(NoChampion, match="found no version of tiny that served before"):
        rollback(workspace)

    served = {name: digest_file(workspace.home.repository / name_of(first) / name) for name in ("config.pbtxt",)}
    give_traffic(workspace, second, SECOND, "better", {"difference": 0.01})
    np.testing.assert_allclose(answers(workspace, task, inputs, "b"), reference(inputs, 1), atol=1e-4)
    give_traffic(workspace, second, SECOND, "again")
    back = rollback(workspace, "worse after all")
    assert (back.model, back.partition, back.reason) == (name_of(first), FIRST.key, "worse after all")
    np.testing.assert_allclose(answers(workspace, task, inputs, "c"), reference(inputs, 0), atol=1e-4)
    live = workspace.home.repository / name_of(first)
    assert {name: digest_file(live / name) for name in served} == served
    assert repository.is_sound(workspace.home, name_of(first), repository.model_files(first)), "byte for byte"

    one, two = name_of(first), name_of(second)
    assert events(workspace) == [
        ("published", one), ("champion", one), ("published", two), ("champion", two), ("published", one),
        ("rollback", one),
    ]  # fmt: skip
    moved = [row for row in ledger(workspace) if row["event"] == "champion"][-1]
    assert moved["evidence"]["difference"] == 0.01
    assert moved["reason"] == "better"


def test_other_serving_settings_of_the_champion_take_over_at_once(duel, task, data, serving, evaluation, inputs):
    workspace, (first, second) = duel
    give_traffic(workspace, first, FIRST, "start")
    changed = serving.model_copy(update={"durability": "disk"})
    artifact = make_triton_repository(workspace, FIRST, changed, data, task, evaluation)
    assert (name_of(artifact), artifact.digest != first.digest) == (name_of(first), True)
    assert ensure_champion(workspace, SECOND, second) is False
    assert ensure_champion(workspace, FIRST, artifact) is True
    now = champion(workspace)
    assert now and (now.digest, now.reason) == (artifact.digest, "the same model with other serving settings")
    assert 'string_value: "disk"' in (workspace.home.repository / "tiny" / "config.pbtxt").read_text()
    np.testing.assert_allclose(answers(workspace, task, inputs[:4], "disk"), reference(inputs[:4], 0), atol=1e-4)
    assert rollback(workspace).digest == first.digest
    assert 'string_value: "disk"' not in (workspace.home.repository / "tiny" / "config.pbtxt").read_text()


def crash_at(number):
    seen = []

    def hook(operation, path):
        seen.append((operation, path))
        if len(seen) == number:
            raise Crash

    return seen, hook


def test_a_crash_at_any_step_leaves_the_old_model_serving(duel, task, inputs):
    workspace, (first, second) = duel
    if champion(workspace) is None:
        give_traffic(workspace, first, FIRST, "first")
    number, moved_at, finished = 0, None, False
    while not finished:
        number += 1
        give_traffic(workspace, first, FIRST, "back to the start")
        drop(workspace, TritonServer(workspace.home), name_of(second))
        seen, hook = crash_at(number)
        with contextlib.suppress(Crash), durable.inject(hook):
            give_traffic(workspace, second, SECOND, f"crash at {number}")
            finished = True
        table = read_table(TritonServer(workspace.home).routing("tiny"))
        moved = table.champion == name_of(second)
        found = answers(workspace, task, inputs[:4], f"crash/{number}")
        np.testing.assert_allclose(found, reference(inputs[:4], 1 if moved else 0), atol=1e-4)
        if moved and moved_at is None:
            moved_at = number
            assert seen[-1][1].name in ("tiny.json", "routing")
        reconcile(workspace)
        now = champion(workspace)
        assert now and now.model == table.champion
        last = ledger(workspace)[-1]
        if moved:
            assert (last["event"], last["model"]) == ("champion", table.champion)
        assert not list((workspace.home.server / "incoming").iterdir())
        assert number < 60
    assert moved_at and moved_at > 5


def test_a_crash_after_the_routing_table_is_written_into_the_ledger_later(duel, monkeypatch):
    workspace, (first, second) = duel
    give_traffic(workspace, first, FIRST, "start")
    real = repair.append

    def dies(workspace, **values):
        if values["event"] == "champion":
            raise Crash
        return real(workspace, **values)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(repair, "append", dies)
        give_traffic(workspace, second, SECOND, "better", {"difference": 0.02})
    assert ledger(workspace)[-1]["event"] == "published"
    assert f"wrote the ledger's row of {name_of(second)}" in reconcile(workspace)
    last = ledger(workspace)[-1]
    assert (last["event"], last["model"], last["reason"]) == ("champion", name_of(second), "better")
    assert last["evidence"]["difference"] == 0.02
    assert reconcile(workspace) == []


def test_a_damaged_live_folder_is_put_back(duel, task, inputs):
    workspace, (first, _) = duel
    give_traffic(workspace, first, FIRST, "start")
    live = workspace.home.repository / name_of(first)
    (live / "1" / "model.onnx").write_bytes(b"half")
    (workspace.home.repository / "tiny" / "1" / "model.py").unlink()
    TritonServer(workspace.home).stop()
    np.testing.assert_allclose(answers(workspace, task, inputs[:4], "damaged"), reference(inputs[:4], 0), atol=1e-4)
    assert repository.is_sound(workspace.home, name_of(first), repository.model_files(first))


def test_a_damaged_artifact_gets_no_traffic(duel):
    workspace, (first, second) = duel
    give_traffic(workspace, first, FIRST, "start")
    path = second.file("model/1/model.onnx")
    sound = path.read_bytes()
    path.write_bytes(sound[:-1])
    try:
        with pytest.raises(ArtifactError, match=r"found model/1/model.onnx of triton_repository .* damaged"):
            give_traffic(workspace, second, SECOND, "damaged")
    finally:
        path.write_bytes(sound)
    now = champion(workspace)
    assert now and now.model == name_of(first)


def test_a_model_that_answers_otherwise_gets_no_traffic(duel, monkeypatch):
    workspace, (first, second) = duel
    give_traffic(workspace, first, FIRST, "start")
    real = np.load

    def other(path, **given):
        return real(path, **given) + np.float32(0.5) if "outputs" in Path(path).name else real(path, **given)

    monkeypatch.setattr(np, "load", other)
    with pytest.raises(ParityError, match=r"found a largest difference of 0\.\d+ .*the old model keeps the traffic"):
        give_traffic(workspace, second, SECOND, "worse")
    now = champion(workspace)
    assert now and now.model == name_of(first)


def test_what_neither_serves_nor_served_last_is_removed(duel):
    workspace, (first, second) = duel
    stray = workspace.home.repository / "tiny__000000000000"
    stray.mkdir()
    give_traffic(workspace, second, SECOND, "start")
    give_traffic(workspace, first, FIRST, "back")
    assert not stray.exists()
    assert {path.name for path in workspace.home.repository.iterdir()} == {"tiny", name_of(first), name_of(second)}


def test_what_a_crashed_measurement_left_is_removed(duel):
    workspace, (first, _) = duel
    give_traffic(workspace, first, FIRST, "start")
    probe = f"{name_of(first)}{repository.PROBE}"
    repository.install(workspace.home, probe, {"config.pbtxt": b"backend: 'python'"})
    TritonServer(workspace.home).routing(probe).write_text(json.dumps({}))
    assert reconcile(workspace) == [f"removed {probe}"]
    assert not TritonServer(workspace.home).routing(probe).exists()

"""The energy counter, with folders as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dl_pipelines.training import energy
from dl_pipelines.training.energy import Counter, find_counter, joules_in_turns


def zone(root: Path, name: str, energy: int, whole: int = 1_000_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{whole}\n")
    return folder


def test_processors_are_summed_and_their_parts_left_out(tmp_path):
    one, two = zone(tmp_path, "intel-rapl:0", 5_000_000), zone(tmp_path, "intel-rapl:1", 999_000_000)
    part = zone(tmp_path, "intel-rapl:0:0", 1_000_000)
    counter, reason = find_counter(tmp_path)
    assert counter is not None and not reason

    def work() -> str:
        (one / "energy_uj").write_text("7500000")
        (two / "energy_uj").write_text("2000000")  # it has started again
        (part / "energy_uj").write_text("9000000")
        return "done"

    assert counter.around(work) == ("done", 2.5 + 3.0)


def test_why_there_is_none(tmp_path, monkeypatch):
    assert find_counter(tmp_path / "absent") == (None, "this machine shows no energy counter (RAPL)")
    zone(tmp_path, "intel-rapl:0", 1)

    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(energy, "_number", refuse)
    counter, reason = find_counter(tmp_path)
    assert counter is None and reason == "the energy counter of this machine can't be read (Permission denied)"


def test_each_goes_first_in_its_turn(tmp_path, monkeypatch):
    folder, order, now = zone(tmp_path, "intel-rapl:0", 0), list[str](), iter(range(1000))
    monkeypatch.setattr(energy.time, "monotonic", lambda: next(now))

    def answers(name: str, microjoules: int) -> int:
        order.append(name)
        spent = microjoules + 100 * ((len(order) - 1) % 3)  # dearer, the later in its turn
        (folder / "energy_uj").write_text(str(int((folder / "energy_uj").read_text()) + spent))
        return 10

    calls = {name: (lambda name=name: answers(name, 1000)) for name in "abc"}
    # A second by this clock is one look at it: each answers once.
    found = joules_in_turns(Counter((folder,)), calls, 2, 3)
    assert order == [*"abc", *"bca", *"cab"]
    assert found["a"] == pytest.approx([0.1, 0.12, 0.11])
    assert found["b"] == pytest.approx([0.11, 0.1, 0.12])
    assert found["c"] == pytest.approx([0.12, 0.11, 0.1])
    assert joules_in_turns(Counter((folder,)), {}, 2, 3) == {}


def test_a_lost_counter_is_an_error_of_the_system(tmp_path):
    folder = zone(tmp_path, "intel-rapl:0", 1)
    counter, _ = find_counter(tmp_path)
    assert counter is not None
    with pytest.raises(FileNotFoundError):
        counter.around((folder / "energy_uj").unlink)

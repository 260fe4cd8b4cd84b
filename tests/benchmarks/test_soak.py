"""What `python -m benchmarks.soak` is told."""

import json

import pytest

from benchmarks import soak


def test_parts_get_their_share_of_the_minutes_and_a_whole_path(monkeypatch, tmp_path, capsys):
    seen = []

    def part(folder, minutes):
        seen.append((folder, minutes))
        return {"faults": []}

    monkeypatch.setattr(soak, "PARTS", {"one": (part, 0.1), "two": (part, 0.3), "three": (part, 0.6)})
    monkeypatch.setattr("sys.argv", ["soak", "one", "two", "--minutes", "8", "--folder", "scratch"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        soak.main()
    assert ended.value.code == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"faults": []}] * 2
    assert [minutes for _, minutes in seen] == [pytest.approx(2), pytest.approx(6)]
    assert {folder for folder, _ in seen} == {tmp_path / "scratch"}

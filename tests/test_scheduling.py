"""What several processes of the tests take, in which order."""

from pathlib import Path

from tests.conftest import PARTIES, TOGETHER, room_of, take, together

TESTS = Path(__file__).parent


def test_a_process_takes_its_own_party_first_and_then_whatever_waits():
    waiting = ["tests/brief/test_a.py", "line", "tests/training/test_b.py", "cli", "tests/test_end_to_end.py"]
    assert [take(waiting, process) for process in range(4)] == ["cli", "line", "tests/training/test_b.py", "cli"]
    taken = []
    while waiting:
        taken.append(take(waiting, 0))
        waiting.remove(taken[-1])
    assert taken == [
        "cli", "tests/test_end_to_end.py", "tests/brief/test_a.py", "line", "tests/training/test_b.py",
    ]  # fmt: skip


def test_the_parties_are_of_rooms_that_are_there():
    named = [name for party in PARTIES for name in party]
    assert len(named) == len(set(named))
    assert [name for name in named if name not in TOGETHER and not (TESTS / name).exists()] == []
    assert room_of(together("tests/report/test_make.py::test_a")) == "line"
    assert room_of(together("tests/serving/test_label.py::test_a")) == "serving"
    assert room_of(together("tests/test_doctor.py::test_a")) == "test_doctor.py"

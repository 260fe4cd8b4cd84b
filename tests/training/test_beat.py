import time

from dl_pipelines.training.beat import Beat


def test_it_tells_at_once_then_no_more_often_than_it_may():
    told = []
    beat = Beat(told.append, 3, 60.0)
    for step in range(1, 5):
        beat.tell(1, step, 4)
    assert told == [{"epoch": 1, "epochs": 3, "step": 1, "steps": 4}]


def test_it_goes_on_telling_while_something_takes_long():
    told = []
    beat = Beat(told.append, 3, 0.02)
    with beat.during(1, 0, 4):
        time.sleep(0.2)
    count = len(told)
    assert count >= 2
    time.sleep(0.05)
    assert len(told) == count

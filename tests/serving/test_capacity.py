import math

import pytest

from dl_pipelines.serving.capacity import highest, place_of, rate_at


def test_the_grid_has_steps_of_a_tenth():
    assert rate_at(0) == 1
    assert rate_at(4) == pytest.approx(1.5)
    assert rate_at(41) / rate_at(40) == pytest.approx(1.1067, abs=1e-4)
    for place in range(80):
        assert place_of(rate_at(place)) == place
        assert place_of(rate_at(place) * 1.1) == place
    assert place_of(0) == 0


@pytest.mark.parametrize("start", [0, 17, 39, 40, 41, 43, 90])
@pytest.mark.parametrize("capacity", [0, 1, 39, 40, 64])
def test_the_highest_rate_is_found_from_anywhere(start, capacity):
    asked = []

    def keeps(place):
        asked.append(place)
        return place <= capacity

    assert highest(keeps, start) == capacity
    assert len(asked) == len(set(asked)), "each rate is measured once"
    assert len(asked) <= 3 + math.ceil(abs(start - capacity) / 4) + 1


def test_a_model_that_carries_nothing_has_no_rate():
    assert highest(lambda place: False, 30) is None

import itertools
import xml.etree.ElementTree as ET

import pytest

from dl_pipelines.report.scatter import HEIGHT, LEFT, LETTER, LINE, WIDTH, Point, Scale, scatter


def point(name, across, up, **changed):
    return Point(name, across, up, (across, across), (up, up), "kind", f"{name} & more", **changed)


def drawn(points, front=(), **changed):
    text = scatter("Title", "named", "axis", points, front, str, str, **changed)
    return ET.fromstring(text)


def boxes(picture, names):
    """Left, top, right, bottom of the names that are drawn."""
    found = {}
    for item in picture.iter("text"):
        if item.text in names:
            wide, x, y = LETTER * len(item.text), float(item.get("x")), float(item.get("y"))
            left = {"": x, "end": x - wide, "middle": x - wide / 2}[item.get("class")]
            found[item.text] = (left, y + 3 - LINE, left + wide, y + 3)
    return found


def apart(one, other):
    return one[2] <= other[0] + 0.3 or other[2] <= one[0] + 0.3 or one[3] <= other[1] + 0.3 or other[3] <= one[1] + 0.3


@pytest.mark.parametrize("count", [3, 12, 40])
def test_names_do_not_cover_each_other_or_points(count):
    """A crowd in one corner, and one far away."""
    points = [point(f"variant_{at} on openvino", 0.2 + 0.001 * at, 0.01 * (at % 5), rank=3) for at in range(count)]
    points += [point("fp32 on onnxruntime", 1.0, 0.0, rank=0), point("chosen", 0.19, 0.02, rank=0)]
    picture = drawn(points)
    found = boxes(picture, {item.name for item in points})
    assert {"fp32 on onnxruntime", "chosen"} <= set(found), "what matters is named"
    assert len(found) >= 3
    for one, other in itertools.combinations(found.values(), 2):
        assert apart(one, other)
    dots = [tuple(float(item.get(key)) for key in ("cx", "cy", "r")) for item in picture.iter("circle")]
    assert len(dots) == len(points)
    for left, top, right, bottom in found.values():
        assert left >= LEFT - 0.2 and right <= WIDTH + 0.2 and top >= 0 and bottom <= HEIGHT
        for x, y, r in dots:
            assert apart((left, top, right, bottom), (x - r, y - r, x + r, y + r))


def test_one_that_must_be_named_is_named_where_it_covers_least():
    points = [point("a" * 30, 1.0, 1.0, rank=0) for _ in range(40)]
    assert len([item for item in drawn(points).iter("text") if item.text == "a" * 30]) == 40
    left_out = [point("a" * 30, 1.0, 1.0, rank=1) for _ in range(40)]
    assert 0 < len([item for item in drawn(left_out).iter("text") if item.text == "a" * 30]) < 40


def test_the_front_is_joined_from_left_to_right_and_the_limit_is_named():
    points = [point("b", 2.0, 0.1), point("a", 1.0, 0.5), point("c", 3.0, 0.0)]
    picture = drawn(points, points, limit=(0.7, "budget <1%>"))
    lines = [item.get("d") for item in picture.iter("path") if item.get("class") == "line stroke-0"]
    (line,) = lines
    across = [float(part.split()[0]) for part in line[1:].split("L")]
    assert across == sorted(across) and len(across) == 3
    assert "budget <1%>" in [item.text for item in picture.iter("text")]
    assert [item.text for item in picture.iter("title")] == ["b & more", "a & more", "c & more"]


def test_a_scale_goes_by_factors_where_values_are_far_apart():
    near, far = Scale([(1.0, 4.0)], 0, 100), Scale([(1.0, 100.0)], 0, 100)
    assert near(2.5) == pytest.approx(50) and far(10.0) == pytest.approx(50)
    assert Scale([(1.0, 4.0)], 0, 100, by_factors=3)(2.0) == pytest.approx(50)
    assert Scale([(1.0, 100.0)], 0, 100, by_factors=None)(50.5) == pytest.approx(50)
    assert far.ticks()[0] < 1.1 and far.ticks()[-1] > 90
    assert Scale([(-0.0165, 0.0333)], 0, 100, by_factors=None).ticks() == pytest.approx([-0.01, 0.0, 0.01, 0.02, 0.03])
    assert Scale([(0.93, 0.99)], 0, 100).ticks() == pytest.approx([0.94, 0.96, 0.98])
    assert 0 < Scale([(2.0, 2.0)], 0, 100)(2.0) < 100, "one value alone"

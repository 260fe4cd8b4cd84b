"""Drawings read back: where points lie, and that every text can stand in markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from dl_pipelines.evaluation.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plane, drawing, label


def test_the_ends_of_a_plane_are_its_corners():
    plane = Plane((10, 20), (-1, 3))
    assert plane.place(10, -1) == (LEFT, HEIGHT - BOTTOM)
    assert plane.place(20, 3) == (WIDTH - RIGHT, TOP)
    assert plane.place(15, 1) == ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)


def test_a_plane_of_one_value_divides_by_nothing():
    assert Plane((5, 5), (2, 2)).place(5, 2) == (LEFT, HEIGHT - BOTTOM)


def test_a_missing_value_tears_a_line_and_a_lone_one_is_a_dot():
    drawn = Plane((0, 5), (0, 5)).line(range(6), [0, 1, None, 3, None, 5], "stroke-0")
    assert drawn.count("M") == 1 and drawn.count("L") == 1
    assert drawn.count('<circle class="series-0"') == 2
    assert Plane((0, 1), (0, 1)).line([0, 1], [None, None], "stroke-0") == ""


def test_a_band_goes_there_above_and_back_below():
    plane = Plane((0, 2), (0, 10))
    (path,) = re.findall(r'd="M([^"]*)Z"', plane.band([0, 1, 2], [1, 2, 3], [7, 8, 9], "band-0"))
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    wanted = [(0, 1), (1, 2), (2, 3), (2, 9), (1, 8), (0, 7)]
    assert points == [pytest.approx(plane.place(*point), abs=0.06) for point in wanted]
    torn = plane.band([0, 1, 2], [1, None, 3], [7, 8, 9], "band-0")
    assert torn.count("M") == 2


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", 'a"b', "a & b", "bell\x07", "new\nline"])
def test_whatever_a_name_holds_it_is_text(text):
    drawn = drawing([label(0, 0, text, "title")], 10, 10, text)
    element = ET.fromstring(drawn)
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    assert element.attrib["aria-label"] == shown
    assert [child.text for child in element] == [shown]

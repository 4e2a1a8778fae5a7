"""The chart of curves: numbers land where they belong, and all of them can be read."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.page.curves import (
    Curve,
    LogFrame,
    Point,
    Reference,
    curve_chart,
    log_ticks,
    svg_file,
)

CURVES = [
    Curve(
        name="shared <model>", points=[Point(x=0.5, y=0.7, low=0.65, high=0.75), Point(x=8, y=0.9)]
    ),
    Curve(name="alone", look="second", points=[Point(x=0.5, y=0.6)]),
]
LINES = [Reference(name="no privacy", value=0.92)]


def _chart(curves: list[Curve] = CURVES):
    return curve_chart(
        "t",
        curves=curves,
        references=LINES,
        x_label="epsilon",
        y_label="AUROC",
        description="how it goes",
    )


@given(st.tuples(st.floats(1e-3, 1e4), st.floats(1e-3, 1e4)).map(sorted))
def test_logarithmic_ticks_enclose_what_they_are_of_and_ascend(ends: list[float]) -> None:
    ticks = log_ticks(ends[0], ends[1])
    assert ticks[0] <= ends[0] * 1.00001
    assert ticks[-1] >= ends[1] * 0.99999
    assert all(a < b for a, b in itertools.pairwise(ticks))
    assert 2 <= len(ticks) <= 10


def test_equal_ratios_of_x_are_equally_far_apart() -> None:
    frame = LogFrame(x_ticks=(0.1, 100.0), y_ticks=(0.0, 1.0))
    places = [frame.x(x) for x in (0.1, 1.0, 10.0, 100.0)]
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)


def test_a_point_lands_where_its_numbers_belong() -> None:
    svg = str(_chart([CURVES[0]]).svg)
    dots = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    frame = LogFrame(x_ticks=(0.5, 1.0, 2.0, 5.0, 10.0), y_ticks=_y_ticks(svg))
    assert dots == [(frame.x(0.5), frame.y(0.7)), (frame.x(8), frame.y(0.9))]


def _y_ticks(svg: str) -> tuple[float, ...]:
    return tuple(float(t) for t in re.findall(r'class="tick end"[^>]*>([\d.]+)<', svg))


def test_every_number_that_is_drawn_stands_in_the_table() -> None:
    rows = _chart().table.rows
    assert rows == [
        ("shared <model>", "0.5", "0.700", "0.650", "0.750"),
        ("shared <model>", "8", "0.900", "–", "–"),
        ("alone", "0.5", "0.600", "–", "–"),
        ("no privacy", "–", "0.920", "–", "–"),
    ]


def test_the_chart_says_what_it_is_to_those_who_cannot_see_it_and_escapes_texts() -> None:
    root = ET.fromstring(str(_chart().svg))  # noqa: S314  # our own
    texts = [element.text for element in root]
    assert texts[:2] == ["t", "how it goes"]
    assert "<model>" not in str(_chart().svg)


def test_no_point_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a curve with a point"):
        _chart([])


def test_a_file_of_its_own_is_xml_with_both_schemes_and_asks_nothing_of_anybody() -> None:
    text = svg_file(_chart())
    assert text == svg_file(_chart())
    root = ET.fromstring(text)  # noqa: S314  # our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"<script|href=|url\(|https?://(?!www\.w3\.org/2000/svg)", text)

"""Charts and calibration: numbers land where they belong, and small groups are not told."""

import itertools
import re
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics.evaluation import statistics_of
from common.metrics.intervals import FEWEST
from common.metrics.noised import NOISE_VARIANCE, arcsine_edges
from common.metrics.statistics import EvaluationSums
from common.page.charts import Line, line_chart
from common.page.document import Table
from common.page.rows import Bar, Dot, bar_chart, dot_chart
from common.page.scales import Frame, ticks_between, whole_ticks
from server.report.html.calibration import calibration_bins
from tests.unit.builders import MULTICLASS, evaluation, study_of

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False)


@given(st.tuples(NUMBERS, NUMBERS).map(sorted))
def test_ticks_enclose_what_they_are_of_and_ascend(ends: list[float]) -> None:
    ticks = ticks_between(ends[0], ends[1])
    slack = 1e-5 * max(abs(ends[0]), abs(ends[1]), 1e-300)
    assert ticks[0] <= ends[0] + slack
    assert ticks[-1] >= ends[1] - slack
    assert 2 <= len(ticks) <= 8
    assert all(a < b for a, b in itertools.pairwise(ticks))


@given(st.tuples(st.integers(0, 5000), st.integers(0, 5000)).map(sorted))
def test_ticks_of_rounds_are_whole_and_enclose_them(ends: list[int]) -> None:
    ticks = whole_ticks(ends[0], ends[1])
    assert ticks[0] <= ends[0]
    assert ticks[-1] >= ends[1]
    assert all(tick == int(tick) for tick in ticks)


def _lines(svg: str) -> list[list[tuple[float, float]]]:
    paths = re.findall(r'class="line [a-z]+" d="(M[^"]+)"><title>', svg)
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", p)] for p in paths
    ]


def test_a_line_goes_through_its_numbers_and_has_a_gap_where_there_is_none() -> None:
    chart = line_chart(
        "t",
        x=[0, 1, 2, 3],
        lines=[Line(name="a", values=[0.0, 1.0, None, 0.5])],
        x_label="round",
        y_label="y",
        description="d",
    )
    frame = Frame(x_ticks=whole_ticks(0, 3), y_ticks=ticks_between(0, 1))
    expected = [(0, 0.0), (1, 1.0), (3, 0.5)]
    assert _lines(chart.svg) == [[(frame.x(x), frame.y(y)) for x, y in expected]]
    (path,) = re.findall(r'class="line main" d="(M[^"]+)"><title>', chart.svg)
    assert [path.count(step) for step in "ML"] == [2, 1]
    assert [row[1] for row in chart.table.rows] == ["0", "1", "–", "0.500"]


def test_a_long_run_is_drawn_by_some_of_its_rounds_and_always_the_last() -> None:
    lines = [Line(name="a", values=[float(n) for n in range(1001)])]
    chart = line_chart(
        "t", x=list(range(1001)), lines=lines, x_label="r", y_label="y", description="d"
    )
    assert len(chart.table.rows) <= 151
    assert chart.table.rows[-1] == ("1000", "1,000")


def test_dots_are_ordered_as_their_values_and_whiskers_stay_within_bounds() -> None:
    dots = [Dot(name="low", value=0.2, sd=0.3), Dot(name="high", value=0.9, sd=0.3)]
    chart = dot_chart("t", dots=dots, reference=0.5, bounds=(0.0, 1.0), label="x", description="d")
    low, high = (float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', chart.svg))
    (middle,) = re.findall(r'class="guide" d="M([\d.]+)', chart.svg)
    assert low < float(middle) < high
    # 0.2 - 1.96 · 0.3 < 0 and 0.9 + 1.96 · 0.3 > 1: both end at the ticks 0 and 1.
    ticks = [float(x) for x in re.findall(r'class="grid" d="M([\d.]+)', chart.svg)]
    ends = re.findall(r'class="whisker" d="M([\d.]+) [\d.]+H([\d.]+)', chart.svg)
    assert float(ends[0][0]) == ticks[0]
    assert float(ends[1][1]) == ticks[-1]


def test_a_bar_is_never_drawn_longer_than_its_track() -> None:
    bars = [Bar(name="a", part=0.5, text="1.5 of 3"), Bar(name="b", part=3.0, text="9 of 3")]
    table = Table(caption="t", head=("hospital", "spent"), rows=[("a", "1.5"), ("b", "9")])
    chart = bar_chart("t", bars=bars, description="d", table=table)
    track, half, _, full = (float(w) for w in re.findall(r'<rect[^>]* width="([\d.]+)"', chart.svg))
    assert half == pytest.approx(track / 2, abs=0.1)
    assert full == track
    assert chart.table == table


def test_texts_in_charts_are_escaped() -> None:
    dots = [Dot(name="<b>&", value=0.1), Dot(name="b", value=0.2)]
    chart = dot_chart(
        "<i>", dots=dots, reference=None, bounds=(0, 1), label="<u>", description="<s>"
    )
    assert not re.search("<[bius]>", chart.svg)
    assert "&lt;b&gt;&amp;" in chart.svg


def test_calibration_is_that_of_the_sums_and_tells_of_no_small_group() -> None:
    sums = evaluation(300, study_of(), seed=1)["event"]
    bins = calibration_bins(sums)
    assert sum(b.num_patients for b in bins) == 300
    assert all(b.num_patients >= FEWEST for b in bins)
    assert all(b.low <= b.predicted <= b.high for b in bins)
    assert all(b.interval[0] <= b.observed <= b.interval[1] for b in bins)
    observed = sum(b.observed * b.num_patients for b in bins)
    assert observed == pytest.approx(sums.sums["calibration_outcome_sum"].sum())


def test_neighbouring_bins_are_joined_until_they_hold_enough_by_hand() -> None:
    sums = study_sums(counts=[3, 8, 0, 20, 0, 0, 0, 0, 0, 4])
    bins = calibration_bins(sums)
    # 3 + 8 = 11 is enough; 0 + 20 is; the last 4 join them.
    assert [(b.low, b.num_patients) for b in bins] == [(0.0, 11.0), (pytest.approx(0.2), 24.0)]
    assert bins[-1].high == 1.0


def study_sums(counts: list[int]) -> EvaluationSums:
    """Sums with so many patients in each bin of calibration, a quarter with the event."""
    count_S = np.array(counts, dtype=float)
    middle_S = (np.arange(10) + 0.5) / 10
    return EvaluationSums(
        sums={
            "num_patients": count_S.sum(),
            "calibration_count": count_S,
            "calibration_score_sum": count_S * middle_S,
            "calibration_outcome_sum": count_S / 4,
        }
    )


@pytest.mark.parametrize("counts", [[5] * 1 + [0] * 9, [0] * 10, [12] + [0] * 9])
def test_too_few_patients_have_no_calibration_at_all(counts: list[int]) -> None:
    assert calibration_bins(study_sums(counts)) == []


def test_withheld_statistics_have_no_calibration() -> None:
    sums = evaluation(300, study_of(), seed=1)["event"].sums
    kept = {name: v for name, v in sums.items() if name != "calibration_score_sum"}
    assert calibration_bins(EvaluationSums(sums=kept)) == []


def test_noised_counts_are_joined_until_the_noise_is_small_and_widen_the_intervals() -> None:
    counts, edges = np.full(10, 100.0), np.concatenate([[0.0], arcsine_edges(10), [1.0]])

    def bins_at(sd: float) -> list[tuple[float, float, float]]:
        sums = EvaluationSums(
            sums={
                "num_patients": np.asarray(1000.0),
                NOISE_VARIANCE: np.asarray(sd**2),
                "positives_by_score": counts[None] * 0.3,
                "negatives_by_score": counts[None] * 0.7,
            }
        )
        return [
            (b.low, b.num_patients, b.interval[1] - b.interval[0]) for b in calibration_bins(sums)
        ]

    quiet, loud = bins_at(1.0), bins_at(30.0)
    assert [low for low, _, _ in quiet] == [pytest.approx(edge) for edge in edges[:-1]]
    # Each bin's noise is √2 · 30 = 42 of 100 patients; of k bins 42 √k of 100 k: three make ≤ 1/4.
    assert [count for _, count, _ in loud] == [300.0, 300.0, 400.0]
    assert loud[0][2] > 2 * quiet[0][2] / sqrt(3)
    assert bins_at(500.0) == []


def test_a_noised_release_of_several_classes_has_no_calibration() -> None:
    study = study_of(
        outcomes=MULTICLASS, privacy={"mode": "patient", "epsilon": 3.0, "delta": 1e-4}
    )
    zero = statistics_of(study)["event"].zero()
    assert calibration_bins(zero) == []

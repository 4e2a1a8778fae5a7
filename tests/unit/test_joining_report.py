"""What is written of joining: page, Markdown, CSV and JSON, from made-up numbers."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from common.errors import RunError
from common.study_file import with_patient_privacy
from simulations.joining.chart import Gain, gain_chart
from simulations.joining.compare import findings_of
from simulations.joining.findings import Findings
from simulations.joining.page import joining_html
from simulations.joining.report import put_into, to_csv, to_json, to_markdown, write_joining
from tests.round.mixed_hospitals import mixed_study
from tests.unit.joining_cases import ENOUGH, PEOPLE, all_pieces, everybody, measured, piece_of

STUDY = mixed_study("event")


@pytest.fixture(scope="module")
def findings() -> Findings:
    return findings_of(all_pieces(), STUDY)


def test_the_same_findings_give_the_same_bytes(findings: Findings, tmp_path: Path) -> None:
    again = findings_of(all_pieces(), STUDY)
    for folder, found in (("one", findings), ("other", again)):
        assert write_joining(found, tmp_path / folder) == tmp_path / folder / "report.md"
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"joining.html", "joining.csv", "joining.json", "report.md"}
    for name in names:
        one, other = (tmp_path / folder / name for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_every_hospital_has_a_sentence_first(findings: Findings) -> None:
    page = joining_html(findings)
    first_section = page.split("<section")[1]
    markdown = to_markdown(findings)
    for site in PEOPLE:
        assert f"<li>For {site}, " in first_section
        assert markdown.index(f"- For {site}, ") < markdown.index("## All hospitals together")


def test_the_page_asks_for_nothing_and_every_chart_has_words_and_numbers(
    findings: Findings,
) -> None:
    page = joining_html(findings)
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) >= 4
    for chart in charts:
        assert "<title" in chart
        assert "<desc" in chart
    assert page.count("Numbers of this chart") == len(charts)
    assert "better: north; worse: south; no difference shown: west" in page.replace(
        "Better", "better"
    )


def test_a_hospitals_name_cannot_become_an_element() -> None:
    name = "<b>x</b>"
    told = {"local only": {name: 0.7, "south": 0.7}, "federated": {name: 0.8, "south": 0.8}}
    pieces = {piece_of(0): measured(told, {name: ENOUGH, "south": ENOUGH})}
    page = joining_html(findings_of(pieces, STUDY))
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_without_leaving_anything_out_these_sections_are_absent() -> None:
    page = joining_html(findings_of({piece_of(0): everybody(0)}, STUDY))
    assert 'id="contributions"' not in page
    assert 'id="granularities"' not in page
    assert 'id="receiving"' not in page
    assert 'id="hospitals"' in page


def test_the_tidy_csv_has_every_seed_and_all_of_them(findings: Findings) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(findings))))
    north = [r for r in rows if (r["what"], r["scope"]) == ("joining", "north")]
    assert [r["seed"] for r in north] == ["0", "1", "2", "all"]
    assert [round(float(r["value"]), 6) for r in north] == [0.1, 0.1, 0.1, 0.1]
    assert (north[-1]["verdict"], north[-1]["num_compared"]) == ("better", "3")
    assert float(north[-1]["low"]) > 0
    isle = [r for r in rows if (r["what"], r["scope"]) == ("joining", "isle")][-1]
    assert (isle["verdict"], isle["low"], isle["p"]) == ("untold", "", "")
    assert isle["reason"] == PEOPLE["isle"].too_few
    levels = [r for r in rows if r["what"] == "level" and r["scope"] == "isle"]
    assert {r["arm"] for r in levels} == {
        "local only",
        "federated",
        "pooled",
        "the others' model",
    }


def test_the_json_is_json_and_says_the_same(findings: Findings) -> None:
    told = json.loads(json.dumps(to_json(findings), allow_nan=False))
    assert told["hospitals"]["north"]["sentence"].startswith("For north, joining raises")
    (north,) = [g for g in told["gains"] if (g["question"], g["scope"]) == ("joining", "north")]
    assert north["verdict"] == "better"
    assert north["stands_when_judged_together"] is True
    assert north["gain"]["by_seed"] == pytest.approx([0.1, 0.1, 0.1])


def test_tables_are_put_between_the_markers_of_a_page_and_nothing_else_changes(
    findings: Findings, tmp_path: Path
) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "Before.\n<!-- joining mixed -->\nstale lines\n<!-- end of joining -->\nAfter.\n"
    )
    put_into(path, findings)
    text = path.read_text()
    assert text.startswith("Before.\n<!-- joining mixed -->\n")
    assert text.endswith("<!-- end of joining -->\nAfter.\n")
    assert "stale lines" not in text
    assert "- For north, joining raises" in text
    put_into(path, findings)
    assert path.read_text() == text


def test_a_page_without_markers_is_refused(findings: Findings, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("<!-- joining mixed -->\n")
    with pytest.raises(RunError, match="found not both"):
        put_into(path, findings)
    with pytest.raises(RunError):
        put_into(tmp_path / "none.md", findings)


def test_privacy_is_said_to_hold_on_both_sides() -> None:
    private = with_patient_privacy(STUDY, epsilon=3, delta=1e-4)
    text = to_markdown(findings_of({piece_of(0): everybody(0)}, private))
    assert "Every patient is protected: epsilon 3, delta 0.0001, in every arm." in text
    assert "a hospital alone owes its own patients the same" in text


def test_the_line_of_no_difference_and_whole_intervals_are_always_in_the_picture() -> None:
    gains = [Gain(name="a hospital with a long name", value=0.5, low=0.3, high=0.9, texts=("a",))]
    chart = gain_chart("t", gains=gains, label="gain", description="d")
    zero, ends = (
        re.search(r'line third" d="M([\d.]+)', chart.svg),
        re.search(r'whisker" d="M([\d.]+) [\d.]+H([\d.]+)', chart.svg),
    )
    assert zero is not None
    assert ends is not None
    assert 132 <= float(zero[1]) < float(ends[1]) < float(ends[2]) <= 440
    assert "a hospital with a…" in chart.svg

"""What predictions rest on, in the results and in both reports."""

import copy
from typing import Any

import pytest

from common.metrics.attributions import ABSOLUTE, PATIENTS, is_attribution
from common.page.document import Charts, Paragraph, Section, Table
from common.study_file import with_patient_privacy
from server.journal import Event
from server.report.html.attributions import attributions, leading_features
from server.report.html.card import model_card
from server.report.html.facts import facts_of
from server.report.markdown import report_of
from server.report.results import results_of
from tests.unit.builders import study_of
from tests.unit.report_journals import GROUPED, plain_journal, private_journal

JOURNAL = plain_journal(GROUPED)


def results(journal: list[Event] = JOURNAL) -> dict[str, Any]:
    return results_of(copy.deepcopy(journal))


def section_of(journal: list[Event] = JOURNAL) -> Section:
    return attributions(results(journal), facts_of(journal))


def changed(journal: list[Event], change: Any) -> list[Event]:
    """The journal with the statistics of each evaluation passed through `change`, by site."""
    new = copy.deepcopy(journal)
    for event in new:
        if event["event"] == "reply" and event["kind"] == "evaluate":
            event["metrics"] = change(event["site"], event["metrics"])
    return new


def test_results_are_the_sums_of_hospitals_divided_by_their_patients() -> None:
    found = results()["attributions"]
    assert found["round"] == 2
    told = found["outcomes"]["event"]
    assert told["score"] == "log odds of 'yes'"
    first, second, *_ = told["granularities"]
    assert (first["granularity"], first["pooled"], first["sites"]) == ("labs", None, {})
    age = told["features"][0]
    assert (age["granularity"], age["feature"]) == ("labs", "age_years")
    # 1/2, 1/3 and 1/4 of .8 by hospital, of 200 patients each.
    sizes = [age["sites"][site]["mean_absolute"] for site in ("north", "south", "west")]
    assert sizes == pytest.approx([0.4, 0.8 / 3, 0.2])
    assert age["pooled"]["num_patients"] == 600
    assert age["pooled"]["mean_absolute"] == pytest.approx(sum(sizes) / 3)
    assert age["pooled"]["mean"] == pytest.approx(-sum(sizes) / 6)
    assert age["pooled"]["direction"] == pytest.approx(0.9)
    assert second["pooled"]["direction"] is None
    by_name = {entry["feature"]: entry for entry in told["features"]}
    assert by_name["sex"]["pooled"]["direction"] is None


def test_a_statistic_that_one_hospital_keeps_back_is_told_of_nobody_together() -> None:
    def keep_back(site: str, metrics: Any) -> Any:
        return {n: v for n, v in metrics.items() if site != "west" or not n.endswith(ABSOLUTE)}

    age = results(changed(JOURNAL, keep_back))["attributions"]["outcomes"]["event"]["features"][0]
    assert age["pooled"]["mean_absolute"] is None
    assert age["sites"]["north"]["mean_absolute"] == pytest.approx(0.4)
    assert age["sites"]["west"]["mean_absolute"] is None
    assert "age_years" not in leading_features(results(changed(JOURNAL, keep_back)))["event"]


def test_a_hospital_that_tells_nothing_of_a_column_counts_nowhere() -> None:
    def without_age(site: str, metrics: Any) -> Any:
        if site != "west":
            return metrics
        return {
            name: [0.0 if n == 1 and is_attribution(name) else v for n, v in enumerate(values)]
            for name, values in metrics.items()
        }

    age = results(changed(JOURNAL, without_age))["attributions"]["outcomes"]["event"]["features"][0]
    assert set(age["sites"]) == {"north", "south"}
    assert age["pooled"]["num_patients"] == 400
    assert age["pooled"]["mean_absolute"] == pytest.approx((0.4 + 0.8 / 3) / 2)
    charts = next(
        b for b in section_of(changed(JOURNAL, without_age)).blocks if isinstance(b, Charts)
    )
    assert "0.333 (2 of 3)" in str(charts.charts[1].svg)


def test_sums_that_no_patients_can_have_count_as_not_sent() -> None:
    def halved(site: str, metrics: Any) -> Any:
        spoilt = {n: [0.5] * len(v) for n, v in metrics.items() if n.endswith(f"event.{PATIENTS}")}
        return metrics | spoilt if site == "west" else metrics

    found = results(changed(JOURNAL, halved))["attributions"]["outcomes"]
    assert set(found["event"]["features"][0]["sites"]) == {"north", "south"}


def test_the_page_shows_what_is_told_the_largest_first() -> None:
    found = section_of()
    charts = [
        chart for block in found.blocks if isinstance(block, Charts) for chart in block.charts
    ]
    assert len(charts) == 2 * 3
    features = next(c.table for c in charts if c.title == "event: the features that move it most")
    names = [row[0] for row in features.rows]
    assert names[0] == "age_years"
    assert features.rows[0][1:4] == ["labs", "3", "600"]
    assert features.rows[0][-1] == "rises with higher values"
    assert [row[-1] for row in features.rows if row[0] == "sex"] == ["–"]
    # Of the granularity labs no hospital told.
    whole = next(c.table for c in charts if "granularities" in c.title)
    assert "labs" not in [row[0] for row in whole.rows]
    (by_hospital,) = [
        b for b in found.blocks if isinstance(b, Table) and b.caption.startswith("event: mean size")
    ]
    assert list(by_hospital.head) == ["", "lowest to highest", "north", "south", "west"]
    (ways,) = [
        b for b in found.blocks if isinstance(b, Table) and b.caption.startswith("event: which")
    ]
    assert ["age_years", "labs", "rises with higher values"] in list(ways.rows)
    row = next(row for row in by_hospital.rows if row[0] == "age_years")
    assert row[1:] == ["0.2 to 0.4", "0.4", "0.267", "0.2"]


def test_every_chart_says_in_words_what_it_shows() -> None:
    for block in section_of().blocks:
        for chart in block.charts if isinstance(block, Charts) else ():
            assert "The largest: " in str(chart.svg)
            assert chart.table.rows


def test_the_card_and_the_markdown_name_the_leading_features() -> None:
    found = results()
    (table,) = [b for b in model_card(found, facts_of(JOURNAL)).blocks if isinstance(b, Table)]
    rows = dict(table.rows)
    assert "event: most on age_years, glucose and sex" in rows["What predictions rest on"]
    text = report_of(found)
    assert "## What predictions of event rest on" in text
    assert "| labs | age_years | 3 | 0.289 | rises with higher values |" in text


def texts_of(section: Section) -> str:
    return " ".join(b.text for b in section.blocks if isinstance(b, Paragraph))


def test_what_a_study_does_not_ask_for_is_nowhere() -> None:
    journal = plain_journal()
    assert results(journal)["attributions"] is None
    assert section_of(journal).blocks == []
    assert "rest on" not in report_of(results(journal))
    (table,) = [
        b for b in model_card(results(journal), facts_of(journal)).blocks if isinstance(b, Table)
    ]
    assert "What predictions rest on" not in dict(table.rows)


def test_a_private_run_says_that_nothing_was_released() -> None:
    asked = study_of(evaluation={"attributions": True})
    journal = private_journal(with_patient_privacy(asked, epsilon=3, delta=1e-4))
    assert results(journal)["attributions"] == {"round": None, "outcomes": {}}
    found = section_of(journal)
    assert "nothing of it was released" in texts_of(found)
    assert len(found.blocks) == 1


def test_where_no_hospital_told_the_page_says_so() -> None:
    def none(site: str, metrics: Any) -> Any:
        return {n: v for n, v in metrics.items() if not is_attribution(n)}

    journal = changed(JOURNAL, none)
    assert "no hospital told of it" in texts_of(section_of(journal))
    assert leading_features(results(journal)) == {}

    def zeros(site: str, metrics: Any) -> Any:
        return {n: [0.0] * len(v) if is_attribution(n) else v for n, v in metrics.items()}

    journal = changed(JOURNAL, zeros)
    assert texts_of(section_of(journal)).count("no hospital told of any granularity") == 3
    assert "rest on" not in report_of(results(journal))

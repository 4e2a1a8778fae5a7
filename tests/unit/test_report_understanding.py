"""The report's parts on thresholds, survival, groups and planning: what they tell, and when not."""

import copy
import re
from itertools import pairwise

import pytest

from common.metrics.evaluation import to_flat
from common.metrics.recalibrating import Line
from common.metrics.thresholds import GRID
from common.page.document import Charts, Items, Paragraph, Section, Table
from common.study import Study
from server.journal import Event
from server.report.html.card import model_card
from server.report.html.demand import demand
from server.report.html.facts import facts_of
from server.report.html.subgroups import has_groups, subgroups
from server.report.html.survival_curves import survival_curves
from server.report.html.thresholds import recalibration_text, thresholds
from server.report.results import results_of
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, evaluation, study_of
from tests.unit.report_journals import (
    GROUPED,
    PLAIN,
    PRIVATE,
    SUBGROUPS,
    enrolled,
    event_of,
    plain_journal,
    private_journal,
    reply_of,
    start_of,
)

PRIVATE_SURVIVAL = study_of(
    outcomes={"death": MORE_OUTCOMES["death"]}, privacy=PRIVATE.privacy.model_dump(mode="json")
)


def section(make, journal: list[Event]) -> Section:
    return make(results_of(journal), facts_of(journal))


def tables(found: Section) -> dict[str, Table]:
    return {block.caption: block for block in found.blocks if isinstance(block, Table)}


def text_of(found: Section) -> str:
    texts = [block.text for block in found.blocks if isinstance(block, Paragraph)]
    texts += [text for block in found.blocks if isinstance(block, Items) for text in block.items]
    return " ".join(texts)


def journal_of(study: Study, **sizes: int) -> list[Event]:
    """An evaluation of so many patients at each site."""
    journal = [start_of(study)]
    for site in sizes:
        journal += enrolled(site)
    for seed, (site, size) in enumerate(sizes.items()):
        sums = to_flat(evaluation(size, study, seed=seed))
        journal.append(reply_of("evaluate", 2, site, sums))
    return [*journal, event_of("run_finished", round=2)]


# Thresholds.


def test_thresholds_are_told_of_all_patients_and_by_hospital() -> None:
    found = section(thresholds, plain_journal())
    whole = tables(found)["event: held-out patients of all hospitals, by threshold, in %"]
    assert [float(row[0]) / 100 for row in whole.rows] == list(GRID)
    assert all(re.fullmatch(r"\d+ \(\d+ to \d+\)", row[2]) for row in whole.rows)
    by_hospital = tables(found)["event: held-out patients by hospital and threshold, in %"]
    assert {row[0] for row in by_hospital.rows} == {"north", "south", "west"}
    assert [row[1] for row in by_hospital.rows[:3]] == ["10", "20", "50"]
    (chart,) = [block.charts[0] for block in found.blocks if isinstance(block, Charts)]
    assert len(chart.table.rows) == len(whole.rows)


def test_no_threshold_is_chosen_and_the_report_says_so() -> None:
    # Another model, and other patients: the grid is the same.
    one, other = (
        [row[0] for row in next(iter(tables(section(thresholds, j)).values())).rows]
        for j in (plain_journal(), journal_of(PLAIN, north=700, south=500))
    )
    assert one == other
    assert "None was chosen on these patients" in text_of(section(thresholds, plain_journal()))


def test_noised_thresholds_say_that_they_are_and_have_wider_intervals() -> None:
    found = section(thresholds, private_journal())
    (whole,) = [t for caption, t in tables(found).items() if "all hospitals" in caption]
    assert "Counts carry noise for privacy; the intervals hold it." in whole.note
    assert 3 <= len(whole.rows) <= 9


def test_outcomes_without_two_classes_have_no_thresholds_and_no_planning() -> None:
    journal = plain_journal(study_of(outcomes=MULTICLASS))
    assert section(thresholds, journal).blocks == []
    assert section(demand, journal).blocks == []


@pytest.mark.parametrize(
    ("slope", "interval", "said"),
    [
        (0.5, (0.3, 0.7), "too extreme"),
        (2.0, (1.5, 2.5), "too cautious"),
        (1.0, (0.8, 1.2), "as it should be"),
        (0.1, (-0.2, 0.4), "cannot be told from ones that know nothing"),
        (-0.4, (-0.6, -0.2), "cannot be told from ones that know nothing"),
    ],
)
def test_the_slope_is_told_in_words(slope: float, interval: tuple[float, float], said: str) -> None:
    line = Line(
        slope=slope,
        slope_interval=interval,
        shift=0.5,
        shift_interval=(0.2, 0.8),
        expected=10.0,
        observed=12.0,
    )
    text = recalibration_text(line)
    assert said in text
    assert "too low on average" in text
    assert ("A temperature of" in text) is (said in ("too extreme", "too cautious"))
    assert "takes other patients" in text


# Survival.


def test_observed_and_predicted_survival_stand_side_by_side() -> None:
    found = section(survival_curves, plain_journal())
    whole = tables(found)["death: without the event at the study's times, all hospitals"]
    assert [row[0] for row in whole.rows] == ["30", "90", "365"]
    # Random curves that fall by a quarter at each time; of times, 30 of 438 days are few.
    observed, predicted = float(whole.rows[0][2]), float(whole.rows[0][4])
    assert observed > 0.9
    assert predicted == pytest.approx(0.75, abs=0.02)
    assert whole.rows[0][5] == "too gloomy"
    assert "death: without the event at 90 days, by hospital" in tables(found)
    (chart,) = [block.charts[0] for block in found.blocks if isinstance(block, Charts)]
    assert chart.table.rows[0] == ("0", "1", "1", "1", "1")


@pytest.mark.parametrize(("num_patients", "num_times"), [(9, 0), (12, 0), (60, 1), (400, 3)])
def test_no_time_is_told_at_which_few_are_at_risk_or_until_which_few_have_left(
    num_patients: int, num_times: int
) -> None:
    found = section(survival_curves, journal_of(PLAIN, north=num_patients))
    whole = tables(found).get("death: without the event at the study's times, all hospitals")
    assert (0 if whole is None else len(whole.rows)) == num_times
    for table in tables(found).values():
        left = [num_patients, *(int(row[1].replace(",", "")) for row in table.rows)]
        assert min(left) >= 10
        # A number is shown without its half of a patient who was censored.
        assert all(one - other >= 9.5 for one, other in pairwise(left))
    assert bool(found.blocks) is bool(num_times)


def test_of_an_order_alone_only_what_was_observed_is_told() -> None:
    cox = {"death": {**MORE_OUTCOMES["death"], "loss": "cox"}}
    found = section(survival_curves, plain_journal(study_of(outcomes=cox)))
    assert "there is no predicted curve to compare" in text_of(found)
    (whole,) = tables(found).values()
    assert "predicted" not in whole.head


def test_a_curve_that_a_policy_withholds_is_missing_and_nothing_else() -> None:
    journal = copy.deepcopy(plain_journal())
    for event in journal:
        event.get("metrics", {}).pop("death.survival_sum", None)
    (whole,) = tables(section(survival_curves, journal)).values()
    assert "predicted" not in whole.head
    assert len(whole.rows) == 3


def test_a_private_run_says_that_curves_are_not_released() -> None:
    found = section(survival_curves, private_journal(PRIVATE_SURVIVAL))
    assert tables(found) == {}
    assert "not released where patients are protected" in text_of(found)


# Planning.


def test_planning_says_what_it_is_and_what_it_is_not() -> None:
    found = section(demand, plain_journal())
    text = text_of(found)
    assert "It says nothing of any one patient" in text
    assert "not a forecast of how many patients will come" in text
    (table,) = tables(found).values()
    assert table.head[-2:] == ("of the next 100", "of the next 1,000")
    for row in table.rows:
        expected, low, high = map(float, re.findall(r"[\d.]+", row[2]))
        assert low < expected < high
        mean, low, high = map(int, re.findall(r"\d+", row[5]))
        assert 0 <= low < mean < high <= 100


def test_a_hospital_with_few_cases_is_forecast_but_its_number_is_not_told() -> None:
    found = section(demand, journal_of(PLAIN, north=200, south=12, west=150))
    (table,) = tables(found).values()
    rows = {row[0]: row for row in table.rows}
    # What south has would follow from all and the others, so another one is not told with it.
    assert rows["south"][3] == "not told"
    assert [rows["north"][3], rows["west"][3]].count("not told") == 1
    assert all(re.search(r"\d+ \(\d+ to \d+\)", row[5]) for row in rows.values())


def test_no_forecast_is_made_of_a_private_run() -> None:
    found = section(demand, private_journal())
    assert tables(found) == {}
    assert "No forecast is made of a private run" in text_of(found)


# Groups.


def test_groups_have_a_table_and_a_chart_beside_hospitals() -> None:
    journal = plain_journal(GROUPED)
    found = section(subgroups, journal)
    table = tables(found)["event: held-out patients by group"]
    assert [row[0] for row in table.rows] == [
        "sex: female",
        "sex: male",
        "age_years: below 45 years",
        "age_years: 45 to < 65 years",
        "age_years: from 65 years on",
    ]
    assert [row[2] for row in table.rows[:2]] == ["300", "300"]
    assert table.total[2] == "600"
    charts = [block.charts[0] for block in found.blocks if isinstance(block, Charts)]
    assert len(charts) == 3
    names = [row[0] for row in charts[0].table.rows]
    assert names[:4] == ["north", "south", "west", "female"]
    assert charts[0].table.head[-1] == "± sd"
    assert has_groups(results_of(journal))


def test_groups_are_those_of_the_results() -> None:
    results = results_of(plain_journal(GROUPED))
    female, *_ = results["subgroups"]["groups"]
    assert female["sites"].keys() == {"north", "south", "west"}
    assert female["pooled"]["event"]["num_patients"] == 300
    assert results["subgroups"]["round"] == 2


def test_malformed_groups_of_a_site_count_as_not_sent() -> None:
    journal = copy.deepcopy(plain_journal(GROUPED))
    for event in journal:
        if event["event"] == "reply" and event["kind"] == "evaluate" and event["site"] == "west":
            event["metrics"]["sex:0.event.num_patients"] = [7.0]
    female, *_ = results_of(journal)["subgroups"]["groups"]
    assert female["sites"].keys() == {"north", "south"}
    assert (
        tables(section(subgroups, journal))["event: held-out patients by group"].rows[0][1] == "2"
    )


def test_a_study_without_groups_has_no_part_on_them_and_says_what_is_not_known() -> None:
    assert section(subgroups, plain_journal()).blocks == []
    assert results_of(plain_journal())["subgroups"] is None
    assert not has_groups(results_of(plain_journal()))


def test_a_run_without_a_told_group_and_a_private_one_say_so() -> None:
    journal = copy.deepcopy(plain_journal(GROUPED))
    for event in journal:
        event["metrics"] = {n: v for n, v in event.get("metrics", {}).items() if ":" not in n}
    assert "no hospital told of any" in text_of(section(subgroups, journal))
    private = study_of(
        privacy=PRIVATE.privacy.model_dump(mode="json"), evaluation={"subgroups": SUBGROUPS}
    )
    found = section(subgroups, private_journal(private))
    assert "nothing of groups was released" in text_of(found)
    assert tables(found) == {}


def test_the_model_card_names_only_groups_that_were_told_of() -> None:
    journal = copy.deepcopy(plain_journal(GROUPED))
    assert "those by sex and age_years are known" in text_of(section(model_card, journal))
    for event in journal:
        metrics = event.get("metrics", {})
        event["metrics"] = {n: v for n, v in metrics.items() if not n.startswith(("age", "sex:1"))}
    assert "1 of 5 by sex are known, and no others" in text_of(section(model_card, journal))


def test_a_last_round_without_statistics_leaves_those_before_in_their_places() -> None:
    journal = copy.deepcopy(plain_journal(GROUPED))
    later = [reply_of("evaluate", 3, site, {}) for site in ("north", "south", "west")]
    found = section(subgroups, [*journal[:-1], *later, journal[-1]])
    assert len(tables(found)) == 3

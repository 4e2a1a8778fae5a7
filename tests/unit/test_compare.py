"""Runs side by side: what differs in their settings, what they reached, and when not to compare."""

import json
import re
from pathlib import Path

import pytest

from common.errors import RunError
from common.study import Study
from server.cli_report import compare as compare_command
from server.journal import Event
from server.report.compare import compare
from server.report.html.comparison import comparison_html
from server.report.results import results_of
from tests.unit.builders import study_of
from tests.unit.report_journals import (
    PLAIN,
    plain_journal,
    private_journal,
    start_of,
)

FAST = study_of(
    study={"title": "Fever & falls"}, training={"learning_rate": 0.5}, strategy={"name": "fedadam"}
)


def settings_of(*journals: list[Event]) -> dict[str, tuple[str, ...]]:
    comparison = compare({str(n): journal for n, journal in enumerate(journals)})
    return {row.name: row.cells for row in comparison.settings}


def begun(study: Study) -> list[Event]:
    return [start_of(study)]


def test_settings_that_differ_are_named_and_no_others() -> None:
    settings = settings_of(begun(study_of()), begun(FAST))
    assert settings == {
        "study.title": ("A small study", "Fever & falls"),
        "training.learning_rate": ("0.05", "0.5"),
        "strategy.name": ("fedavg", "fedadam"),
    }


def test_equal_runs_have_no_differing_settings() -> None:
    assert settings_of(plain_journal(), plain_journal()) == {}


def test_a_part_that_one_run_lacks_is_one_line() -> None:
    settings = settings_of(plain_journal(study_of()), plain_journal(PLAIN))
    assert settings["outcomes.death"] == ("–", "set")
    assert not [name for name in settings if name.startswith("outcomes.death.")]


def test_the_order_of_features_is_a_difference() -> None:
    table = study_of().model_dump(mode="json")
    table["granularities"] = dict(reversed(table["granularities"].items()))
    settings = settings_of(begun(study_of()), begun(Study.model_validate(table)))
    assert list(settings) == ["granularities, order"]


def test_other_code_and_other_hospitals_are_told() -> None:
    other = [e | {"code": "d1ff"} if e["event"] == "run_started" else e for e in plain_journal()]
    other = [e for e in other if e.get("site") != "west"]
    comparison = compare({"one": plain_journal(), "other": other})
    names = {row.name: row.cells for row in comparison.settings}
    assert names["code"] == ("c0de", "d1ff")
    assert names["hospitals"] == ('["north", "south", "west"]', '["north", "south"]')
    assert any("Not the same hospitals" in warning for warning in comparison.warnings)


def test_metrics_are_pooled_and_over_hospitals() -> None:
    comparison = compare({"one": plain_journal(), "other": plain_journal(study_of())})
    pooled, over, *_ = comparison.outcomes["event"]
    last = results_of(plain_journal())["rounds"][-1]
    assert pooled.name == "AUROC, all pooled"
    assert pooled.cells[0] == f"{last['pooled']['event']['auroc']:.3f}"
    values = [metrics["event"]["auroc"] for metrics in last["sites"].values()]
    assert over.cells[0].startswith(f"{sum(values) / 3:.3f} ± ")
    assert over.cells[0].endswith(f"({min(values):.3f} to {max(values):.3f}, 3 hospitals)")
    # What one of the runs does not predict has no number there.
    assert comparison.outcomes["death"][0].cells[1] == "–"


def test_an_outcome_of_another_kind_under_the_same_name_is_not_compared() -> None:
    quantity = {"kind": "regression", "column": "event", "unit": "g", "range": [0, 1]}
    other = study_of(outcomes={"event": quantity})
    rows = compare({"one": plain_journal(study_of()), "other": plain_journal(other)}).outcomes
    assert rows["event"][0].name == "AUROC, all pooled"
    assert rows["event"][0].cells[1] == "–"


def test_noise_cost_and_unfinished_runs_are_warned_of() -> None:
    unfinished = [e for e in plain_journal() if e["event"] != "run_finished"]
    told = " ".join(compare({"a": private_journal(), "b": unfinished}).warnings)
    assert "b is unfinished" in told
    assert "Most epsilon spent: a 2.700." in told
    assert "a difference smaller than between two seeds is chance" in told


def test_the_page_has_a_chart_of_the_runs_that_have_the_metric_and_explains_it() -> None:
    comparison = compare({"a": private_journal(), "b": plain_journal(), "c": begun(PLAIN)})
    values = comparison.headlines["event"].values
    assert list(values) == ["a", "b"]
    assert values["a"][1] is not None
    assert values["b"][1] is None
    page = comparison_html(comparison)
    assert "AUROC of event, all patients pooled, run by run" in page
    # Of stay and death, one run alone has a number: there is nothing to draw.
    assert page.count("<svg") == 1
    assert "0.5 is guessing, 1 is always right" in page
    assert "± beside it is the noise" in page


@pytest.mark.parametrize("journals", [{}, {"one": [start_of(PLAIN)]}])
def test_fewer_than_two_runs_are_refused(journals: dict[str, list[Event]]) -> None:
    with pytest.raises(RunError, match="Expected at least 2 different runs to compare"):
        compare(journals)


def test_the_page_is_the_same_each_time_and_escapes_names() -> None:
    journals = {"<script>": plain_journal(), "b": private_journal()}
    page = comparison_html(compare(journals))
    assert page == comparison_html(compare(journals))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<table") == page.count("<caption")


def _written(folder: Path, journal: list[Event]) -> Path:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(event) + "\n" for event in journal)
    (folder / "journal.jsonl").write_text(text)
    return folder


def test_the_command_shows_tables_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        _written(tmp_path / "a" / "run", plain_journal()),
        _written(tmp_path / "b" / "run", plain_journal(FAST)),
    ]
    compare_command(runs, out=tmp_path / "page.html")
    shown = capsys.readouterr().out
    assert "AUROC, all pooled" in shown
    assert "training.learning_rate" in shown
    page = (tmp_path / "page.html").read_text()
    # Both folders are called run: their paths tell them apart.
    assert all(str(run.resolve()) in page for run in runs)


def test_brackets_in_a_journal_are_no_markup_in_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = study_of(study={"title": "[red]x[/nothing]"})
    runs = [_written(tmp_path / "a", begun(hostile)), _written(tmp_path / "b", begun(PLAIN))]
    compare_command(runs, out=None)
    assert "[red]x[/nothing]" in re.sub(r"[\s│]", "", capsys.readouterr().out)

"""The report: every part of the results is told, and what is not known is told as such."""

from typing import Any

import pytest

from server.report.markdown import report_of
from tests.unit.markdown_cases import METRICS, results_by_hand


def test_the_heading_says_what_was_run() -> None:
    report = report_of(results_by_hand())
    assert report.startswith("# small: run abc\n")
    assert "Finished; fedadam over 2 sites, 1 rounds, seed 7." in report
    assert "Study `0123456789abcdef`, Wardround 0.1.0 (code `c0de`), engine in-process." in report
    assert "Resumed" not in report


def test_a_resumed_run_says_where() -> None:
    report = report_of(results_by_hand() | {"resumed_at_rounds": [1, 4]})
    assert "seed 7. Resumed at round 1, 4." in report


def test_the_last_round_has_a_row_for_every_site_and_one_for_all() -> None:
    lines = report_of(results_by_hand()).splitlines()
    assert "## After round 1: event, held-out patients" in lines
    assert "| north | 30 | 0.750 | 0.700 | 0.812 | – | 0.050 |" in lines
    assert "| south | not sent | – | – | – | – | – |" in lines
    assert "| **1 of 2 hospitals, pooled** | 30 | 0.750 | 0.700 | 0.812 | – | 0.050 |" in lines
    assert "Pooled AUROC from histograms, exact to ±0.0012." in lines


def test_the_training_patients_are_told_by_site_and_granularity() -> None:
    results = results_by_hand()
    results["sites"] = {
        "north": {"training_patients": {"patients": 90, "labs": 90, "lifestyle": 0}},
        "south": {"training_patients": {"patients": 60, "labs": 40, "lifestyle": 60}},
    }
    lines = report_of(results).splitlines()
    assert "| site | patients | labs | lifestyle |" in lines
    assert "| north | 90 | 90 | 0 |" in lines
    assert "| south | 60 | 40 | 60 |" in lines


def test_a_long_run_is_told_by_some_of_its_rounds_and_always_the_last() -> None:
    results = results_by_hand()
    results["rounds"] = [results["rounds"][0] | {"round": r} for r in range(101)]
    lines = report_of(results).split("## Round by round")[1].splitlines()
    told = [
        int(cells[1])
        for line in lines
        if (cells := line.split("|"))[1:2] and cells[1].strip().isdigit()
    ]
    # 101 rounds, every 6th (⌈101 / 20⌉), and the last one.
    assert told == [*range(0, 100, 6), 100]


def _with_more_outcomes() -> dict[str, Any]:
    """The same with a length of stay, which south sends, and a survival, which nobody sends."""
    results = results_by_hand()
    results["outcomes"] |= {"stay": "regression", "death": "survival"}
    results["units"] |= {"stay": "days", "death": "months"}
    stay = {"num_patients": 12.0, "mae": 2.5, "rmse": 12345.6, "r2": 0.25, "loss": 0.1}
    death = dict.fromkeys(("num_events", "c_index", "loss", "c_index_error_bound"))
    for entry in results["rounds"]:
        entry["pooled"] |= {"stay": stay, "death": death | {"num_patients": 0.0}}
        entry["sites"]["south"] = {"stay": stay}
    return results


def test_every_outcome_has_a_table_with_the_metrics_of_its_kind() -> None:
    report = report_of(_with_more_outcomes())
    event, stay, death = (
        report.split(f"## After round 1: {name}, held-out patients")[1].split("##")[0].splitlines()
        for name in ("event", "stay", "death")
    )
    assert "| south | not sent | – | – | – | – | – |" in event
    assert "| site | held out | MAE (days) | RMSE (days) | R² |" in stay
    assert "| north | not sent | – | – | – |" in stay
    assert "| south | 12 | 2.500 | 12,346 | 0.250 |" in stay
    assert "| site | held out | C-index | events | loss |" in death
    assert "| **all, pooled** | not sent | – | – | – |" in death


def test_the_bound_of_a_binned_c_index_is_told() -> None:
    results = _with_more_outcomes()
    results["rounds"][-1]["pooled"]["death"] |= {"num_patients": 9.0, "c_index_error_bound": 0.02}
    assert "Pooled C-index from histograms, exact to ±0.0200." in report_of(results)


def test_the_course_is_that_of_the_first_outcome() -> None:
    assert "## Round by round: event, pooled" in report_of(_with_more_outcomes()).splitlines()


def test_the_hospitals_own_models_have_tables_of_their_own() -> None:
    assert "own model" not in report_of(results_by_hand())
    results = results_by_hand()
    own = {"event": METRICS | {"auroc": 0.875}}
    results["rounds"][-1]["personal"] = {"pooled": own, "sites": {"north": own, "south": None}}
    lines = report_of(results).splitlines()
    assert "## event, each hospital's own model, held-out patients" in lines
    assert "| north | 30 | 0.875 | 0.700 | 0.812 | – | 0.050 |" in lines
    assert "| **1 of 2 hospitals, pooled** | 30 | 0.875 | 0.700 | 0.812 | – | 0.050 |" in lines


def test_a_site_that_was_absent_in_the_last_round_has_a_row() -> None:
    results = results_by_hand()
    del results["rounds"][-1]["sites"]["south"]
    assert "| south | not sent |" in report_of(results)


@pytest.mark.parametrize("more", [False, True], ids=["one outcome", "several"])
def test_tables_have_as_many_cells_in_every_row(more: bool) -> None:
    table: list[int] = []
    results = _with_more_outcomes() if more else results_by_hand()
    for line in [*report_of(results).splitlines(), ""]:
        if line.startswith("|"):
            table.append(line.count("|"))
        else:
            assert len(set(table)) <= 1
            table = []


def test_an_undefined_auroc_has_no_bound() -> None:
    results = results_by_hand()
    results["rounds"][-1]["pooled"]["event"] |= {"auroc": None, "auroc_error_bound": None}
    assert "exact to" not in report_of(results)


def test_the_oracle_is_told_where_there_is_one() -> None:
    assert "Oracle" not in report_of(results_by_hand())
    results = results_by_hand()
    results["rounds"][-1]["oracle"] = {"event": {"accuracy": 0.8, "auroc": 0.7512}}
    line = next(line for line in report_of(results).splitlines() if line.startswith("Oracle"))
    assert "AUROC 0.751, AUPRC –, accuracy 0.800, F1 –" in line


def test_the_course_of_the_rounds_counts_sites_that_sent_statistics() -> None:
    lines = report_of(results_by_hand()).splitlines()
    assert "| round | sites | loss | AUROC | AUPRC | accuracy |" in lines
    assert "| 0 | 1 | 0.500 | 0.750 | 0.700 | 0.812 |" in lines
    assert "| 1 | 1 | 0.500 | 0.750 | 0.700 | 0.812 |" in lines


def test_one_round_has_no_course() -> None:
    results = results_by_hand()
    results["rounds"] = results["rounds"][:1]
    assert "Round by round" not in report_of(results)


def test_a_run_without_rounds_says_so() -> None:
    report = report_of(results_by_hand() | {"rounds": []})
    assert "No round is complete yet." in report
    assert "Round by round" not in report


def test_absences_are_told_once_for_each_site_and_reason() -> None:
    absent = [
        {"round": 3, "site": "south", "reason": "late"},
        {"round": 1, "site": "south", "reason": "late"},
        {"round": 1, "site": "south", "reason": "late"},
        {"round": 2, "site": "south", "reason": "error"},
    ]
    lines = report_of(results_by_hand() | {"absent": absent}).splitlines()
    assert "| south | late | 1, 3 |" in lines
    assert "| south | error | 2 |" in lines
    assert "No site was absent." not in lines


def test_nobody_absent_is_told() -> None:
    assert "No site was absent." in report_of(results_by_hand())


def test_the_cost_is_in_seconds_and_bytes() -> None:
    report = report_of(results_by_hand())
    assert "4.00 s in rounds: 3.00 s training and 1.25 s evaluation at the sites" in report
    assert "Sent 1,234,567 bytes to the sites and 4,200 back." in report
    assert report.endswith("back.\n")


@pytest.mark.parametrize("status", ["finished", "failed", "unfinished"])
def test_every_status_is_told(status: str) -> None:
    assert f"{status.capitalize()}; fedadam" in report_of(results_by_hand() | {"status": status})


def test_averaged_rounds_are_told_and_none_is_not() -> None:
    assert "mean of those after" not in report_of(results_by_hand())
    told = report_of(results_by_hand() | {"averaged_rounds": 5})
    assert "The last model is the mean of those after the last 5 rounds." in told


def test_a_loss_that_nobody_has_is_no_column() -> None:
    results = _with_more_outcomes()
    cox = {"num_patients": 9.0, "num_events": 4.0, "c_index": 0.625, "loss": None}
    for entry in results["rounds"]:
        entry["pooled"]["death"] = cox
        entry["sites"]["south"]["death"] = cox
    results["outcomes"] = {"death": "survival"} | results["outcomes"]
    lines = report_of(results).splitlines()
    assert "| site | held out | C-index | events |" in lines
    assert "| south | 9 | 0.625 | 4 |" in lines
    assert "| round | sites | C-index | events |" in lines
    assert "| 1 | 2 | 0.625 | 4 |" in lines


def test_loss_is_one_column_of_the_course() -> None:
    results = _with_more_outcomes()
    likely = {"num_patients": 9.0, "num_events": 4.0, "c_index": 0.625, "loss": 0.5}
    for entry in results["rounds"]:
        entry["pooled"]["death"] = likely
    results["outcomes"] = {"death": "survival"} | results["outcomes"]
    assert "| round | sites | loss | C-index | events |" in report_of(results).splitlines()

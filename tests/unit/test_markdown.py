"""The report: every part of the results is told, and what is not known is told as such."""

import copy
from typing import Any

import pytest

from server.report.markdown import noised_number_of, report_of
from server.report.privacy import cost_of

METRICS = {
    "num_patients": 30.0,
    "accuracy": 0.8125,
    "auroc": 0.75,
    "auprc": 0.7,
    "f1": None,
    "loss": 0.5,
    "brier": 0.2,
    "calibration_error": 0.05,
    "auroc_error_bound": 0.0012,
}


def _results() -> dict[str, Any]:
    entry = {
        "pooled": {"event": METRICS},
        "sites": {"north": {"event": METRICS}, "south": None},
        "personal": None,
        "oracle": None,
    }
    return copy.deepcopy(
        {
            "schema": 3,
            "run_id": "abc",
            "status": "finished",
            "study": "small",
            "study_hash": "0123456789abcdef" * 4,
            "seed": 7,
            "strategy": "fedadam",
            "outcomes": {"event": "binary"},
            "units": {},
            "engine": "in-process",
            "release": "0.1.0",
            "code": "c0de",
            "started_at": "2026-03-01T12:00:00+00:00",
            "ended_at": "2026-03-01T12:05:00+00:00",
            "num_rounds": 1,
            "resumed_at_rounds": [],
            "transferred": [],
            "sites": {
                "north": {"training_patients": {"patients": 90}},
                "south": {"training_patients": {"patients": 60}},
            },
            "privacy": {"mode": "none"},
            "rounds": [
                {"round": 0, "aggregated_from": [], **entry},
                {"round": 1, "aggregated_from": ["north", "south"], **entry},
            ],
            "absent": [],
            "bytes": {"down": 1234567, "up": 4200},
            "seconds": {
                "rounds": 4.0,
                "aggregation": 1.0,
                "checkpoints": 0.25,
                "site_training": 3.0,
                "site_evaluation": 1.25,
            },
        }
    )


def test_the_heading_says_what_was_run() -> None:
    report = report_of(_results())
    assert report.startswith("# small: run abc\n")
    assert "Finished; fedadam over 2 sites, 1 rounds, seed 7." in report
    assert "Study `0123456789abcdef`, Wardround 0.1.0 (code `c0de`), engine in-process." in report
    assert "Resumed" not in report


def test_a_resumed_run_says_where() -> None:
    report = report_of(_results() | {"resumed_at_rounds": [1, 4]})
    assert "seed 7. Resumed at round 1, 4." in report


def test_the_last_round_has_a_row_for_every_site_and_one_for_all() -> None:
    lines = report_of(_results()).splitlines()
    assert "## After round 1: event, held-out patients" in lines
    assert "| north | 30 | 0.750 | 0.700 | 0.812 | – | 0.050 |" in lines
    assert "| south | not sent | – | – | – | – | – |" in lines
    assert "| **all, pooled** | 30 | 0.750 | 0.700 | 0.812 | – | 0.050 |" in lines
    assert "Pooled AUROC from histograms, exact to ±0.0012." in lines


def test_the_training_patients_are_told_by_site_and_granularity() -> None:
    results = _results()
    results["sites"] = {
        "north": {"training_patients": {"patients": 90, "labs": 90, "lifestyle": 0}},
        "south": {"training_patients": {"patients": 60, "labs": 40, "lifestyle": 60}},
    }
    lines = report_of(results).splitlines()
    assert "| site | patients | labs | lifestyle |" in lines
    assert "| north | 90 | 90 | 0 |" in lines
    assert "| south | 60 | 40 | 60 |" in lines


def test_a_long_run_is_told_by_some_of_its_rounds_and_always_the_last() -> None:
    results = _results()
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
    results = _results()
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
    assert "own model" not in report_of(_results())
    results = _results()
    own = {"event": METRICS | {"auroc": 0.875}}
    results["rounds"][-1]["personal"] = {"pooled": own, "sites": {"north": own, "south": None}}
    lines = report_of(results).splitlines()
    assert "## event, each hospital's own model, held-out patients" in lines
    assert "| north | 30 | 0.875 | 0.700 | 0.812 | – | 0.050 |" in lines
    assert "| **all, pooled** | 30 | 0.875 | 0.700 | 0.812 | – | 0.050 |" in lines


def test_a_site_that_was_absent_in_the_last_round_has_a_row() -> None:
    results = _results()
    del results["rounds"][-1]["sites"]["south"]
    assert "| south | not sent |" in report_of(results)


@pytest.mark.parametrize("more", [False, True], ids=["one outcome", "several"])
def test_tables_have_as_many_cells_in_every_row(more: bool) -> None:
    table: list[int] = []
    results = _with_more_outcomes() if more else _results()
    for line in [*report_of(results).splitlines(), ""]:
        if line.startswith("|"):
            table.append(line.count("|"))
        else:
            assert len(set(table)) <= 1
            table = []


def test_an_undefined_auroc_has_no_bound() -> None:
    results = _results()
    results["rounds"][-1]["pooled"]["event"] |= {"auroc": None, "auroc_error_bound": None}
    assert "exact to" not in report_of(results)


def test_the_oracle_is_told_where_there_is_one() -> None:
    assert "Oracle" not in report_of(_results())
    results = _results()
    results["rounds"][-1]["oracle"] = {"event": {"accuracy": 0.8, "auroc": 0.7512}}
    line = next(line for line in report_of(results).splitlines() if line.startswith("Oracle"))
    assert "AUROC 0.751, AUPRC –, accuracy 0.800, F1 –" in line


def test_the_course_of_the_rounds_counts_sites_that_sent_statistics() -> None:
    lines = report_of(_results()).splitlines()
    assert "| round | sites | loss | AUROC | AUPRC | accuracy |" in lines
    assert "| 0 | 1 | 0.500 | 0.750 | 0.700 | 0.812 |" in lines
    assert "| 1 | 1 | 0.500 | 0.750 | 0.700 | 0.812 |" in lines


def test_one_round_has_no_course() -> None:
    results = _results()
    results["rounds"] = results["rounds"][:1]
    assert "Round by round" not in report_of(results)


def test_a_run_without_rounds_says_so() -> None:
    report = report_of(_results() | {"rounds": []})
    assert "No site has answered a round yet." in report
    assert "Round by round" not in report


def test_absences_are_told_once_for_each_site_and_reason() -> None:
    absent = [
        {"round": 3, "site": "south", "reason": "late"},
        {"round": 1, "site": "south", "reason": "late"},
        {"round": 1, "site": "south", "reason": "late"},
        {"round": 2, "site": "south", "reason": "error"},
    ]
    lines = report_of(_results() | {"absent": absent}).splitlines()
    assert "| south | late | 1, 3 |" in lines
    assert "| south | error | 2 |" in lines
    assert "No site was absent." not in lines


def test_nobody_absent_is_told() -> None:
    assert "No site was absent." in report_of(_results())


def test_the_cost_is_in_seconds_and_bytes() -> None:
    report = report_of(_results())
    assert "4.00 s in rounds: 3.00 s training and 1.25 s evaluation at the sites" in report
    assert "Sent 1,234,567 bytes to the sites and 4,200 back." in report
    assert report.endswith("back.\n")


@pytest.mark.parametrize("status", ["finished", "failed", "unfinished"])
def test_every_status_is_told(status: str) -> None:
    assert f"{status.capitalize()}; fedadam" in report_of(_results() | {"status": status})


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


def test_a_run_without_privacy_says_so() -> None:
    section = report_of(_results()).split("## Privacy")[1].split("##")[0]
    assert "None (mode `none`)" in section
    assert "no mathematical bound" in section


def _private(*, is_evaluated: bool = True, has_oracle: bool = False) -> dict[str, Any]:
    """A private run of two sites and one round; south has no vitals and has told no cost."""
    results = _results()
    nothing = dict.fromkeys(METRICS) | {"num_patients": 0.0, "auroc_noise_sd": None}
    noised = METRICS | {
        "num_patients": 31.6,
        "loss": None,
        "brier": None,
        "auroc_error_bound": None,
        "num_patients_noise_sd": 6.2,
        "auroc_noise_sd": 0.0312,
    }
    exact = {"event": METRICS | {"auroc": 0.7777}} if has_oracle else None
    before = {
        "pooled": {"event": nothing},
        "sites": {"north": None, "south": None},
        "personal": None,
        "oracle": exact,
    }
    after = before | {"pooled": {"event": noised}, "sites": {"north": {"event": noised}}}
    rounds = [before | {"round": 0, "aggregated_from": []}]
    rounds.append(before | {"round": 1, "aggregated_from": ["north", "south"]})
    if is_evaluated:
        rounds[-1] = after | {"round": 1, "aggregated_from": ["north", "south"]}
    return results | {
        "sites": {
            "north": {"training_patients": None, "offers": ["labs", "vitals", "event"]},
            "south": {"training_patients": None, "offers": ["labs", "event"]},
        },
        "privacy": {
            "mode": "patient",
            "adjacency": "add or remove one patient",
            "unit": "patient",
            "epsilon": 3.0,
            "delta": 1e-4,
            "moments": True,
            "sites": {
                "north": {"epsilon": 2.70001, "delta": 1e-4},
                "south": {"epsilon": None, "delta": None},
            },
        },
        "rounds": rounds,
    }


def test_noised_metrics_are_told_with_their_noise() -> None:
    lines = report_of(_private()).splitlines()
    assert "| site | held out | AUROC | AUPRC | accuracy | calibration error |" in lines
    assert "| north | 31.600 ± 6.200 | 0.750 ± 0.031 | 0.700 | 0.812 | 0.050 |" not in lines
    assert "| north | 32 ± 6 | 0.750 ± 0.031 | 0.700 | 0.812 | 0.050 |" in lines
    assert any(line.startswith("Each number carries noise for privacy; ±") for line in lines)


def test_a_private_run_that_is_not_evaluated_yet_has_no_table_of_dashes() -> None:
    report = report_of(_private(is_evaluated=False))
    assert "A private run is evaluated once, after its last round" in report
    assert "| site | held out |" not in report
    assert "Round by round" not in report
    assert "one evaluation on held-out patients" not in report


def test_the_course_of_a_private_run_is_the_oracles() -> None:
    assert "Round by round" not in report_of(_private())
    report = report_of(_private(has_oracle=True))
    lines = report.splitlines()
    title = "## Round by round: event, oracle (from pooled predictions, in simulation only)"
    assert title in lines
    assert "| 0 | 2 | 0.500 | 0.778 | 0.700 | 0.812 |" in lines
    assert "exact and outside of this promise" in report


def test_what_each_hospital_has_is_told_without_numbers() -> None:
    lines = report_of(_private()).splitlines()
    assert "## What each hospital has" in lines
    assert "| site | labs | vitals | event |" in lines
    assert "| south | yes | – | yes |" in lines
    assert "Training patients" not in "\n".join(lines)


def test_a_privacy_officer_reads_what_is_promised_released_and_not_protected() -> None:
    section = report_of(_private()).split("## Privacy")[1].split("\n## ")[0]
    assert "at most epsilon 3, at delta 0.0001" in section
    assert "The unit is the patient" in section
    assert "*add or remove one patient*" in section
    # Rounded up: 2.70001 is more than 2.700.
    assert "| north | 2.701 | 0.0001 |" in section
    assert "| south | – | – |" in section
    assert "one noised update" in section
    assert "noised moments" in section
    assert "one evaluation on held-out patients" in section
    assert "**Not protected**: which hospitals took part" in section
    assert "oracle" not in section


def test_before_the_first_round_nothing_is_released() -> None:
    results = _private()
    results["privacy"] |= {"moments": False}
    assert "**Released**: nothing yet." in report_of(results | {"rounds": []})


def test_a_run_with_fixed_noise_and_public_ranges_promises_and_releases_less() -> None:
    results = _private()
    results["privacy"] |= {"epsilon": None, "moments": False}
    section = report_of(results).split("## Privacy")[1]
    assert "the noise that the study fixes, at delta 0.0001" in section
    assert "moments" not in section


def test_counts_below_the_noise_are_told_as_lost() -> None:
    results = _private()
    lost = dict.fromkeys(METRICS) | {"num_patients": 0.0, "num_patients_noise_sd": None}
    results["rounds"][-1]["sites"]["north"] = {"event": lost}
    assert "| north | lost in the noise | – |" in report_of(results)
    assert "| south | not sent | – |" in report_of(results)


def test_a_metric_that_is_not_known_has_no_noise_beside_it() -> None:
    metrics = {"auroc": None, "auroc_noise_sd": 0.378, "f1": 0.5, "f1_noise_sd": None}
    assert noised_number_of("auroc", metrics) == "–"
    assert noised_number_of("f1", metrics) == "0.500"


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(0.9974156, "0.998"), (0.1, "0.100"), (5.0, "5.000"), (0.0001231, "0.000124"), (None, "–")],
)
def test_a_cost_is_rounded_up(epsilon: float | None, text: str) -> None:
    assert cost_of(epsilon) == text


@pytest.mark.parametrize(
    ("epsilon", "told"),
    [(None, "no round has been aggregated yet"), (1.2341, "epsilon 1.235 at delta 0.001")],
)
def test_hidden_sites_are_told_apart_from_protected_patients(
    epsilon: float | None, told: str
) -> None:
    privacy = {
        "mode": "site",
        "adjacency": "add or remove one site",
        "unit": "site",
        "epsilon": epsilon,
        "delta": 1e-3,
        "noise_multiplier": epsilon and 4.0,
    }
    section = report_of(_results() | {"privacy": privacy}).split("## Privacy")[1]
    assert told in section
    assert "no patient is protected from the coordinator" in section
    assert "*add or remove one site*" in section


@pytest.mark.parametrize("is_evaluated", [False, True])
def test_tables_of_a_private_run_have_as_many_cells_in_every_row(is_evaluated: bool) -> None:
    table: list[int] = []
    report = report_of(_private(is_evaluated=is_evaluated, has_oracle=True))
    for line in [*report.splitlines(), ""]:
        if line.startswith("|"):
            table.append(line.count("|"))
        else:
            assert len(set(table)) <= 1
            table = []


def test_how_long_a_private_site_worked_is_not_told() -> None:
    report = report_of(_private())
    assert "4.00 s in rounds: not told how long at the sites, 1.00 s aggregation" in report

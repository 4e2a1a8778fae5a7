"""The report of a private run: noise beside each number, and what is promised and what is not."""

from typing import Any

import pytest

from server.report.columns import noised_number_of
from server.report.markdown import report_of
from server.report.privacy import cost_of
from tests.unit.markdown_cases import METRICS, results_by_hand


def test_a_run_without_privacy_says_so() -> None:
    section = report_of(results_by_hand()).split("## Privacy")[1].split("##")[0]
    assert "None (mode `none`)" in section
    assert "no mathematical bound" in section


def _private(*, is_evaluated: bool = True, has_oracle: bool = False) -> dict[str, Any]:
    """A private run of two sites and one round; south has no vitals and has told no cost."""
    results = results_by_hand()
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
    section = report_of(results_by_hand() | {"privacy": privacy}).split("## Privacy")[1]
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

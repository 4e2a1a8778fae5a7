"""Results of private runs: what they cost, one evaluation, and no number of patients."""

import json

from client.private_statistics import private_evaluation
from common.metrics.evaluation import from_flat, statistics_of
from common.privacy.mechanisms import NoiseSource
from server.journal import Event
from server.report.markdown import report_of
from server.report.results import results_of
from tests.unit.builders import MORE_OUTCOMES, outcomes_of, predictions_of, study_of
from tests.unit.result_journals import COUNTS, aggregated, enrolled, event_of, start_of

PRIVATE = study_of(
    privacy={"mode": "patient", "epsilon": 3.0, "delta": 1e-4, "evaluation_bins": 8},
    outcomes=MORE_OUTCOMES,
)
WEIGHTS = {"patients": 1, "labs": 1, "vitals": 1, "lifestyle": 0, "event": 1, "stay": 1, "death": 0}


def _noised(seed: int) -> dict[str, list[float]]:
    flat = private_evaluation(
        predictions_of(PRIVATE, 80, seed),
        outcomes_of(PRIVATE, 80, seed),
        PRIVATE,
        1.5,
        NoiseSource.seeded(seed),
    )
    return {name: list(values) for name, values in flat.items()}


def _private_reply(
    round_number: int, site: str, *, kind: str = "train", epsilon: float | None = None
) -> Event:
    return event_of(
        "reply",
        round=round_number,
        kind=kind,
        site=site,
        counts=WEIGHTS if kind == "train" else {},
        metrics=_noised(len(site)) if kind == "evaluate" else {},
        bytes_up=100,
        receipt={"epsilon": epsilon, "delta": epsilon and 1e-4, "seq": 3, "head": "ab"},
    )


def journal_of_a_private_run() -> list[Event]:
    """Two sites, two rounds, one evaluation, and the oracle of a simulation."""
    journal = [start_of(study=PRIVATE)]
    for site in ("north", "west"):
        journal.append(_private_reply(0, site) | {"kind": "query"})
        journal.append(event_of("enrolled", site=site, counts=WEIGHTS))
    for number in (0, 1):
        journal += [_private_reply(number, site) for site in ("north", "west")]
        journal += aggregated(number + 1, "north", "west")
        journal.append(event_of("oracle", round=number, metrics={"event.auroc": 0.6 + number / 10}))
    journal.append(_private_reply(2, "north", kind="evaluate", epsilon=2.71))
    journal.append(_private_reply(2, "west", kind="evaluate"))
    return [*journal, event_of("run_finished", 5, round=2)]


def test_a_private_run_tells_what_it_cost_each_site_and_no_number_of_patients() -> None:
    results = results_of(journal_of_a_private_run())
    assert results["privacy"] == {
        "mode": "patient",
        "adjacency": "add or remove one patient",
        "unit": "patient",
        "epsilon": 3.0,
        "delta": 1e-4,
        "moments": True,
        "sites": {
            "north": {"epsilon": 2.71, "delta": 1e-4},
            "west": {"epsilon": None, "delta": None},
        },
    }
    offers = ["labs", "vitals", "event", "stay"]
    expected = {"training_patients": None, "offers": offers}
    assert results["sites"] == {"north": expected, "west": expected}


def test_the_newest_cost_that_a_site_has_told_counts() -> None:
    journal = journal_of_a_private_run()
    journal.append(_private_reply(2, "north", kind="evaluate", epsilon=2.9))
    journal.append(_private_reply(2, "north", kind="evaluate"))
    costs = results_of(journal)["privacy"]["sites"]
    assert costs["north"] == {"epsilon": 2.9, "delta": 1e-4}


def test_a_private_run_is_evaluated_after_its_last_round_alone() -> None:
    *before, last = results_of(journal_of_a_private_run())["rounds"]
    for entry in before:
        assert entry["sites"] == {"north": None, "west": None}
        assert entry["pooled"]["event"]["auroc"] is None
        assert entry["oracle"]["event"]["auroc"] is not None
    statistics = statistics_of(PRIVATE)
    both = [from_flat(PRIVATE, _noised(len(site))) for site in ("north", "west")]
    for name, one in statistics.items():
        assert last["pooled"][name] == one.metrics_of(both[0][name] + both[1][name])
        assert last["sites"]["north"][name] == one.metrics_of(both[0][name])
    assert last["pooled"]["event"]["auroc_noise_sd"] > 0


def test_a_private_run_without_receipts_has_no_cost() -> None:
    journal = [{k: v for k, v in e.items() if k != "receipt"} for e in journal_of_a_private_run()]
    assert results_of(journal)["privacy"]["sites"]["north"] == {"epsilon": None, "delta": None}


def test_the_results_of_a_private_run_survive_json_and_have_a_report() -> None:
    results = results_of(journal_of_a_private_run())
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert "## Privacy" in report_of(results)


def test_the_cost_of_hiding_sites_is_that_after_the_last_round() -> None:
    study = study_of(privacy={"mode": "site", "noise_multiplier": 1.0, "delta": 1e-3})
    spent = [
        event_of(
            "site_privacy",
            round=number,
            epsilon=float(number),
            delta=1e-3,
            noise_multiplier=1.0,
            clipped=[],
        )
        for number in (1, 2)
    ]
    journal = [start_of(study=study), *enrolled("north")]
    expected = {
        "mode": "site",
        "adjacency": "add or remove one site",
        "unit": "site",
        "epsilon": None,
        "delta": 1e-3,
        "noise_multiplier": None,
    }
    assert results_of(journal)["privacy"] == expected
    assert results_of(journal)["sites"]["north"] == {"training_patients": COUNTS}
    after = expected | {"epsilon": 2.0, "noise_multiplier": 1.0}
    assert results_of([*journal, *spent])["privacy"] == after

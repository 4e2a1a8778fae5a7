"""Live progress: what the person at the terminal reads, from the journal's events alone."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console

from common.metrics.evaluation import statistics_of, to_flat
from server.progress import Progress, results_tables
from tests.unit.builders import evaluation, study_of

SMALL = study_of(evaluation={"score_bins": 10})
STUDY = SMALL.model_dump(mode="json")

NONE = {"mode": "none"}
NONCES = {f"s{i:02d}": "n" for i in range(20)} | {"ada": "n"}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def progress(console: Console) -> Iterator[Progress]:
    with Progress(console) as shown:
        shown.listen({"event": "run_started", "study": STUDY, "num_rounds": 2, "round": 0})
        shown.listen({"event": "enrolled", "site": "ada", "counts": {"patients": 60}})
        shown.listen({"event": "asked", "round": 1, "kind": "train", "nonces": {"ada": "n"}})
        yield shown


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_round_is_one_line_where_there_is_no_terminal(
    console: Console, progress: Progress
) -> None:
    scores_BC = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    labels = {"known_B": np.ones(4, dtype=np.bool_), "label_B": np.array([0, 0, 0, 1])}
    metrics = to_flat({"event": statistics_of(SMALL)["event"].sums_of(scores_BC, labels)})
    progress.listen({"event": "reply", "kind": "train", "site": "ada", "metrics": metrics})
    progress.listen({"event": "aggregated", "round": 2})
    # The one patient of class 1 has the highest score, in a bin of its own.
    assert "round 1/2: 1 sites, AUROC 1.000, AUPRC 1.000, loss" in text_of(console)


def test_an_absent_site_is_shown_with_its_reason(console: Console, progress: Progress) -> None:
    progress.listen({"event": "absent", "round": 1, "site": "ada", "reason": "late"})
    assert "round 1: ada absent (did not answer in time)" in text_of(console)


def test_a_site_that_sends_no_statistics_is_not_an_error(
    console: Console, progress: Progress
) -> None:
    progress.listen({"event": "reply", "kind": "train", "site": "ada", "metrics": {}})
    progress.listen({"event": "aggregated", "round": 2})
    assert "1 sites, AUROC –" in text_of(console)


def test_a_terminal_shows_each_site_and_its_state() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Progress(console) as progress:
        progress.listen({"event": "run_started", "study": STUDY, "num_rounds": 2, "round": 0})
        for i in range(20):
            event = {"event": "enrolled", "site": f"s{i:02d}", "counts": {"patients": 60 + i}}
            progress.listen(event)
        progress.listen({"event": "asked", "round": 0, "kind": "train", "nonces": NONCES})
        table = progress.table()
    shown = Console(file=io.StringIO(), width=100)
    shown.print(table)
    assert "training …" in text_of(shown)
    assert "… and 4 more" in text_of(shown)


def test_a_statistic_that_one_site_withholds_is_not_summed_over_the_others(
    console: Console, progress: Progress
) -> None:
    metrics = to_flat(evaluation(20, SMALL))
    kept = {name: values for name, values in metrics.items() if not name.endswith("by_score")}
    progress.listen({"event": "enrolled", "site": "bea", "counts": {"patients": 60}})
    progress.listen({"event": "reply", "kind": "train", "site": "ada", "metrics": metrics})
    progress.listen({"event": "reply", "kind": "train", "site": "bea", "metrics": kept})
    progress.listen({"event": "aggregated", "round": 2})
    total = statistics_of(SMALL)["event"].metrics_of(evaluation(20, SMALL)["event"])
    expected = f"2 sites, AUROC –, AUPRC –, loss {total['loss']:.3f}"
    assert expected in text_of(console)


def test_the_results_table_names_every_hospital_and_all_of_them_together() -> None:
    metrics = {
        "num_patients": 12.0,
        "accuracy": 0.75,
        "auroc": None,
        "auprc": 0.5,
        "f1": 0.6,
        "calibration_error": 0.1,
    }
    by_outcome = {"event": metrics}
    last = {"round": 3, "sites": {"ada": by_outcome, "bea": None}, "pooled": by_outcome}
    sites = {"ada": {}, "bea": {}}
    outcomes = {"event": "binary"}
    results = {"rounds": [last], "outcomes": outcomes, "privacy": NONE, "sites": sites}
    console = Console(file=io.StringIO(), width=100)
    (table,) = results_tables(results)
    console.print(table)
    shown = text_of(console)
    for expected in (
        "after round 3",
        "ada",
        "bea",
        "not sent",
        "1 of 2 hospitals, pooled",
        "0.750",
        "–",
    ):
        assert expected in shown


def test_there_is_a_results_table_for_every_outcome_and_none_without_rounds() -> None:
    stay = {"num_patients": 12.0, "mae": 2.5, "rmse": 1234.5, "r2": None}
    event = dict.fromkeys(("auroc", "auprc", "accuracy", "f1", "calibration_error"))
    pooled = {"event": event | {"num_patients": 0.0}, "stay": stay}
    last = {"round": 3, "sites": {"ada": {"stay": stay}}, "pooled": pooled}
    outcomes = {"event": "binary", "stay": "regression"}
    results = {"rounds": [last], "outcomes": outcomes, "privacy": NONE, "sites": {"ada": {}}}
    console = Console(file=io.StringIO(), width=100)
    for table in results_tables(results):
        console.print(table)
    event_part, stay_part = text_of(console).split("stay: held-out patients")
    assert "event: held-out patients" in event_part
    assert "not sent" in event_part
    for expected in ("MAE", "RMSE", "R²", "2.500", "1,234"):
        assert expected in stay_part
    assert list(results_tables(results | {"rounds": []})) == []


def test_the_tables_of_a_private_run_show_the_noise_and_what_the_run_has_cost() -> None:
    metrics = {
        "num_patients": 22.1,
        "num_patients_noise_sd": 13.3,
        "auroc": 0.0,
        "auroc_noise_sd": 0.368,
        "auprc": None,
        "auprc_noise_sd": 0.1,
        "accuracy": 0.5,
        "accuracy_noise_sd": 0.25,
        "f1": 0.7,
        "f1_noise_sd": 0.1,
        "calibration_error": None,
    }
    by_outcome = {"event": metrics}
    last = {"round": 3, "sites": {"ada": by_outcome}, "pooled": by_outcome}
    privacy = {
        "mode": "patient",
        "adjacency": "add or remove one patient",
        "epsilon": 1.0,
        "delta": 1e-4,
        "sites": {
            "ada": {"epsilon": 0.9974156, "delta": 1e-4},
            "bea": {"epsilon": None, "delta": None},
        },
    }
    results = {
        "rounds": [last],
        "outcomes": {"event": "binary"},
        "privacy": privacy,
        "sites": {"ada": {}},
    }
    console = Console(file=io.StringIO(), width=80)
    for table in results_tables(results):
        console.print(table)
    shown = text_of(console)
    for expected in ("22 ± 13", "0.000 ± 0.368", "0.500 ± 0.250", "0.998", "0.0001", "not told"):
        assert expected in shown
    # What nobody has is left out; a title is one line.
    assert "calibration" not in shown
    assert "privacy (add or remove one patient): what this run has cost" in shown


def test_a_private_run_shows_no_loss_and_no_number_before_its_evaluation(console: Console) -> None:
    private = {"mode": "patient", "epsilon": 3.0, "delta": 1e-4}
    study = study_of(privacy=private).model_dump(mode="json")
    with Progress(console) as progress:
        progress.listen({"event": "run_started", "study": study, "num_rounds": 1, "round": 0})
        progress.listen({"event": "enrolled", "site": "ada", "counts": {}})
        progress.listen({"event": "asked", "round": 0, "kind": "train", "nonces": NONCES})
        progress.listen({"event": "reply", "kind": "train", "site": "ada", "metrics": {}})
        progress.listen({"event": "aggregated", "round": 1})
    assert text_of(console).splitlines() == ["round 0/1: 1 sites"]


def test_what_was_spent_and_the_time_left_are_told_as_they_are_known(console: Console) -> None:
    study = study_of(privacy={"mode": "site", "epsilon": 3.0, "delta": 1e-3}).model_dump(
        mode="json"
    )
    with Progress(console) as progress:
        progress.listen({"event": "run_started", "study": study, "num_rounds": 3, "round": 0})
        progress.listen({"event": "enrolled", "site": "ada", "counts": {"patients": 60}})
        progress.listen({"event": "asked", "round": 0, "kind": "train", "nonces": NONCES})
        progress.listen({"event": "site_privacy", "round": 1, "epsilon": 1.2341})
        progress.listen({"event": "aggregated", "round": 1})
        progress.listen({"event": "round_finished", "round": 1, "seconds": 30.0})
        console.print(progress.table())
    assert "round 0/3: 0 sites, AUROC –, AUPRC –, loss –, epsilon 1.235 spent" in text_of(console)
    # Two rounds more of 30 s.
    assert "about 1 min left" in " ".join(text_of(console).split())


def test_what_hospitals_say_that_they_spent_is_told_once_they_do(console: Console) -> None:
    private = {"mode": "patient", "epsilon": 3.0, "delta": 1e-4}
    study = study_of(privacy=private).model_dump(mode="json")
    reply = {"event": "reply", "kind": "evaluate", "metrics": {}}
    with Progress(console) as progress:
        progress.listen({"event": "run_started", "study": study, "num_rounds": 1, "round": 0})
        for site in ("ada", "bea"):
            progress.listen({"event": "enrolled", "site": site, "counts": {}})
        progress.listen({"event": "asked", "round": 1, "kind": "evaluate", "nonces": NONCES})
        progress.listen({**reply, "site": "ada", "receipt": {"epsilon": 2.5}})
        progress.listen({**reply, "site": "bea", "receipt": {"epsilon": 2.25}})
        progress.listen({"event": "run_finished", "round": 1})
    assert "round 1/1: 2 sites, epsilon 2.500 spent" in text_of(console)


def test_a_run_that_goes_on_says_where(console: Console) -> None:
    with Progress(console) as progress:
        progress.listen({"event": "run_resumed", "study": STUDY, "num_rounds": 5, "round": 3})
    assert text_of(console) == "Going on at round 3.\n"

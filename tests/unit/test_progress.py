"""Live progress: what the person at the terminal reads, from the journal's events alone."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console

from common.metrics import sums_of
from simulations.progress import Progress, results_table

STUDY = {"outcome": {"classes": ["no", "yes"]}, "evaluation": {"score_bins": 10}}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def progress(console: Console) -> Iterator[Progress]:
    with Progress(console) as shown:
        shown.listen({"event": "run_started", "study": STUDY, "num_rounds": 2})
        shown.listen({"event": "enrolled", "site": "ada", "counts": {"patients": 60}})
        shown.listen({"event": "asked", "round": 1, "kind": "train"})
        yield shown


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_round_is_one_line_where_there_is_no_terminal(
    console: Console, progress: Progress
) -> None:
    # Three of four patients have a probability of their own class above .5: accuracy .75.
    scores_BC = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    metrics = sums_of(scores_BC, np.array([0, 0, 0, 1]), score_bins=10).to_flat()
    progress.listen({"event": "reply", "site": "ada", "metrics": metrics})
    progress.listen({"event": "aggregated", "round": 2})
    assert "round 1/2: 1 sites, accuracy 0.750" in text_of(console)


def test_an_absent_site_is_shown_with_its_reason(console: Console, progress: Progress) -> None:
    progress.listen({"event": "absent", "round": 1, "site": "ada", "reason": "late"})
    assert "round 1: ada absent (late)" in text_of(console)


def test_a_site_that_sends_no_statistics_is_not_an_error(
    console: Console, progress: Progress
) -> None:
    progress.listen({"event": "reply", "site": "ada", "metrics": {}})
    progress.listen({"event": "aggregated", "round": 2})
    assert "1 sites, accuracy –" in text_of(console)


def test_a_terminal_shows_each_site_and_its_state() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Progress(console) as progress:
        progress.listen({"event": "run_started", "study": STUDY, "num_rounds": 2})
        for i in range(20):
            event = {"event": "enrolled", "site": f"s{i:02d}", "counts": {"patients": 60 + i}}
            progress.listen(event)
        progress.listen({"event": "asked", "round": 0, "kind": "train"})
        table = progress.table()
    shown = Console(file=io.StringIO(), width=100)
    shown.print(table)
    assert "training …" in text_of(shown)
    assert "… and 4 more" in text_of(shown)


def test_the_results_table_names_every_hospital_and_all_of_them_together() -> None:
    metrics = {
        "num_patients": 12.0,
        "accuracy": 0.75,
        "auroc": None,
        "auprc": 0.5,
        "f1": 0.6,
        "calibration_error": 0.1,
    }
    results = {"rounds": [{"round": 3, "sites": {"ada": metrics, "bea": None}, "pooled": metrics}]}
    console = Console(file=io.StringIO(), width=100)
    console.print(results_table(results))
    shown = text_of(console)
    for expected in ("after round 3", "ada", "bea", "not sent", "all, pooled", "0.750", "–"):
        assert expected in shown

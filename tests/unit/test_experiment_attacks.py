"""What attacks on the points of an experiment reached, in its page and its CSV."""

import csv
import io
from dataclasses import replace

import pytest

from common.page.document import html_of
from simulations.attacks.membership import LIRA, LOSS_THRESHOLD
from simulations.attacks.reconstruction import TABLES
from simulations.experiments.experiment import Experiment
from simulations.experiments.page import experiment_page
from simulations.experiments.rows import to_csv
from simulations.page_markdown import markdown_of
from tests.unit.experiment_cases import ONE, failed_run, point_of, run_of, small_experiment

_ENDS = {"": 0.0, "_low": -0.01, "_high": 0.01}


@pytest.fixture
def experiment() -> Experiment:
    return small_experiment()


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _members(auc: float, *, succeeded: bool) -> dict[str, object]:
    around = {"auc": auc, "tpr_at_0.01": 0.02, "tpr_at_0.001": 0.0}
    measures = {f"{n}{end}": v + d for n, v in around.items() for end, d in _ENDS.items()}
    return {
        "attack": LIRA,
        "target": "half of the patients",
        "measures": measures,
        "succeeded": succeeded,
        "limits": "What LiRA cannot show.",
        "failed": "",
    }


def _update(target: str, *, succeeded: bool) -> dict[str, object]:
    measures = {"recovered of 1": float(succeeded), "sd of recovered of 1": 0.0, "seeds": 3.0}
    told = {"target": target, "measures": measures, "succeeded": succeeded, "failed": ""}
    return {"attack": TABLES, "limits": "What this cannot show.", **told}


@pytest.fixture
def attacked(experiment: Experiment) -> Experiment:
    """One point whose patients are hidden, one of which an attack failed, and the reference."""
    hidden = (
        _members(0.51, succeeded=False),
        _members(0.5, succeeded=False) | {"attack": LOSS_THRESHOLD},
        _update("epsilon 1", succeeded=False),
        _update("no privacy", succeeded=True),
    )
    told = (
        _members(0.8, succeeded=True),
        _members(0.7, succeeded=True) | {"attack": LOSS_THRESHOLD},
        _update("no privacy", succeeded=True),
    )
    failed = ({"attack": "membership", "failed": "study"},)
    one, four = experiment.points
    return replace(
        experiment,
        sweep=replace(experiment.sweep, attacks="all"),
        points=[replace(one, attacks=hidden), replace(four, attacks=failed)],
        reference=replace(experiment.reference, attacks=told),
    )


def test_what_attacks_reach_stands_beside_the_utility_of_each_point(attacked: Experiment) -> None:
    text = markdown_of(experiment_page(attacked))
    rows = {}
    for line in text.splitlines():
        rows.setdefault(line.split(" | ")[0].strip("| "), line)
    assert "| audit: at least | LiRA, AUC | recovered |" in text
    assert rows["epsilon 1"].endswith("| – | 0.510 | nothing |")
    assert rows["no privacy, federated"].endswith("| – | 0.800 | tables |")
    (alone,) = [line for line in text.splitlines() if line.startswith("| no privacy, each alone")]
    assert alone.endswith("| – | – | – |")
    members = "| epsilon 1 | 0.510 (0.500 to 0.520) | 0.500 (0.490 to 0.510) | 0.020 (0.010 to"
    assert members in text
    assert "recovered of 1: 0.00 ± 0.00 | nothing recovered |" in text
    assert "Attacks that failed themselves: epsilon 4: membership: study." in text
    assert "What LiRA cannot show." in text


def test_membership_is_also_drawn_over_epsilon_with_its_numbers_in_words(
    attacked: Experiment,
) -> None:
    page = html_of(experiment_page(attacked))
    assert "How well LiRA tells training patients from others, whiskers of 95 %" in page
    assert "Epsilon 1: 0.510." in page


def test_each_figure_of_an_attack_has_a_line_in_the_csv(attacked: Experiment) -> None:
    rows = [r for r in _rows(to_csv(attacked)) if r["arm"].startswith("attack: ")]
    (auc,) = [r for r in rows if (r["point"], r["metric"]) == ("epsilon 1", "auc")][:1]
    assert (auc["arm"], auc["value"], auc["seed"]) == (f"attack: {LIRA}", "0.51", "")
    (failed,) = [r for r in rows if r["point"] == "epsilon 4"]
    assert (failed["value"], failed["failed"]) == ("", "study")
    assert {r["scope"] for r in rows if r["arm"].endswith(TABLES)} == {"epsilon 1", "no privacy"}


def test_without_attacks_on_patients_the_page_has_no_place_for_them(
    experiment: Experiment,
) -> None:
    text = markdown_of(experiment_page(experiment))
    assert "LiRA" not in text
    assert "## Attacks" not in text


def test_a_point_of_which_every_run_failed_or_diverged_tells_why(experiment: Experiment) -> None:
    one, four = experiment.points
    assert (one.failures, four.failures) == ([], [])
    lost = point_of(ONE, [failed_run(0), run_of(1, None)])
    assert lost.failures == ["cohort", "diverged"]

"""The files of an experiment, from an experiment made by hand: nothing that failed is lost."""

import csv
import io
import re
from dataclasses import replace

import pytest

from common.page.document import Details, Figure, Figures, Heading, Page, Section, Table, html_of
from simulations.arms import MEAN
from simulations.experiments.experiment import Experiment
from simulations.experiments.page import experiment_page
from simulations.experiments.rows import COLUMNS, to_csv, trials_to_csv
from simulations.page_markdown import markdown_of
from tests.unit.experiment_cases import ONE, failed_run, point_of, small_experiment


@pytest.fixture
def experiment() -> Experiment:
    return small_experiment()


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_has_a_line_for_each_seed_arm_scope_and_metric(experiment: Experiment) -> None:
    rows = _rows(to_csv(experiment))
    assert tuple(rows[0]) == COLUMNS
    one = [r for r in rows if r["arm"] == "federated" and r["scope"] == MEAN]
    told = [(r["point"], r["seed"], r["epsilon_asked"], r["metric"], r["value"]) for r in one]
    assert ("epsilon 1", "0", "1.0", "auroc", "0.7") in told
    assert ("no privacy", "1", "inf", "auroc", "0.87") in told
    keys = [tuple(r[k] for k in ("point", "seed", "arm", "scope", "metric")) for r in rows]
    assert len(keys) == len(set(keys))


def test_a_failed_run_and_a_diverged_one_stay_in_the_csv(experiment: Experiment) -> None:
    rows = _rows(to_csv(experiment))
    (failed,) = [r for r in rows if r["point"] == "epsilon 4" and r["seed"] == "1"]
    assert (failed["failed"], failed["value"], failed["metric"]) == ("cohort", "", "auroc")
    diverged = [r for r in rows if r["failed"] == "diverged"]
    assert {(r["point"], r["seed"], r["arm"]) for r in diverged} == {
        ("epsilon 1", "1", "federated")
    }


def test_every_training_of_inner_validation_has_a_line(experiment: Experiment) -> None:
    rows = _rows(trials_to_csv(experiment))
    assert [(r["setting"], r["validation"], r["value"], r["failed"]) for r in rows] == [
        ("the study's own settings", "fold 0, seed 0", "0.7", ""),
        ("the study's own settings", "fold 1, seed 1", "0.8", ""),
        ("clip 9", "fold 0, seed 0", "0.5", ""),
        ("clip 9", "fold 1, seed 1", "", "diverged"),
    ]


def test_the_page_says_what_failed_and_over_how_many_seeds_a_mean_is(
    experiment: Experiment,
) -> None:
    text = markdown_of(experiment_page(experiment))
    assert "epsilon 1, seed 1: federated diverged" in text
    assert "epsilon 4, seed 1: cohort" in text
    assert "epsilon 1, clip 9, inner validation: diverged" in text
    assert "0.800 (1 of 2)" in text


def test_the_page_states_what_choosing_settings_cost(experiment: Experiment) -> None:
    stated = markdown_of(experiment_page(experiment))
    assert "up to 4 private trainings on the same patients" in stated
    assert "They are not part of the epsilon that is reported" in stated
    charged = replace(experiment, sweep=replace(experiment.sweep, charges_tuning=True))
    assert "is what releasing this one model costs" in markdown_of(experiment_page(charged))


def test_seeded_noise_is_told_to_protect_nobody(experiment: Experiment) -> None:
    assert "Noise: seeded" in markdown_of(experiment_page(experiment))


def test_an_audit_that_breaks_the_claim_is_told(experiment: Experiment) -> None:
    audit = {
        "failed": "",
        "epsilon_claimed": 0.99,
        "epsilon_lower_bound": 1.7,
        "cohort_size": 60,
        "measures": {"confidence": 0.999},
        "succeeded": True,
        "limits": "What it cannot show.",
    }
    points = [replace(point, audit=audit) for point in experiment.points]
    audited = replace(experiment, points=points, sweep=replace(experiment.sweep, attacks="audit"))
    text = markdown_of(experiment_page(audited))
    assert "| epsilon 1 | 0.990 | 1.700 | 60 | 0.999 | no |" in text
    assert "What it cannot show." in text


def test_the_page_is_a_pure_function_of_the_experiment_with_text_beside_every_chart(
    experiment: Experiment,
) -> None:
    page = html_of(experiment_page(experiment))
    assert page == html_of(experiment_page(experiment))
    # Two scopes and two hospitals.
    assert len(re.findall(r'<svg role="img"', page)) == 4
    assert len(re.findall(r"<desc [^>]*>Means over 2 seeds", page)) == 4
    assert "<script" not in page


def test_an_experiment_of_which_every_private_run_failed_has_a_page_all_the_same(
    experiment: Experiment,
) -> None:
    points = [point_of(ONE, [failed_run(0), failed_run(1)])]
    text = markdown_of(experiment_page(replace(experiment, points=points)))
    assert "epsilon 1: every run failed." in text


def test_every_kind_of_block_has_its_form_in_markdown() -> None:
    blocks = [
        Heading(text="h"),
        Figures(figures=[Figure(name="n", value="1", more="m")]),
        Details(summary="s", text="t"),
        Table(caption="c", head=("a", "b"), rows=[("x|y", "1")], total=("sum", "2"), note="why"),
    ]
    page = Page(
        title="T",
        subtitle=[],
        sections=[
            Section(key="k", title="S", blocks=blocks),
            Section(key="e", title="E", blocks=[]),
        ],
        footer="f",
    )
    assert markdown_of(page) == (
        "# T\n\n## S\n\n### h\n\n- n: **1** (m)\n\ns:\n\n```\nt\n```\n\n**c**\n\n| a | b |\n"
        "|---|---:|\n| x\\|y | 1 |\n| sum | 2 |\n\nwhy\n\nf\n"
    )

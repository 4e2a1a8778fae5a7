"""Results pages: predictions kept, metrics by group and hospital, intervals, and what is told."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StudyError
from common.metrics.evaluation import statistics_of
from common.metrics.resampling import draws
from common.study import Study
from common.study_file import load_study
from simulations.arms import MEAN, POOLED
from simulations.results.bootstrap import compare, mean_values
from simulations.results.held_out import (
    HeldOut,
    load,
    one_after_the_other,
    save,
    with_all_arms,
)
from simulations.results.measure import measure, shares
from simulations.results.methods import FEDERATED, FEDERATED_METHOD, LOCAL_ONLY
from simulations.results.page import (
    BEST_SINGLE,
    EVERYBODY,
    Comparison,
    Group,
    Page,
    Split,
    who_have_any,
    whom_an_arm_scores,
    whose_outcome_is_known,
)
from simulations.results.pages import PAGES, page_of
from simulations.results.people import people_table
from simulations.results.report import Findings, to_csv, to_markdown
from simulations.results.run import Failure

FIRST = Split(fold=0, seed=0, repeat=0)


def _labels(kind: str, random: np.random.Generator, number: int) -> dict[str, dict[str, object]]:
    known_B = random.uniform(size=number) < 0.9
    if kind == "survival":
        # Few different times: many ties.
        times = random.integers(1, 9, number).astype(np.float32) * 300
        events = random.uniform(size=number) < 0.6
        return {"survival": {"time_B": times, "event_B": events, "known_B": known_B}}
    num_classes, name = (2, "intensive_care") if kind == "binary" else (3, "subtype")
    labels = random.integers(num_classes, size=number)
    return {name: {"label_B": labels, "known_B": known_B}}


STUDIES = {
    "binary": "hannover-cxr",
    "multiclass": "tcga-brca-subtype",
    "survival": "tcga-brca-clinical",
}


def _held(kind: str = "binary", *, number: int = 30, seed: int = 0, arms=(FEDERATED,)) -> HeldOut:
    random = np.random.default_rng(seed)
    labels = _labels(kind, random, number)
    width = {"binary": 2, "multiclass": 3, "survival": 10}[kind]
    predictions = {}
    for arm in arms:
        # Coarse: many ties.
        raw = np.round(random.uniform(0.1, 1, (number, width)), 1)
        scores = -np.sort(-raw, axis=1) if kind == "survival" else raw / raw.sum(1, keepdims=True)
        predictions[arm] = {next(iter(labels)): scores}
    return HeldOut(
        id_B=np.array([f"p{i:03}" for i in range(number)]),
        site_B=np.array([f"site-{i % 2}" for i in range(number)]),
        outcomes=labels,
        present={g: random.uniform(size=number) < 0.7 for g in ("imaging", "labs")},
        predictions=predictions,
        num_train={"site-0": 40, "site-1": 50, "site-2": 60},
    )


def _same(one: HeldOut, other: HeldOut) -> bool:
    return (
        np.array_equal(one.id_B, other.id_B)
        and np.array_equal(one.site_B, other.site_B)
        and all(
            np.array_equal(
                array, getattr(other, kind)[name][key], equal_nan=array.dtype.kind == "f"
            )
            for kind in ("outcomes", "predictions")
            for name, by in getattr(one, kind).items()
            for key, array in by.items()
        )
        and all(np.array_equal(flag, other.present[n]) for n, flag in one.present.items())
        and one.num_train == other.num_train
    )


@pytest.mark.parametrize("kind", STUDIES)
def test_predictions_are_read_back_as_they_were_saved(tmp_path, kind: str) -> None:
    held = _held(kind, arms=("federated, personal", "labs alone"))
    held.predictions["labs alone"][next(iter(held.outcomes))][3] = np.nan
    save(held, tmp_path / "part.npz")
    assert _same(load(tmp_path / "part.npz"), held)


def test_arms_of_other_patients_are_not_put_together() -> None:
    one, other = _held(arms=("a",)), _held(arms=("b",))
    assert list(with_all_arms([one, other]).predictions) == ["a", "b"]
    with pytest.raises(ValueError, match="the same held-out patients"):
        with_all_arms([one, other.take(np.arange(29))])


def test_folds_together_have_each_patient_once_and_the_arms_that_all_folds_have() -> None:
    whole = _held(arms=("a", "b"))
    late, early = whole.take(np.arange(12, 30)), whole.take(np.arange(12))
    late = replace(late, predictions={"a": late.predictions["a"]})
    joined = one_after_the_other([late, early])
    assert joined.id_B.tolist() == whole.id_B.tolist()
    assert list(joined.predictions) == ["a"]
    assert np.array_equal(
        joined.predictions["a"]["intensive_care"], whole.predictions["a"]["intensive_care"]
    )


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(STUDIES)), st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_a_resample_has_the_exact_metric_of_its_patients(kind: str, seed: int, number: int) -> None:
    study, held = load_study(STUDIES[kind]), _held(kind, number=number, seed=seed)
    outcome = next(iter(held.outcomes))
    statistics = statistics_of(study)[outcome]
    drawn_RB = draws(number, 3)
    found_R = mean_values([held], FEDERATED, study, drawn_RB)
    assert drawn_RB[0].tolist() == [1.0] * number
    assert (drawn_RB.sum(axis=1) == number).all()
    for drawn_B, found in zip(drawn_RB, found_R, strict=True):
        patients = held.take(np.repeat(np.arange(number), drawn_B.astype(int)))
        if not patients.outcomes[outcome]["known_B"].any():
            assert np.isnan(found)
            continue
        exact = statistics.exact_metrics(
            patients.predictions[FEDERATED][outcome], patients.outcomes[outcome]
        )[statistics.columns[0]]
        assert found == pytest.approx(np.nan if exact is None else exact, nan_ok=True)


def _page(**changes: object) -> Page:
    page = Page(
        study="hannover-cxr",
        importer=lambda *_: None,
        methods=(FEDERATED_METHOD,),
        comparisons=(Comparison(other="other"),),
    )
    return replace(page, **changes)


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study("hannover-cxr")


def _differing(num_patients: int, share_right: float) -> HeldOut:
    """The first arm is always right about the order, the other for this share of patients."""
    random = np.random.default_rng(1)
    label_B = np.arange(num_patients) % 2
    wrong_B = random.uniform(size=num_patients) > share_right
    score_B = np.where(wrong_B, 1 - label_B, label_B) * 0.5 + random.uniform(0, 0.4, num_patients)
    held = _held(number=num_patients, arms=(FEDERATED, "other"))
    right_B = label_B * 0.5 + 0.25
    known_B = np.ones(num_patients, dtype=bool)
    return replace(
        held,
        outcomes={"intensive_care": {"label_B": label_B, "known_B": known_B}},
        predictions={
            arm: {"intensive_care": np.stack([1 - s, s], axis=1)}
            for arm, s in ((FEDERATED, right_B), ("other", score_B))
        },
    )


def test_an_interval_holds_the_difference_and_narrows_with_patients(study: Study) -> None:
    widths = []
    for number in (50, 800):
        (d,) = compare(_page(), study, {0: _differing(number, 0.8)}, singles=())
        assert d.low < d.value < d.high
        assert d.low > 0
        widths.append(d.high - d.low)
    # The standard error goes with the root of the patients: 4 times as narrow.
    assert 3 < widths[0] / widths[1] < 5.5


def test_an_arm_against_itself_differs_by_nothing(study: Study) -> None:
    page = _page(comparisons=(Comparison(other=FEDERATED),))
    (d,) = compare(page, study, {0: _held()}, singles=())
    assert (d.value, d.low, d.high) == (0.0, 0.0, 0.0)


def test_repeats_of_the_same_predictions_change_no_interval(study: Study) -> None:
    held = _differing(60, 0.8)
    once = compare(_page(), study, {0: held}, singles=())
    assert compare(_page(), study, {0: held, 1: held}, singles=()) == once


def test_the_best_single_granularity_is_the_one_with_the_highest_metric(study: Study) -> None:
    held = _differing(60, 0.8)
    (right,), (good,) = held.predictions[FEDERATED].values(), held.predictions["other"].values()
    arms = {FEDERATED: right, "labs alone": right[:, ::-1], "imaging alone": good}
    held = replace(held, predictions={a: {"intensive_care": p} for a, p in arms.items()})
    page = _page(comparisons=(Comparison(other=BEST_SINGLE),))
    (d,) = compare(page, study, {0: held}, singles=["labs alone", "imaging alone"])
    assert d.other == "imaging alone"


@pytest.mark.parametrize("singles", [(), ("other",)])
def test_a_comparison_with_an_arm_that_failed_stays_without_a_number(study, singles) -> None:
    page = _page(comparisons=(Comparison(other="absent"), Comparison(other=BEST_SINGLE)))
    held = _held(arms=("other",))
    found = compare(page, study, {0: held}, singles=singles)
    assert [(d.value, d.low, d.high) for d in found] == [(None, None, None)] * 2


def test_groups_are_as_they_are_called() -> None:
    held = _held()
    held.predictions[FEDERATED]["intensive_care"][:5] = np.nan
    outcome_B = held.outcomes["intensive_care"]["known_B"]
    assert whom_an_arm_scores(FEDERATED, "intensive_care")(held).sum() == 25
    assert not whom_an_arm_scores("absent", "intensive_care")(held).any()
    assert np.array_equal(whose_outcome_is_known("intensive_care")(held), outcome_B)
    either_B = held.present["labs"] | held.present["imaging"]
    assert np.array_equal(who_have_any("labs", "imaging")(held), either_B)


def test_an_arm_is_judged_only_where_it_scores_everybody(study: Study) -> None:
    held = _held(arms=(FEDERATED, "score"))
    held.predictions["score"]["intensive_care"][:5] = np.nan
    scored = Group(name="scored", chosen=whom_an_arm_scores("score", "intensive_care"))
    measured, _ = measure({FIRST: [held]}, _page(groups=(scored,)), study)
    there = {(m.arm, m.group) for m in measured}
    assert there == {(FEDERATED, EVERYBODY), (FEDERATED, "scored"), ("score", "scored")}


def test_metrics_are_of_the_patients_of_their_scope(study: Study) -> None:
    held = _held()
    measured, repeats = measure({FIRST: [held]}, _page(), study)
    assert list(repeats) == [0]
    values = {m.scope: m.metrics["auroc"] for m in measured if not m.is_repeat}
    statistics = statistics_of(study)["intensive_care"]
    for site in ("site-0", "site-1"):
        here = held.take(held.site_B == site)
        exact = statistics.exact_metrics(
            here.predictions[FEDERATED]["intensive_care"], here.outcomes["intensive_care"]
        )
        assert values[site] == exact["auroc"]
    # Site 2 has nobody held out, and no part in the mean.
    assert values["site-2"] is None
    assert values[MEAN] == pytest.approx((values["site-0"] + values["site-1"]) / 2)
    assert POOLED in values


def test_a_share_counts_sites_and_runs_in_which_the_loss_is_lower(study: Study) -> None:
    held = _differing(40, 0.8)
    (right,) = held.predictions[FEDERATED].values()
    surer = right + np.array([-0.1, 0.1])
    alone = np.where((held.site_B == "site-0")[:, None], right[:, ::-1], surer)
    held = replace(
        held,
        predictions={FEDERATED: {"intensive_care": right}, LOCAL_ONLY: {"intensive_care": alone}},
    )
    measured, _ = measure({FIRST: [held]}, _page(), study)
    (share,) = shares(measured)
    # Site 0 (class 0) has .75 for its class, and alone .25; site 1 (class 1) .75, and alone .85.
    # Site 2 has nobody held out.
    assert (share.num_better, share.num_cases) == (1, 2)


def test_seeds_go_with_folds_or_through_all_of_them() -> None:
    one_each = _page(num_folds=3, has_seed_per_fold=True).splits(5)
    assert [(s.fold, s.seed, s.repeat) for s in one_each] == [
        (0, 0, 0), (1, 1, 0), (2, 2, 0), (0, 3, 1), (1, 4, 1),
    ]  # fmt: skip
    every = _page(num_folds=2).splits(2)
    assert [(s.fold, s.seed, s.repeat) for s in every] == [
        (0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.study)
def test_a_page_names_what_its_study_has(page: Page) -> None:
    study = load_study(page.study)
    known = statistics_of(study)
    for outcome, columns in page.columns.items():
        assert set(columns) <= set(known[outcome].metric_names)
    singles = [m.name.removesuffix(" alone") for m in page.methods if m.is_single]
    assert set(singles) <= set(study.granularities)
    groups = {EVERYBODY, *(group.name for group in page.groups)}
    assert {comparison.group for comparison in page.comparisons} <= groups
    assert page_of(page.study) is page


def test_an_unknown_page_is_refused_with_those_there_are() -> None:
    with pytest.raises(StudyError, match=r"eicu-demo, .*heart-disease-5class\), found 'x'"):
        page_of("x")


def test_patients_and_events_are_counted_by_hospital(study: Study) -> None:
    held = _differing(40, 0.8)
    table = people_table([held], study)
    # Even places are site 0 and class 0, odd ones site 1 and class 1.
    assert "| site-0 | 40 | 20 | 0 |" in table
    assert "| site-1 | 50 | 20 | 20 |" in table
    assert "| **all** | 150 | 40 | 20 |" in table


def test_failures_stay_on_the_page(study: Study) -> None:
    held = _held(arms=(FEDERATED, LOCAL_ONLY))
    page = _page(comparisons=(Comparison(other="other"),))
    measured, repeats = measure({FIRST: [held]}, page, study)
    findings = Findings(
        page=page,
        study=study,
        splits=[FIRST],
        repeats=list(repeats.values()),
        measured=measured,
        differences=compare(page, study, repeats, singles=()),
        shares=shares(measured),
        references=[],
        failures=[Failure(method="other", split=FIRST, reason="error data")],
    )
    text = to_markdown(findings)
    assert "| other | fold 0, seed 0 | error data |" in text
    assert "| other | all held-out patients (30) | – | – | > 0 | – |" in text
    assert "chosen" in text.split("## Settings")[1]
    lines = to_csv(findings).splitlines()
    num_numbers = sum(len(m.metrics) for m in measured)
    assert len(lines) == 1 + num_numbers + 3

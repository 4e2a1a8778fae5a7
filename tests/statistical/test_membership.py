"""Membership inference: what it reaches on an overfitted model, and what its parts compute.

The private study of 8,000 patients is attacked where `WARDROUND_HYPOTHESIS` is "full"; what that
gave is in docs/attacks.md.
"""

import os

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from client.data import Cohort
from common.errors import StudyError
from common.metrics.statistics import Floats
from common.models.patient_model import PatientModel, parameters_of, state_of
from common.study import Study
from common.study_file import override
from simulations.attacks.finding import Finding
from simulations.attacks.membership import (
    LIRA,
    Shadows,
    attack_membership,
    likelihood_ratios,
    tells_members,
    train_shadows,
)
from simulations.attacks.receiver import Interval, separation
from simulations.attacks.retraining import check_retrainable, retrained
from tests.statistical.membership_study import (
    attacked,
    hospitals,
    overfitted_study,
    private,
    sober_study,
)
from tests.unit.builders import batch_of, labels_of, study_of

IS_FULL = os.environ.get("WARDROUND_HYPOTHESIS") == "full"


def cohort_of(study: Study, num_patients: int, seed: int) -> Cohort:
    def arrays(named):
        return {name: {k: v.numpy() for k, v in part.items()} for name, part in named.items()}

    return Cohort(
        arrays=arrays(batch_of(study, num_patients, seed)),
        outcomes=arrays(labels_of(study, num_patients, seed)),
        is_test_B=np.zeros(num_patients, dtype=np.bool_),
        pseudonym_B=np.array([f"p{i}" for i in range(num_patients)]),
    )


def two_hospitals(study: Study) -> dict[str, Cohort]:
    return {"north": cohort_of(study, 30, 1), "south": cohort_of(study, 20, 2)}


@pytest.fixture(scope="module")
def overfitted() -> list[Finding]:
    study = override(overfitted_study(), training__rounds=8)
    return attacked(study, num_patients=160, num_models=6, seed=0)


def test_likelihood_ratios_tell_members_of_an_overfitted_model(overfitted) -> None:
    (lira, threshold) = overfitted
    assert lira.attack == LIRA
    assert lira.measures["auc"] >= 0.65
    assert lira.measures["auc_low"] > 0.6
    assert lira.measures["auc"] > threshold.measures["auc"]
    assert lira.succeeded


def test_membership_without_privacy_breaks_no_claim(overfitted) -> None:
    assert not any(finding.breaks_claim for finding in overfitted)
    assert all(finding.epsilon_lower_bound is None for finding in overfitted)


@pytest.mark.skipif(not IS_FULL, reason="8,000 patients: WARDROUND_HYPOTHESIS=full")
def test_epsilon_8_hides_members_of_8000_patients() -> None:
    (lira, _) = attacked(private(sober_study()), num_patients=8000, num_models=16, seed=0)
    assert lira.measures["auc_low"] <= 0.55
    assert lira.measures["tpr_at_0.01_low"] <= 0.02
    assert not lira.succeeded


def test_the_ratio_is_that_of_two_normals_of_the_other_models() -> None:
    # Model 0 is attacked. The others say of the one patient: in 3 and 5 (mean 4), out 0 and 2
    # (mean 1); both deviations are sqrt(2), so the ratio at 3 is (4 - 1) / 4 = 3/4.
    shadows = Shadows(
        confidence_MN=np.array([[3.0], [3.0], [5.0], [0.0], [2.0]]),
        is_member_MN=np.array([[True], [True], [True], [False], [False]]),
    )
    assert likelihood_ratios(shadows)[0, 0] == pytest.approx(0.75)


def test_a_model_is_never_its_own_shadow() -> None:
    random = np.random.default_rng(0)
    one = Shadows(
        confidence_MN=random.normal(size=(6, 40)), is_member_MN=random.uniform(size=(6, 40)) < 0.5
    )
    turned = one.is_member_MN.copy()
    turned[2] = ~turned[2]
    other = Shadows(confidence_MN=one.confidence_MN, is_member_MN=turned)
    assert np.array_equal(likelihood_ratios(one)[2], likelihood_ratios(other)[2])


def test_chance_alone_is_not_told_apart() -> None:
    random = np.random.default_rng(1)
    shadows = Shadows(
        confidence_MN=random.normal(size=(8, 400)), is_member_MN=random.uniform(size=(8, 400)) < 0.5
    )
    reached = separation(likelihood_ratios(shadows), shadows.is_member_MN, seed=0)
    assert reached["auc"].low < 0.5 < reached["auc"].high
    assert not tells_members(reached)


def test_a_patient_who_is_in_every_model_has_a_finite_ratio() -> None:
    random = np.random.default_rng(2)
    member_MN = random.uniform(size=(5, 20)) < 0.5
    member_MN[:, 0], member_MN[:, 1] = True, False
    shadows = Shadows(confidence_MN=random.normal(size=(5, 20)), is_member_MN=member_MN)
    assert np.isfinite(likelihood_ratios(shadows)).all()


def test_auc_is_that_of_scikit_learn_ties_included() -> None:
    random = np.random.default_rng(3)
    score_MN = random.integers(0, 6, (3, 50)).astype(float)
    member_MN = random.uniform(size=(3, 50)) < 0.4
    reached = separation(score_MN, member_MN, seed=0)["auc"]
    assert reached.value == pytest.approx(roc_auc_score(member_MN.ravel(), score_MN.ravel()))
    assert reached.low <= reached.value <= reached.high


def test_hits_are_counted_above_the_allowed_false_alarms() -> None:
    # Of 200 who are no members, two may be false alarms at 1 %, and none at .1 %. The three
    # members above all of them are hits at both; one more lies between the second and third.
    outside = np.arange(200.0)
    members = np.array([300.0, 301.0, 302.0, 197.5])
    score = np.concatenate([outside, members])[None]
    reached = separation(score, np.arange(204)[None] >= 200, seed=0)
    assert reached["tpr_at_0.01"].value == 1.0
    assert reached["tpr_at_0.001"].value == 0.75


def test_one_kind_alone_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="expected members and others"):
        separation(np.zeros((2, 3)), np.ones((2, 3), dtype=np.bool_), seed=0)


def test_the_limits_of_success_are_those_that_were_fixed() -> None:
    def reached(auc: float, hits: float) -> dict[str, Interval]:
        return {
            "auc": Interval(value=1.0, low=auc, high=1.0),
            "tpr_at_0.01": Interval(value=1.0, low=hits, high=1.0),
        }

    assert not tells_members(reached(0.55, 0.02))
    assert tells_members(reached(0.56, 0.0))
    assert tells_members(reached(0.5, 0.03))


@pytest.mark.parametrize(
    "privacy", [{"mode": "none"}, {"mode": "patient", "epsilon": 9.0, "delta": 1e-3}]
)
def test_shadows_are_trained_with_the_study_s_privacy_or_without(privacy) -> None:
    # Everybody in every step: the noise of such a plan is found at once.
    study = study_of(training={"rounds": 2, "batch_size": 50}, privacy=privacy)
    shadows = train_shadows(study, two_hospitals(study), num_models=3, seed=5, jobs=1)
    assert shadows.confidence_MN.shape == shadows.is_member_MN.shape == (3, 50)
    assert np.isfinite(shadows.confidence_MN).all()
    assert 40 < shadows.is_member_MN.sum() < 110


@pytest.mark.skipif(not IS_FULL, reason="starts two processes: WARDROUND_HYPOTHESIS=full")
def test_shadows_do_not_depend_on_the_number_of_processes() -> None:
    study = study_of(training={"rounds": 2})
    patients = two_hospitals(study)
    alone, several = (
        train_shadows(study, patients, num_models=4, seed=5, jobs=jobs) for jobs in (1, 2)
    )
    assert np.array_equal(alone.confidence_MN, several.confidence_MN)
    assert np.array_equal(alone.is_member_MN, several.is_member_MN)


def test_blocks_that_stay_at_home_are_returned_as_they_began() -> None:
    study = study_of(training={"rounds": 2}, personal={"local_blocks": ["heads.*"]})
    trained = state_of(retrained(study, two_hospitals(study), seed=0)).unpack()
    begun = state_of(PatientModel(study)).unpack()
    for name, value in begun.items():
        is_local = name.startswith("heads.")
        assert np.array_equal(value, trained[name]) or not is_local
    assert not np.array_equal(begun["fusion.merge.weight"], trained["fusion.merge.weight"])


def test_a_retrained_model_is_the_same_once_more_and_another_with_another_seed() -> None:
    study = study_of(training={"rounds": 2})
    patients = two_hospitals(study)
    one, same, other = (state_of(retrained(study, patients, seed=s)).flat for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_what_cannot_be_trained_anew_is_told() -> None:
    with pytest.raises(StudyError, match=r"model\.frozen"):
        check_retrainable(override(study_of(), model__frozen=["labs"]))
    of_sites = study_of(
        privacy={"mode": "site", "epsilon": 3.0, "delta": 1e-3},
        normalisation={"method": "public_range"},
    )
    with pytest.raises(StudyError, match="mode 'site'"):
        check_retrainable(of_sites)


def test_too_few_models_are_an_error() -> None:
    study = study_of()
    with pytest.raises(ValueError, match="expected 4 models"):
        attack_membership(
            study, two_hospitals(study), num_models=3, seed=0, jobs=1, target="a test"
        )


def test_the_synthetic_study_has_the_patients_that_it_says(tmp_path) -> None:
    torch.set_num_threads(1)
    cohorts = hospitals(overfitted_study(), num_patients=60, seed=0, out=tmp_path)
    assert sum(map(len, cohorts.values())) == 60


def test_a_retrained_model_averages_the_rounds_that_the_study_does() -> None:
    patients = two_hospitals(study_of())

    def after(rounds: int, part: float = 0.0) -> Floats:
        study = study_of(training={"rounds": rounds}, strategy={"tail_average": part})
        return parameters_of(retrained(study, patients, seed=0)).flat.astype(np.float64)

    expected = (after(1) + after(2)) / 2
    assert np.array_equal(after(2, 0.9), expected.astype(np.float32))
    assert not np.array_equal(after(2), expected)

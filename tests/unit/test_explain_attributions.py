"""Attributions: they add up, say nothing of what is not there, and find what was planted."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from client.attributions import MOST_PATIENTS, TOLERANCE, Attributions
from client.data import Cohort
from client.evaluation import predict
from client.explain.attributions import attributions
from client.explain.page.reliance import reliance_section
from client.explain.reliance import explained_patients, reliance_of
from client.explain.tables import attributions_csv
from client.moved_inputs import moved_of
from client.training import Patients, to_device, train
from common.errors import SiteConfigError
from common.models.patient_model import PatientModel
from common.page.document import Charts, Paragraph
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, batch_of, study_of
from tests.unit.encoder_cases import CASES
from tests.unit.encoder_cases import patients_of as patients_of_case
from tests.unit.explain_cases import cohort_of, model_of, subject_of

COX = {"death": MORE_OUTCOMES["death"] | {"loss": "cox"}}


_FEW = 6


def _everybody(num_patients: int = 40) -> Any:
    return np.arange(num_patients)


def _assert_complete(found: Attributions) -> None:
    difference_B = np.abs(found.score_B - found.baseline_B)
    assert difference_B.mean() > 1e-3
    # Twice as much is where the page begins to warn; the steps of noise as pictures run out before.
    allowed_B = 2 * TOLERANCE * np.maximum(difference_B, difference_B.mean())
    assert (np.abs(found.gap_B) <= allowed_B).all()
    assert found.largest_gap <= 2 * TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_attributions_add_up_for_every_encoder(case: str) -> None:
    table = study_of().model_dump(mode="json")
    del table["granularities"]["labs"], table["granularities"]["lifestyle"]
    known = Study.model_validate(table)
    table["granularities"]["seen"] = CASES[case].model_dump(mode="json")
    study = Study.model_validate(table)
    cohort = cohort_of(known, _FEW, seed=3)
    seen = {key: value.numpy() for key, value in patients_of_case(CASES[case], _FEW).items()}
    cohort = replace(cohort, arrays={**cohort.arrays, "seen": seen})
    subject = subject_of(study, train=cohort, test=cohort)
    found = attributions(subject, "event", _everybody(_FEW))
    _assert_complete(found)
    by_granularity_BG = found.by_granularity(list(study.granularities))
    assert by_granularity_BG.sum(axis=1) == pytest.approx(found.value_BF.sum(axis=1))
    is_absent_B = ~seen["present_B"]
    assert is_absent_B.any()
    assert (by_granularity_BG[is_absent_B, -1] == 0).all()
    assert (by_granularity_BG[~is_absent_B, -1] != 0).any()


@pytest.mark.parametrize("outcomes", [MORE_OUTCOMES, MULTICLASS, COX])
def test_attributions_add_up_for_every_kind_of_outcome(outcomes: dict[str, Any]) -> None:
    study = study_of(outcomes=outcomes)
    # Beyond the range of a quantity its prediction is clipped, and nothing moves it.
    subject = subject_of(study, model=model_of(study, scale=0.1))
    for name in outcomes:
        _assert_complete(attributions(subject, name, _everybody()))


@pytest.mark.parametrize("outcomes", [MORE_OUTCOMES, MULTICLASS])
def test_the_explained_score_is_that_of_shapley_values_with_the_sites_intercept(
    outcomes: dict[str, Any],
) -> None:
    study = study_of(outcomes=outcomes)
    num_classes = 3 if outcomes is MULTICLASS else 2
    intercept_C = np.array([0.0, 0.7, -0.4])[:num_classes]
    subject = subject_of(study, intercepts={"event": intercept_C})
    for name in study.outcomes:
        reliance = reliance_of(subject, name, _everybody())
        assert reliance.shapley_gap(name) < 1e-6


def test_what_is_absent_or_was_not_measured_is_attributed_exactly_nothing() -> None:
    study = study_of()
    subject = subject_of(study)
    found = attributions(subject, "event", _everybody())
    columns = {feature: f for f, (_, feature) in enumerate(found.features)}
    for name, granularity in study.granularities.items():
        arrays = subject.test.cohort.arrays[name]
        for f, feature in enumerate(granularity.numeric):
            value_B = found.value_BF[:, columns[feature]]
            is_measured_B = arrays["observed_BF"][:, f]
            assert (value_B[~is_measured_B] == 0).all()
            assert (value_B[is_measured_B] != 0).any()
        for k, feature in enumerate(getattr(granularity, "categorical", {})):
            value_B = found.value_BF[:, columns[feature]]
            is_known_B = arrays["codes_BK"][:, k] > 0
            assert (value_B[~is_known_B] == 0).all()
            assert (value_B[is_known_B] != 0).any()


def _score(model: PatientModel, cohort: Cohort) -> Any:
    p_B = predict(model, to_device(cohort, torch.device("cpu")))["event"][:, 1]
    return np.log(p_B) - np.log1p(-p_B)


def test_of_a_linear_model_it_is_what_each_feature_changes_alone() -> None:
    linear = study_of()
    table = linear.model_dump(mode="json")
    for granularity in table["granularities"].values():
        granularity["hidden"] = []
    table["model"]["fusion"] = "concat"
    study = Study.model_validate(table)
    subject = subject_of(study)
    found = attributions(subject, "event", _everybody())
    cohort = subject.test.cohort
    labs = cohort.arrays["labs"]
    centred = labs["numeric_BF"].copy()
    centred[:, 1] = 16.0  # the middle of glucose's public range, [1, 31]
    moved = replace(cohort, arrays={**cohort.arrays, "labs": {**labs, "numeric_BF": centred}})
    expected_B = _score(subject.model, cohort) - _score(subject.model, moved)
    column = found.features.index(("labs", "glucose"))
    assert found.value_BF[:, column] == pytest.approx(expected_B, abs=1e-4)


def test_a_planted_feature_dominates_and_one_of_no_effect_gets_next_to_nothing() -> None:
    study = study_of(
        training={"optimizer": "adamw", "learning_rate": 0.02, "weight_decay": 0.05},
        model={"width": 8},
    )
    num_patients = 400
    batch = batch_of(study, num_patients, seed=7)
    labs = batch["labs"] | {
        "present_B": torch.ones(num_patients, dtype=torch.bool),
        "observed_BF": torch.ones(num_patients, 2, dtype=torch.bool),
    }
    random = np.random.default_rng(0)
    z_B = (labs["numeric_BF"][:, 1].numpy() - 16.0) / 5.0  # of glucose
    label_B = (random.uniform(size=num_patients) < 1 / (1 + np.exp(-2 * z_B))).astype(np.int64)
    arrays = {
        name: {key: value.numpy() for key, value in part.items()}
        for name, part in {**batch, "labs": labs}.items()
    }
    cohort = replace(
        cohort_of(study, num_patients),
        arrays=arrays,
        outcomes={"event": {"known_B": np.ones(num_patients, dtype=bool), "label_B": label_B}},
    )
    is_test_B = np.arange(num_patients) % 4 == 0
    model = PatientModel(study)
    patients = to_device(cohort.select(~is_test_B), torch.device("cpu"))
    train(model, patients, study, seed=0, num_steps=400)
    subject = subject_of(study, model=model.eval(), test=cohort.select(is_test_B))
    reliance = reliance_of(subject, "event", _everybody(int(is_test_B.sum())))
    found = reliance.attributions
    size = dict(zip(found.features, np.abs(found.value_BF).mean(axis=0), strict=True))
    planted = size.pop(("labs", "glucose"))
    assert planted > 5 * max(size.values())
    assert planted > 1.0
    assert reliance.directions[found.features.index(("labs", "glucose"))].startswith("rises")


def test_the_page_tells_the_gap_and_warns_of_a_large_one() -> None:
    study = study_of()
    subject = subject_of(study)
    whole = reliance_of(subject, "event", _everybody())
    half = replace(whole.attributions, value_BF=whole.attributions.value_BF / 2)
    looks = []
    for reliance in (whole, replace(whole, attributions=half)):
        section = reliance_section(subject, {"event": reliance})
        texts = {b.look: b.text for b in section.blocks if isinstance(b, Paragraph)}
        looks.append(set(texts))
    assert looks == [{"", "note"}, {"", "warn"}]
    assert "more than it should be" in texts["warn"]


def test_only_so_many_patients_are_explained_evenly_spread() -> None:
    study = study_of()
    few = subject_of(study)
    assert explained_patients(few).tolist() == list(range(40))
    many = replace(few, test=replace(few.test, ids=tuple("p" for _ in range(3 * MOST_PATIENTS))))
    index = explained_patients(many)
    assert index.tolist() == list(range(0, 3 * MOST_PATIENTS, 3))


def test_without_captum_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    subject = subject_of(study_of(), model=model_of(study_of()))
    with pytest.raises(SiteConfigError, match=r"pip install 'wardround\[explain\]'"):
        attributions(subject, "event", _everybody())


def test_the_baseline_of_a_category_is_the_average_of_training_patients() -> None:
    study = study_of()
    subject = subject_of(study)
    moved = moved_of(study, subject.model, subject.train.patients)
    (sex,) = [m for m in moved if m.array == "codes_BK" and m.granularity == "labs"]
    codes_B = subject.train.cohort.arrays["labs"]["codes_BK"][:, 0]
    weight = subject.model.encoders["labs"].categories.weight.detach().numpy()
    # Of the rows "not known", "female", "male": the known ones, by how many patients have each.
    part = (codes_B == 1).sum() / (codes_B > 0).sum()
    assert sex.baseline[0].numpy() == pytest.approx(part * weight[1] + (1 - part) * weight[2])


def test_where_no_category_is_known_in_training_the_baseline_is_the_middle_of_all() -> None:
    study = study_of()
    train = cohort_of(study, 20)
    labs = train.arrays["labs"] | {"codes_BK": np.zeros((20, 1), dtype=np.int64)}
    subject = subject_of(study, train=replace(train, arrays={**train.arrays, "labs": labs}))
    moved = moved_of(study, subject.model, subject.train.patients)
    (sex,) = [m for m in moved if m.array == "codes_BK" and m.granularity == "labs"]
    weight = subject.model.encoders["labs"].categories.weight.detach().numpy()
    assert sex.baseline[0].numpy() == pytest.approx((weight[1] + weight[2]) / 2)


def test_the_baseline_of_a_picture_is_the_average_of_training_pictures() -> None:
    study = study_of(granularities={"seen": CASES["images-cnn"].model_dump(mode="json")})
    model = model_of(study)
    seen = patients_of_case(CASES["images-cnn"], 20)
    for part, is_there in ((seen, True), ({k: v * 0 for k, v in seen.items()}, False)):
        inputs = {
            **batch_of(study_of(), 20),
            "seen": {k: v.to(seen[k].dtype) for k, v in part.items()},
        }
        trained_on = Patients(
            inputs=inputs, outcomes={}, device=torch.device("cpu"), num_patients=20
        )
        (picture,) = [m for m in moved_of(study, model, trained_on) if m.granularity == "seen"]
        pictures = seen["images_BNHW"][seen["observed_BN"]].float()
        expected = pictures.mean(dim=0) if is_there else torch.tensor(127.5)
        torch.testing.assert_close(picture.baseline, expected)


def test_without_shapley_values_the_features_are_told_all_the_same() -> None:
    study = study_of()
    subject = subject_of(study)
    reliance = replace(reliance_of(subject, "event", _everybody()), shapley={})
    section = reliance_section(subject, {"event": reliance})
    (charts,) = [b for b in section.blocks if isinstance(b, Charts)]
    assert [chart.title for chart in charts.charts] == ["event: the features that move it most"]
    head, *rows = attributions_csv(subject, "event", reliance).splitlines()
    assert "shapley" not in head
    assert len(rows) == 40

"""Simulated hospitals: reproducible, of one disease process, and different as they were asked."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from client.config import load_site_config
from client.data import cohort_findings, read_cohort
from common.study import Study
from common.study_file import load_study
from simulations.cohort import SiteEffects, simulate_site, varied_sites, write_cohort

LARGE = SiteEffects(name="large", num_patients=4000, granularity_missing=0.0, cell_missing=0.0)


def test_equal_arguments_give_equal_patients(tiny_study) -> None:
    effects = SiteEffects(name="a", num_patients=50)
    one, two = (simulate_site(tiny_study, effects, seed=3) for _ in range(2))
    assert one.patients.equals(two.patients)
    assert one.risk_BC.tobytes() == two.risk_BC.tobytes()


def test_another_seed_or_another_name_gives_other_patients(tiny_study) -> None:
    effects = SiteEffects(name="a", num_patients=50)
    one = simulate_site(tiny_study, effects, seed=3).risk_BC
    assert not np.array_equal(one, simulate_site(tiny_study, effects, seed=4).risk_BC)
    other = replace(effects, name="b")
    assert not np.array_equal(one, simulate_site(tiny_study, other, seed=3).risk_BC)


def test_outcomes_are_drawn_with_the_risk_that_is_told(tiny_study) -> None:
    site = simulate_site(tiny_study, LARGE, seed=1)
    assert np.allclose(site.risk_BC.sum(axis=1), 1.0)
    outcomes_B = (site.patients["event"] == "1").to_numpy()
    risk_B = site.risk_BC[:, 1]
    for low, high in [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]:
        chosen_B = (risk_B >= low) & (risk_B < high)
        deviation = (risk_B * (1 - risk_B))[chosen_B].sum() ** 0.5
        surplus = outcomes_B[chosen_B].sum() - risk_B[chosen_B].sum()
        assert abs(surplus) < 4 * deviation
    # The check can fail: a risk a tenth higher would be noticed in the middle.
    middle_B = (risk_B > 0.25) & (risk_B < 0.75)
    deviation = (risk_B * (1 - risk_B))[middle_B].sum() ** 0.5
    assert 0.1 * middle_B.sum() > 6 * deviation


def test_the_disease_process_is_the_same_at_every_hospital(tiny_study) -> None:
    # What a feature says of the risk has the same sign and size everywhere.
    def slopes(name: str, seed: int = 1) -> np.ndarray:
        site = simulate_site(tiny_study, replace(LARGE, name=name), seed=seed)
        numbers = site.patients[["age_years", "cholesterol_mg_dl", "steps_per_day"]]
        return np.asarray([np.corrcoef(numbers[c], site.risk_BC[:, 1])[0, 1] for c in numbers])

    assert np.abs(slopes("a") - slopes("b")).max() < 0.08
    # Another seed is another disease.
    assert np.abs(slopes("a") - slopes("a", seed=2)).max() > 0.15


def test_severity_moves_the_prevalence(tiny_study) -> None:
    prevalence = [
        simulate_site(tiny_study, replace(LARGE, severity_shift=shift), seed=1).risk_BC[:, 1].mean()
        for shift in (-1.0, 0.0, 1.0)
    ]
    assert prevalence[0] < prevalence[1] - 0.1 < prevalence[2] - 0.2


def test_a_granularity_that_a_hospital_lacks_has_no_columns(tiny_study) -> None:
    effects = SiteEffects(name="a", num_patients=30, lacks=("lifestyle",))
    columns = set(simulate_site(tiny_study, effects, seed=1).patients.columns)
    assert not columns & set(tiny_study.granularities["lifestyle"].features)
    assert set(tiny_study.granularities["labs"].features) <= columns


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_as_much_is_missing_as_was_asked(tiny_study, missing: float) -> None:
    cells = replace(LARGE, cell_missing=missing)
    table = simulate_site(tiny_study, cells, seed=1).patients
    # 4000 draws: standard deviation .0072 at .3.
    assert table["age_years"].isna().mean() == pytest.approx(missing, abs=0.03)
    whole = replace(LARGE, granularity_missing=missing)
    table = simulate_site(tiny_study, whole, seed=1).patients
    labs = table[list(tiny_study.granularities["labs"].features)].isna()
    assert labs.all(axis=1).mean() == pytest.approx(missing, abs=0.03)
    assert (labs.all(axis=1) == labs.any(axis=1)).all()


def test_values_lie_in_the_plausible_ranges(tiny_study) -> None:
    effects = replace(LARGE, measurement_shift=2.0, severity_shift=2.0)
    table = simulate_site(tiny_study, effects, seed=1).patients
    for granularity in tiny_study.granularities.values():
        for column, feature in granularity.numeric.items():
            assert table[column].between(*feature.range).all()
        for column, feature in granularity.categorical.items():
            assert set(table[column]) == set(feature.categories)


def test_ordered_classes_rise_with_severity(tiny_study) -> None:
    table = tiny_study.model_dump(mode="json", exclude_none=True)
    table["outcomes"]["event"] |= {"kind": "multiclass", "classes": ["mild", "middle", "grave"]}
    study = Study.model_validate(table)
    means = [
        simulate_site(study, replace(LARGE, severity_shift=shift), seed=1).risk_BC.mean(axis=0)
        for shift in (-1.5, 1.5)
    ]
    assert means[0].shape == (3,)
    assert means[0][0] > means[1][0]
    assert means[0][2] < means[1][2]
    outcomes = simulate_site(study, LARGE, seed=1).patients["event"]
    assert set(outcomes) == {"mild", "middle", "grave"}


def test_varied_sites_differ_in_size_and_one_of_three_lacks_a_granularity(tiny_study) -> None:
    sites = varied_sites(tiny_study, num_sites=12, seed=1)
    assert [s.name for s in sites][:2] == ["hospital-01", "hospital-02"]
    assert all(150 <= s.num_patients <= 600 for s in sites)
    assert len({s.num_patients for s in sites}) > 6
    assert [bool(s.lacks) for s in sites] == [False, False, True] * 4
    assert {s.lacks for s in sites if s.lacks} == {("labs",), ("lifestyle",)}
    assert sites == varied_sites(tiny_study, num_sites=12, seed=1)


def test_of_many_granularities_all_but_the_first_are_lacking_somewhere() -> None:
    sites = varied_sites(load_study("demo"), num_sites=12, seed=1)
    in_turn = [(), ("lifestyle",), ("imaging",), ("genomics",), ("vitals",), ("notes",)]
    assert [s.lacks for s in sites] == in_turn * 2


@pytest.mark.parametrize("name", ["demo", "demo-treatment", "demo-fracture", "tiny"])
def test_written_hospitals_are_read_back_without_errors(tmp_path, tiny_study, name: str) -> None:
    study = tiny_study if name == "tiny" else load_study(name)
    lacking = list(study.granularities)[-1]
    sites = [
        SiteEffects(name="a", num_patients=80, measurement_shift=0.5, note_style=1.0),
        SiteEffects(name="b", num_patients=90, lacks=(lacking,)),
    ]
    folders = write_cohort(study, sites, tmp_path, seed=5)
    assert [folder.name for folder in folders] == ["a", "b"]
    for folder, effects in zip(folders, sites, strict=True):
        config = load_site_config(folder)
        cohort, findings = read_cohort(config, study)
        assert cohort is not None
        assert len(cohort) == effects.num_patients
        findings = findings + cohort_findings(cohort, config, study)
        assert not [f.sentence() for f in findings if f.severity == "error"]
        present = simulate_site(study, effects, seed=5).present
        for granularity in study.granularities:
            assert cohort.counts()[granularity] == present[granularity].sum()
        assert cohort.counts()[lacking] == 0 or effects.name == "a"


def test_a_hospital_has_no_file_of_a_granularity_that_it_lacks(tmp_path) -> None:
    study = load_study("demo")
    everything = SiteEffects(name="a", num_patients=20)
    write_cohort(study, [everything], tmp_path, seed=5)
    names = {"genomics.csv", "imaging.csv", "notes.csv", "vitals.csv"}
    assert names <= {path.name for path in (tmp_path / "a").iterdir()}
    # Also where an earlier cohort has left one.
    lacks = ("genomics", "imaging", "notes", "vitals")
    write_cohort(study, [replace(everything, lacks=lacks)], tmp_path, seed=5)
    assert not names & {path.name for path in (tmp_path / "a").iterdir()}


def test_equal_cohorts_are_written_as_equal_bytes(tmp_path) -> None:
    study = load_study("demo")
    contents = []
    for run in ("one", "two"):
        write_cohort(study, [SiteEffects(name="a", num_patients=20)], tmp_path / run, seed=5)
        files = sorted(path for path in (tmp_path / run).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / run): path.read_bytes() for path in files})
    assert len(contents[0]) > 20
    assert contents[0] == contents[1]


def test_a_granularity_that_joins_a_study_leaves_the_others_chance_as_it_is(tiny_study) -> None:
    # Chance is drawn by name: whether lifestyle is written changes nothing of the labs.
    effects = SiteEffects(name="a", num_patients=50)
    whole = simulate_site(tiny_study, effects, seed=3).patients
    part = simulate_site(tiny_study, replace(effects, lacks=("lifestyle",)), seed=3).patients
    assert part.equals(whole[part.columns])


def test_the_truth_of_a_cohort_tells_of_hospitals_and_of_no_patient(tmp_path, tiny_study) -> None:
    sites = [SiteEffects(name="a", num_patients=80, severity_shift=0.25, lacks=("labs",))]
    write_cohort(tiny_study, sites, tmp_path, seed=5)
    truth = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    assert set(truth["hospitals"]) == {"a"}
    hospital = truth["hospitals"]["a"]
    assert (hospital["num_patients"], hospital["severity_shift"]) == (80, 0.25)
    assert hospital["lacks"] == ["labs"]
    assert sum(hospital["mean_risk"]) == pytest.approx(1.0)
    assert all(not isinstance(v, list) or len(v) <= 2 for v in hospital.values())
    best = truth["best_scores"]["outcomes"]["event"]
    assert set(best) == {"labs", "lifestyle", "labs+lifestyle"}
    assert best["labs+lifestyle"]["metric"] == "auroc"
    assert truth["best_scores"]["num_draws"] == 20_000


def test_no_truth_of_a_patient_is_written_into_a_hospital(tmp_path) -> None:
    study = load_study("demo-treatment")
    (folder,) = write_cohort(study, [SiteEffects(name="a", num_patients=40)], tmp_path, seed=5)
    columns = set(pd.read_csv(folder / "patients.csv").columns)
    features = {c for g in study.granularities.values() for c in g.columns}
    assert columns == {"patient_id", "effect_target", "treatment", "response"} | features
    files = {path.name for path in folder.iterdir()}
    assert files == {"patients.csv", "expression.csv", "site.toml"}


def test_best_predictions_use_what_each_patient_has(tiny_study) -> None:
    effects = replace(LARGE, granularity_missing=0.5)
    site = simulate_site(tiny_study, effects, seed=1)
    best_BC = site.best_predictions("event")
    has_none_B = ~(site.present["labs"] | site.present["lifestyle"])
    assert 800 < has_none_B.sum() < 1200
    # Who has nothing gets the prevalence; every other group is calibrated too.
    assert np.ptp(best_BC[has_none_B, 1]) == 0
    for group_B in (has_none_B, site.present["labs"], ~has_none_B & (best_BC[:, 1] > 0.7)):
        surplus = site.risk_BC[group_B, 1] - best_BC[group_B, 1]
        assert abs(surplus.mean()) < 4 * surplus.std() / group_B.sum() ** 0.5
    unseen_BC = site.best_predictions("event", ["labs"])
    assert not np.allclose(unseen_BC, best_BC)
    assert np.ptp(unseen_BC[~site.present["labs"], 1]) == 0

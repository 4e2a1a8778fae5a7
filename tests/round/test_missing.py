"""The missing-granularity experiment: what each way of training is shown, and its report."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from client.normalise import moments_of
from client.training import to_device
from common.errors import StudyError
from common.models.patient_model import PatientModel
from common.run_folder import site_folders
from common.study import Study
from common.study_file import (
    override,
    study_from_toml,
    with_patient_privacy,
    without_granularity,
)
from simulations.arms import POOLED
from simulations.bench.plain_loop import read_sites
from simulations.cohort import SiteEffects, write_cohort
from simulations.lacking import as_if_lacking, lacking_of
from simulations.missing import (
    METHODS,
    OURS,
    ZeroFillingModel,
    _counting_everybody,
    _hide_others,
    run_missing,
    run_seed,
)
from simulations.missing_report import to_csv, to_markdown
from simulations.oracle import mean_of_sites
from tests.round.tiny import TINY_STUDY


@pytest.fixture(scope="module")
def study() -> Study:
    return study_from_toml(TINY_STUDY)


@pytest.fixture(scope="module")
def sites(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    effects = [
        SiteEffects(name="hospital-0", num_patients=80, granularity_missing=0.2),
        SiteEffects(name="hospital-1", num_patients=80, lacks=("lifestyle",)),
        SiteEffects(name="hospital-2", num_patients=80),
    ]
    write_cohort(study, effects, folder, seed=0)
    return folder


def test_all_subsets_but_the_empty_one_are_tried_on_the_same_patients(
    study: Study, sites: Path
) -> None:
    subsets = [("labs",), ("lifestyle",), ("labs", "lifestyle")]
    results = run_seed(study, sites, seed=0)
    assert {(r.method, r.subset) for r in results} == {(m, s) for m in METHODS for s in subsets}
    held_out = [site.cohort.test for site in read_sites(study, sites)]
    for subset in subsets:
        have_all = sum(
            int(np.all([c.arrays[g]["present_B"] for g in subset], axis=0).sum()) for c in held_out
        )
        found = {
            r.metrics["num_patients"] for r in results if r.subset == subset and r.scope == POOLED
        }
        assert found == {float(have_all)}


def test_what_is_not_in_the_subset_is_hidden(study: Study, sites: Path) -> None:
    cohort = read_sites(study, sites)[0].cohort
    shown = _hide_others("", cohort, ("labs",))
    assert not shown.arrays["lifestyle"]["present_B"].any()
    assert (shown.arrays["labs"]["present_B"] == cohort.arrays["labs"]["present_B"]).all()


def test_zero_filling_makes_everybody_have_everything(study: Study, sites: Path) -> None:
    site = read_sites(study, sites)[1]
    model = ZeroFillingModel(study).eval()
    batch, _ = site.train.batch(torch.arange(len(site.train)))
    assert not batch["lifestyle"]["present_B"].any()
    filled = {}
    for name, arrays in batch.items():
        copies = {key: value.clone() for key, value in arrays.items()}
        for value in copies.values():
            value[~arrays["present_B"]] = 0
        filled[name] = {**copies, "present_B": torch.ones_like(arrays["present_B"])}
    expected = PatientModel(study).eval()(filled)
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=0)


def test_zero_filling_counts_everybody_for_every_granularity_and_for_no_other_outcome(
    study: Study, sites: Path
) -> None:
    site = read_sites(study, sites)[1]
    site = replace(site, counts={**site.counts, "event": 7})
    counted = _counting_everybody(study, site).counts
    everybody = site.counts["patients"]
    assert counted == {"patients": everybody, "labs": everybody, "lifestyle": everybody, "event": 7}


def test_dropout_of_zero_filling_shows_zeros_as_at_prediction(study: Study, sites: Path) -> None:
    dropping = override(study, model__granularity_dropout=0.5)
    model, batch = ZeroFillingModel(dropping), _complete_batch(study, sites)
    shown: list[dict[str, dict[str, torch.Tensor]]] = []
    model.tokens = lambda batch: (shown.append(batch), PatientModel.tokens(model, batch))[1]
    model.train()
    model(batch)
    labs, lifestyle = shown[0]["labs"], shown[0]["lifestyle"]
    assert labs["present_B"].all()
    assert lifestyle["present_B"].all()
    no_labs_B = ~labs["observed_BF"].any(dim=1)
    no_lifestyle_B = ~lifestyle["observed_BF"].any(dim=1)
    assert no_labs_B.any()
    assert no_lifestyle_B.any()
    assert not (no_labs_B & no_lifestyle_B).any()
    assert not labs["numeric_BF"][no_labs_B].any()


def _complete_batch(study: Study, sites: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The patients of the third hospital who have both granularities, all of them measured."""
    train = read_sites(study, sites)[2].cohort.train
    has_both_B = np.all(
        [a["present_B"] & a["observed_BF"].any(axis=1) for a in train.arrays.values()], axis=0
    )
    patients = to_device(train.select(has_both_B), torch.device("cpu"))
    return patients.batch(torch.arange(len(patients)))[0]


def test_the_intersection_ignores_what_some_hospital_lacks(study: Study, sites: Path) -> None:
    results = {(r.method, r.subset): r for r in run_seed(study, sites, seed=0) if r.scope == POOLED}
    # Only labs are everywhere, so lifestyle alone tells nothing: all patients score alike.
    assert results["intersection", ("lifestyle",)].metrics["auroc"] == 0.5
    assert results["intersection", ("lifestyle",)].shown == ()
    assert results["intersection", ("labs", "lifestyle")].shown == ("labs",)
    assert results[OURS, ("lifestyle",)].metrics["auroc"] != 0.5


def test_hospitals_without_the_commonest_granularity_are_still_predicted_by_the_intersection(
    study: Study, tmp_path: Path
) -> None:
    effects = [
        SiteEffects(name="hospital-0", num_patients=60, lacks=("labs",)),
        SiteEffects(name="hospital-1", num_patients=60, lacks=("lifestyle",)),
        SiteEffects(name="hospital-2", num_patients=60, lacks=("lifestyle",)),
    ]
    write_cohort(study, effects, tmp_path, seed=0)
    results = run_seed(study, tmp_path, seed=0)
    patients = {
        (r.method, r.subset): r.metrics["num_patients"] for r in results if r.scope == POOLED
    }
    assert patients["intersection", ("lifestyle",)] == patients[OURS, ("lifestyle",)]
    assert patients["intersection", ("lifestyle",)] > 0
    shown = {r.subset: r.shown for r in results if r.method == "intersection"}
    assert shown["lifestyle",] == ()
    assert shown["labs",] == ("labs",)


def test_the_mean_of_hospitals_weighs_them_alike_where_they_have_the_metric() -> None:
    two = [{"auroc": 0.5, "loss": 1.0}, {"auroc": None, "loss": 2.0}]
    assert mean_of_sites(two) == {"auroc": 0.5, "loss": 1.5}
    assert mean_of_sites([{"auroc": None}]) == {"auroc": None}


def test_processes_and_order_change_nothing(study: Study, sites: Path) -> None:
    told: list[str] = []
    two = run_missing(study, sites, seeds=[0, 1], jobs=2, on_done=told.append)
    assert two == run_seed(study, sites, seed=0) + run_seed(study, sites, seed=1)
    assert sorted(told) == ["seed 0", "seed 1"]


def test_the_report_has_a_row_for_each_subset_and_a_line_for_each_number(
    study: Study, sites: Path
) -> None:
    results = run_seed(study, sites, seed=0)
    text = to_markdown(results, study=study)
    assert "| labs + lifestyle |" in text
    assert text.count("Better than") == 2 * (len(METHODS) - 1)
    assert "## All patients, pooled" in text
    assert "## Mean of hospitals, unweighted" in text
    assert "sees nothing of 1 of the 3 rows" in text
    # One seed has no spread to tell.
    assert "±" not in "".join(line for line in text.splitlines() if line.startswith("|"))
    num_numbers = sum(len(r.metrics) for r in results)
    assert len(to_csv(results).splitlines()) == 1 + num_numbers


def test_one_granularity_has_no_subsets_to_try(study: Study, sites: Path) -> None:
    alone = without_granularity(study, "lifestyle")
    with pytest.raises(StudyError, match="found 1"):
        run_missing(alone, sites, seeds=[0], jobs=1)


def test_frozen_encoders_are_refused_because_nothing_brings_them(study: Study, sites: Path) -> None:
    frozen = override(study, model__frozen=("labs",))
    with pytest.raises(StudyError, match=r"model\.frozen = labs"):
        run_missing(frozen, sites, seeds=[0], jobs=1)


def test_a_private_study_is_refused_and_not_trained_without_privacy(
    study: Study, sites: Path
) -> None:
    private = with_patient_privacy(study, epsilon=3.0, delta=1e-4)
    with pytest.raises(StudyError, match="found privacy mode 'patient'"):
        run_missing(private, sites, seeds=[0], jobs=1)


LIFESTYLE_OF_TWO = {"hospital-0": frozenset(["lifestyle"]), "hospital-2": frozenset(["lifestyle"])}


def test_what_a_hospital_is_to_lack_is_in_no_sum_count_or_update_of_its(
    study: Study, sites: Path
) -> None:
    whole = read_sites(study, sites)[0]
    lacking = as_if_lacking(whole, LIFESTYLE_OF_TWO)
    assert lacking.counts["lifestyle"] == 0
    assert lacking.counts["labs"] == whole.counts["labs"]
    assert not lacking.cohort.train.arrays["lifestyle"]["present_B"].any()
    assert not lacking.train.batch(torch.arange(len(lacking.train)))[0]["lifestyle"][
        "present_B"
    ].any()
    moments = moments_of(lacking.cohort.train, override(study, normalisation__method="federated"))
    assert any(name.startswith("lifestyle") for name in moments.unpack())
    for name, sums in moments.unpack().items():
        assert not name.startswith("lifestyle") or not sums.any()


def test_held_out_patients_keep_what_their_hospital_is_to_lack(study: Study, sites: Path) -> None:
    whole = read_sites(study, sites)[0]
    lacking = as_if_lacking(whole, LIFESTYLE_OF_TWO)
    before, after = (s.cohort.test.arrays["lifestyle"]["present_B"] for s in (whole, lacking))
    assert before.any()
    assert (before == after).all()


def test_a_hospital_that_lacks_nothing_by_order_is_as_it_was(study: Study, sites: Path) -> None:
    site = read_sites(study, sites)[1]
    assert as_if_lacking(site, LIFESTYLE_OF_TWO) is site


def test_every_way_of_training_goes_without_what_hospitals_are_to_lack(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    had, never_had = tmp_path / "had", tmp_path / "never_had"
    for copied in (had, never_had):
        shutil.copytree(sites, copied)
        for folder in site_folders(copied):
            takes = copied is never_had and folder.name in LIFESTYLE_OF_TWO
            _split(folder / "patients.csv", takes_lifestyle=takes)
    study = override(study, normalisation__method="federated")
    expected = run_seed(study, never_had, seed=0)
    assert run_seed(study, had, seed=0, lacking=LIFESTYLE_OF_TWO) == expected
    assert run_seed(study, had, seed=0) != expected


def _split(table: Path, *, takes_lifestyle: bool) -> None:
    """Holds out every third patient, and may take its lifestyle from the others."""
    patients = pd.read_csv(table, dtype=str)
    is_test = patients.index % 3 == 0
    patients["split"] = np.where(is_test, "test", "train")
    if takes_lifestyle:
        patients.loc[~is_test, "steps_per_day"] = None
    patients.to_csv(table, index=False)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["hospital-9=labs"], "found 'hospital-9'"),
        (["hospital-0=genes,labs"], "found genes\\. "),
        (["hospital-0=labs,lifestyle"], "'hospital-0' to keep one of labs, lifestyle"),
    ],
)
def test_what_nobody_has_cannot_be_lacking_and_nobody_can_lack_all(
    study: Study, sites: Path, texts: list[str], found: str
) -> None:
    with pytest.raises(StudyError, match=found):
        run_missing(study, sites, seeds=[0], jobs=1, lacking=lacking_of(texts))


@pytest.mark.parametrize("text", ["labs", "=labs", "hospital-0=", "hospital-0=labs,,vitals"])
def test_lacking_is_written_as_hospital_and_granularities(text: str) -> None:
    with pytest.raises(StudyError, match="Expected --lacking HOSPITAL="):
        lacking_of([text])


def test_a_hospital_is_named_once() -> None:
    with pytest.raises(StudyError, match="'a' twice"):
        lacking_of(["a=labs", "a=notes"])


def test_the_report_says_who_trained_without_what(study: Study, sites: Path) -> None:
    results = run_seed(study, sites, seed=0, lacking=LIFESTYLE_OF_TWO)
    text = to_markdown(results, study=study, lacking=LIFESTYLE_OF_TWO)
    assert "hospital-0 lifestyle; hospital-2 lifestyle" in text
    assert "to lack" not in to_markdown(results, study=study)

"""The missing-granularity experiment: what each way of training is shown, and its report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.training import to_device
from common.errors import StudyError
from common.models.patient_model import PatientModel
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

"""The missing-granularity experiment: what each way of training is shown, and its report."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import StudyError
from common.study import Study
from common.study_file import study_from_toml, without_granularity
from simulations.bench.plain_loop import read_sites
from simulations.cohort import SiteEffects, write_cohort
from simulations.missing import (
    METHODS,
    OURS,
    _filled,
    _hide_others,
    run_missing,
    run_seed,
    subsets_of,
)
from simulations.missing_report import to_csv, to_markdown
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


def test_all_subsets_but_the_empty_one_are_tried(study: Study) -> None:
    assert subsets_of(study) == [("labs",), ("lifestyle",), ("labs", "lifestyle")]


def test_every_method_is_judged_on_the_same_patients(study: Study, sites: Path) -> None:
    results = run_seed(study, sites, seed=0)
    assert {(r.method, r.subset) for r in results} == {
        (m, s) for m in METHODS for s in subsets_of(study)
    }
    held_out = [site.cohort.test for site in read_sites(study, sites)]
    for subset in subsets_of(study):
        have_all = sum(
            int(np.all([c.arrays[g]["present_B"] for g in subset], axis=0).sum()) for c in held_out
        )
        found = {r.metrics["num_patients"] for r in results if r.subset == subset}
        assert found == {float(have_all)}


def test_what_is_not_in_the_subset_is_hidden(study: Study, sites: Path) -> None:
    cohort = read_sites(study, sites)[0].cohort
    shown = _hide_others("", cohort, ("labs",))
    assert not shown.arrays["lifestyle"]["present_B"].any()
    assert (shown.arrays["labs"]["present_B"] == cohort.arrays["labs"]["present_B"]).all()


def test_zero_filling_makes_everybody_have_everything(study: Study, sites: Path) -> None:
    site = read_sites(study, sites)[1]
    filled = _filled(site)
    arrays = filled.cohort.arrays["lifestyle"]
    assert arrays["present_B"].all()
    assert not arrays["numeric_BF"].any()
    assert filled.counts["lifestyle"] == site.counts["patients"]


def test_the_intersection_ignores_what_some_hospital_lacks(study: Study, sites: Path) -> None:
    results = {(r.method, r.subset): r.metrics for r in run_seed(study, sites, seed=0)}
    # Only labs are everywhere, so lifestyle alone tells nothing: all patients score alike.
    assert results["intersection", ("lifestyle",)]["auroc"] == 0.5
    assert results[OURS, ("lifestyle",)]["auroc"] != 0.5


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
    assert text.count("Better than") == len(METHODS) - 1
    num_numbers = sum(len(r.metrics) for r in results)
    assert len(to_csv(results).splitlines()) == 1 + num_numbers


def test_one_granularity_has_no_subsets_to_try(study: Study, sites: Path) -> None:
    alone = without_granularity(study, "lifestyle")
    with pytest.raises(StudyError, match="found 1"):
        run_missing(alone, sites, seeds=[0], jobs=1)

"""Groups of patients over whole rounds: what comes out is what the hospitals' patients give."""

from pathlib import Path
from typing import Any

import pytest

from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from common.metrics.subgroups import is_of_group
from common.study import Study
from common.study_file import override
from tests.round.conftest import Federate, Federation

BANDS = {"feature": "age_years", "edges": [55]}
SMALLEST = 10


@pytest.fixture(scope="module")
def grouped(study: Study) -> Study:
    return override(study, training__rounds=2, evaluation__subgroups=["sex", BANDS])


@pytest.fixture(scope="module")
def run(federate: Federate, grouped: Study) -> Federation:
    return federate(grouped)


def women_held_out(hospitals: Path, study: Study, site: str) -> tuple[int, int, int]:
    """Held-out women, men, and patients, of a known outcome."""
    cohort = usable_cohort(*read_cohort(load_site_config(hospitals / site), study)).test
    codes_B = cohort.arrays["labs"]["codes_BK"][:, 0]
    return int((codes_B == 1).sum()), int((codes_B == 2).sum()), len(cohort)


def test_groups_are_told_once_and_change_no_model(
    run: Federation, federate: Federate, study: Study
) -> None:
    replies = run.events("reply")
    named = {event["kind"] for event in replies if any(map(is_of_group, event["metrics"]))}
    assert named == {"evaluate"}
    assert run.model_bytes == federate(override(study, training__rounds=2)).model_bytes


def test_a_group_is_of_the_patients_in_the_hospitals_files(
    run: Federation, grouped: Study, hospitals: Path
) -> None:
    groups: dict[str, Any] = {g["label"]: g for g in run.results["subgroups"]["groups"]}
    assert list(groups) == ["female", "male", "below 55 years", "from 55 years on"]
    told = 0
    for site in "abcde":
        women, men, everyone = women_held_out(hospitals, grouped, site)
        found = [groups[label]["sites"].get(site) for label in ("female", "male")]
        for sums, size in zip(found, (women, men), strict=True):
            if sums is not None:
                told += 1
                assert sums["event"]["num_patients"] == size >= SMALLEST
                # What is beyond it: nobody, or no small group.
                assert everyone - size == 0 or everyone - size >= SMALLEST
    assert told


def test_pooled_groups_are_the_sums_of_the_hospitals(run: Federation) -> None:
    assert run.results["subgroups"]["round"] == 2
    for group in run.results["subgroups"]["groups"]:
        sites = [metrics["event"] for metrics in group["sites"].values()]
        if not sites:
            assert group["pooled"] == {}
            continue
        pooled = group["pooled"]["event"]
        assert pooled["num_patients"] == sum(m["num_patients"] for m in sites)
        hits = sum(m["accuracy"] * m["num_patients"] for m in sites)
        assert pooled["accuracy"] == pytest.approx(hits / pooled["num_patients"])


def test_the_report_tells_of_groups(run: Federation) -> None:
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Groups of patients</h2>" in page
    groups = run.results["subgroups"]["groups"]
    for group in groups:
        assert (f"{group['feature']}: {group['label']}" in page) is bool(group["pooled"])
    assert "results are by hospital only" not in page
    # Of most groups too few hospitals may tell; the card names those of which some do.
    (known,) = [group for group in groups if group["pooled"]]
    assert f"1 of 4 by {known['feature']} are known" in page

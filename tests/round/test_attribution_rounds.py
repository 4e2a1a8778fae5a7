"""Attributions over whole rounds: what comes out is what the hospitals' patients give."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.attributions import Judge, attributions
from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from client.evaluation import predict
from client.training import to_device
from common.arrays import Arrays
from common.metrics.attributions import is_attribution
from common.models.patient_model import PatientModel, load_state
from common.study import Study
from common.study_file import override
from simulations.cohort import SiteEffects, write_cohort
from tests.round.conftest import Federate, Federation

SMALLEST = 10
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def large(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals with enough held-out patients; lifestyle is missing of many, and of all."""
    folder = tmp_path_factory.mktemp("large")
    effects = [
        SiteEffects(name="a", num_patients=150),
        SiteEffects(name="b", num_patients=200, granularity_missing=0.3),
        SiteEffects(name="c", num_patients=150, lacks=("lifestyle",)),
    ]
    write_cohort(study, effects, folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def asked(study: Study) -> Study:
    return override(
        study,
        training__rounds=2,
        training__optimizer="adam",
        evaluation__attributions=True,
        evaluation__subgroups=["sex"],
    )


@pytest.fixture(scope="module")
def run(federate: Federate, asked: Study, large: Path) -> Federation:
    return federate(asked, sites=large)


def of_patients(run: Federation, study: Study, folder: Path) -> dict[tuple[str, str], Any]:
    """What each feature adds to the score of each held-out patient of one hospital."""
    cohort = usable_cohort(*read_cohort(load_site_config(folder), study))
    model = PatientModel(study)
    load_state(model, Arrays.pack({name: run.model[name] for name in model.state_dict()}))
    test = to_device(cohort.test, CPU)
    judge = Judge(
        study=study,
        model=model,
        trained_on=to_device(cohort.train, CPU),
        patients=test,
        predictions=predict(model, test),
        intercepts={},
    )
    found = attributions(judge, "event", np.arange(len(test)))
    return dict(zip(found.features, found.value_BF.T, strict=True))


def test_merged_attributions_are_those_of_all_patients_pooled(
    run: Federation, asked: Study, large: Path
) -> None:
    parts = [of_patients(run, asked, large / site) for site in "abc"]
    told = run.results["attributions"]["outcomes"]["event"]
    compared = 0
    for entry in told["features"]:
        key = (entry["granularity"], entry["feature"])
        sites = [parts["abc".index(site)][key] for site in entry["sites"]]
        if not sites:
            continue
        compared += len(sites)
        pooled_B = np.concatenate(sites)
        pooled = entry["pooled"]
        # Rounded to a 128th of what each hospital tells.
        total = pooled["num_patients"] * pooled["mean_absolute"]
        assert total == pytest.approx(np.abs(pooled_B).sum(), rel=1 / 256)
        # Who lacks it adds exactly 0; few of those who do are counted.
        assert np.count_nonzero(pooled_B) <= pooled["num_patients"]
        assert pooled["num_patients"] <= np.count_nonzero(pooled_B) + SMALLEST * len(sites)
    assert compared >= 7
    (steps,) = [e for e in told["features"] if e["feature"] == "steps_per_day"]
    assert "c" not in steps["sites"]


def test_attributions_are_told_once_and_change_no_model(
    run: Federation, federate: Federate, asked: Study, large: Path
) -> None:
    replies = run.events("reply")
    assert {e["kind"] for e in replies if any(map(is_attribution, e["metrics"]))} == {"evaluate"}
    plain = federate(override(asked, evaluation__attributions=False), sites=large)
    assert plain.model_bytes == run.model_bytes
    assert plain.results["attributions"] is None
    again = federate(asked, sites=large)
    assert again.results["attributions"] == run.results["attributions"]


def test_a_hospital_without_captum_tells_them_all_the_same(
    run: Federation,
    federate: Federate,
    asked: Study,
    large: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)
    without = federate(asked, sites=large)
    assert without.results["attributions"] == run.results["attributions"]


@pytest.mark.threat("S0-2")
def test_a_policy_may_keep_them(federate: Federate, asked: Study, tmp_path: Path) -> None:
    effects = [SiteEffects(name=name, num_patients=120) for name in "ab"]
    write_cohort(asked, effects, tmp_path / "sites", seed=1)
    file = tmp_path / "sites" / "a" / "site.toml"
    text = file.read_text().replace("[policy]", '[policy]\nmetrics = ["num_patients", "confusion"]')
    file.write_text(text)
    kept = federate(asked, sites=tmp_path / "sites")
    told = kept.results["attributions"]["outcomes"]["event"]["features"]
    assert {site for entry in told for site in entry["sites"]} == {"b"}


def test_both_reports_tell_of_them(run: Federation) -> None:
    for name in ("report.html", "report.md"):
        text = (run.folder / name).read_text(encoding="utf-8")
        assert "rest on" in text
        assert "age_years" in text

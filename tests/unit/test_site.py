"""The door: what an accepted task gets, from which patients, and for which studies a site opens."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from client.site import Site
from common.arrays import Arrays
from common.errors import DataError, RefusalCode, SiteConfigError
from common.messages import TaskKind
from common.metrics.evaluation import from_flat, statistics_of
from common.models.patient_model import PatientModel, state_of, trainable_manifest
from common.study_file import override, study_to_toml
from tests.unit.builders import task_of
from tests.unit.consortium import join, signed
from tests.unit.site_cases import audit_of, content_of

# What an accepted task gets.


def test_an_enrolment_is_answered_with_counts_and_moments(open_site, site_dir, tiny_study) -> None:
    reply = open_site(site_dir).answer(task_of(tiny_study, TaskKind.ENROL))
    assert (reply.status, reply.site, reply.nonce) == ("ok", "alpha", "nonce")
    assert reply.counts == {"patients": 45, "labs": 45, "lifestyle": 45, "event": 45}
    assert reply.arrays is not None
    assert reply.arrays.unpack()["labs.count"].tolist() == [45, 45]


def test_under_public_ranges_an_enrolment_sends_no_statistic(
    open_site, site_dir, tiny_study
) -> None:
    study = override(tiny_study, normalisation__method="public_range")
    reply = open_site(site_dir, study).answer(task_of(study, TaskKind.ENROL))
    assert (reply.status, reply.arrays, reply.metrics) == ("ok", None, {})


def test_a_training_task_is_answered_with_an_update_and_the_evaluation_of_what_it_carried(
    open_site, site_dir, tiny_study
) -> None:
    site = open_site(site_dir)
    trained = site.answer(task_of(tiny_study))
    evaluated = site.answer(task_of(tiny_study, TaskKind.EVALUATE))
    assert trained.arrays is not None
    assert trained.arrays.manifest == trainable_manifest(PatientModel(tiny_study))
    assert np.abs(trained.arrays.flat).max() > 0
    assert set(trained.metrics) - set(evaluated.metrics) == {"seconds_training"}
    assert content_of(trained)[2] == content_of(evaluated)[2]
    assert evaluated.metrics["event.num_patients"] == (15.0,)


def test_the_same_task_gets_the_same_answer_whatever_came_between(
    open_site, site_dir, tiny_study
) -> None:
    site = open_site(site_dir)
    first = site.answer(task_of(tiny_study))
    state = state_of(PatientModel(tiny_study))
    other = Arrays(manifest=state.manifest, flat=state.flat * 2)
    site.answer(task_of(tiny_study, round=1, arrays=other))
    site.answer(task_of(tiny_study, TaskKind.EVALUATE, arrays=other))
    assert content_of(site.answer(task_of(tiny_study))) == content_of(first)
    assert content_of(open_site(site_dir).answer(task_of(tiny_study))) == content_of(first)


def test_another_round_or_site_name_trains_with_another_seed(
    open_site, site_dir, new_site, tiny_study
) -> None:
    first = content_of(open_site(site_dir).answer(task_of(tiny_study)))
    assert content_of(open_site(site_dir).answer(task_of(tiny_study, round=1))) != first
    assert content_of(open_site(new_site(name="beta")).answer(task_of(tiny_study))) != first


def test_a_site_without_held_out_patients_trains_and_sends_no_metrics(
    open_site, new_site, patients, tiny_study
) -> None:
    site = open_site(new_site(patients().assign(split="train")))
    reply = site.answer(task_of(tiny_study))
    assert reply.status == "ok"
    assert reply.arrays is not None
    assert all(name.startswith("seconds") for name in reply.metrics)


def test_a_site_with_one_class_trains_and_its_auroc_is_undefined(
    open_site, new_site, patients, tiny_study
) -> None:
    reply = open_site(new_site(patients().assign(event=1))).answer(task_of(tiny_study))
    assert reply.status == "ok"
    sums = from_flat(tiny_study, reply.metrics)["event"]
    metrics = statistics_of(tiny_study)["event"].metrics_of(sums)
    assert metrics["auroc"] is None
    assert metrics["accuracy"] is not None


# Training uses no held-out patient, and evaluation no training patient.


def changed(table: pd.DataFrame, part: str) -> pd.DataFrame:
    """The same patients, with everything about those of one part changed."""
    other = table.copy()
    rows = other["split"] == part
    other.loc[rows, "event"] = 1 - other.loc[rows, "event"]
    other.loc[rows, "age_years"] = 119 - other.loc[rows, "age_years"]
    other.loc[rows, "cholesterol_mg_dl"] = 60
    other.loc[rows, "vessels"] = (other.loc[rows, "vessels"] + 1) % 3
    other.loc[rows, "steps_per_day"] = 1
    return other


def test_training_uses_no_held_out_patient(open_site, new_site, patients, tiny_study) -> None:
    replies = [
        open_site(new_site(table)).answer(task_of(tiny_study, kind))
        for table in (patients(), changed(patients(), "test"))
        for kind in (TaskKind.ENROL, TaskKind.TRAIN)
    ]
    enrolled, trained, enrolled_again, trained_again = map(content_of, replies)
    assert enrolled == enrolled_again
    assert trained[3] == trained_again[3]
    assert trained[2] != trained_again[2]


def test_evaluation_uses_no_training_patient(open_site, new_site, patients, tiny_study) -> None:
    replies = [
        open_site(new_site(table)).answer(task_of(tiny_study))
        for table in (patients(), changed(patients(), "train"))
    ]
    one, other = map(content_of, replies)
    assert one[2] == other[2]
    assert one[3] != other[3]


# Opening.


@pytest.mark.threat("S1-1")
def test_a_real_site_answers_for_the_studies_that_it_has_accepted_and_no_other(
    new_site, tiny_study
) -> None:
    other = override(tiny_study, training__rounds=9)
    folder = new_site(policy={"accepted_studies": [tiny_study.hash]})
    studies = folder.parent / "state" / "alpha" / "studies"
    studies.mkdir(parents=True)
    (studies / f"{tiny_study.hash}.toml").write_text(study_to_toml(tiny_study))
    join(folder)
    site = Site.open(folder)
    assert site.answer(signed(task_of(tiny_study))).status == "ok"
    assert site.answer(signed(task_of(other))).status == RefusalCode.STUDY_NOT_ACCEPTED
    lines = audit_of(folder.parent / "state" / "alpha")
    assert [line["status"] for line in lines] == ["ok", "study_not_accepted"]


@pytest.mark.threat("S1-1")
def test_an_accepted_study_that_was_changed_afterwards_stops_the_site(new_site, tiny_study) -> None:
    folder = new_site(policy={"accepted_studies": [tiny_study.hash]})
    studies = folder.parent / "state" / "alpha" / "studies"
    studies.mkdir(parents=True)
    changed_study = override(tiny_study, training__local_epochs=50)
    (studies / f"{tiny_study.hash}.toml").write_text(study_to_toml(changed_study))
    join(folder)
    with pytest.raises(SiteConfigError, match="found another study under its name"):
        Site.open(folder)


def test_a_site_that_has_accepted_nothing_refuses_everything(new_site, tiny_study) -> None:
    folder = new_site()
    join(folder)
    site = Site.open(folder)
    assert site.answer(signed(task_of(tiny_study))).status == RefusalCode.STUDY_NOT_ACCEPTED


def test_a_site_with_unusable_data_does_not_start(open_site, new_site, patients) -> None:
    with pytest.raises(DataError, match="column age_years"):
        open_site(new_site(patients().assign(age_years="old")))


# Devices.


def test_a_gpu_that_is_not_there_is_one_clear_error(open_site, new_site) -> None:
    with pytest.raises(SiteConfigError, match=f"cuda:7.*found ({torch.cuda.device_count()}|none)"):
        open_site(new_site(site={"device": "cuda:7"}))


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_site_trains_where_its_file_says(open_site, new_site, tiny_study, device: str) -> None:
    site = open_site(new_site(site={"device": device}))
    assert site.answer(task_of(tiny_study)).status == "ok"
    is_gpu = device == "auto" and torch.cuda.is_available()
    (work,) = site._works.values()
    assert work.prepared.train.device.type == ("cuda" if is_gpu else "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_site_on_a_gpu_answers_close_to_one_on_the_cpu(
    new_site, tiny_study, tmp_path: Path
) -> None:
    replies = []
    for device in ("cpu", "cuda:0"):
        folder = new_site(site={"device": device})
        site = Site.simulated(folder, tiny_study, state_dir=tmp_path / device)
        replies.append(site.answer(task_of(tiny_study)))
    on_cpu, on_gpu = (reply.arrays for reply in replies)
    assert on_cpu is not None
    assert on_gpu is not None
    assert np.allclose(on_cpu.flat, on_gpu.flat, rtol=1e-3, atol=1e-4)
    assert replies[0].counts == replies[1].counts
    confusions = [reply.metrics["event.confusion"] for reply in replies]
    assert confusions[0] == pytest.approx(confusions[1], abs=1)

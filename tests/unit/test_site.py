"""The door: it never raises, refuses before it works, and writes before it lets anything out."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import client.site
import client.work
from client.site import Site
from common.arrays import Arrays, Block
from common.code_version import code_fingerprint
from common.errors import DataError, RefusalCode, SiteConfigError
from common.metrics.evaluation import from_flat, statistics_of
from common.models.patient_model import PatientModel, state_of, trainable_manifest
from common.study import Study
from common.study_file import override, study_to_toml
from common.wire import Reply, Task, TaskKind, reply_from_records, reply_to_records
from tests.unit.builders import task_of
from tests.unit.consortium import join, signed

CANARY = "Qx-Mrs-Miller-1943-zK"


@pytest.fixture(scope="session")
def site_dir(new_site) -> Path:
    return new_site()


@pytest.fixture
def open_site(tmp_path: Path, tiny_study: Study):
    def open_it(folder: Path, study: Study = tiny_study, **options: object) -> Site:
        return Site.simulated(folder, study, state_dir=tmp_path / "state", **options)

    return open_it


@pytest.fixture(scope="session")
def standing_site(site_dir, tiny_study, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One site for the many examples of hypothesis; an answer does not depend on those before."""
    state_dir = tmp_path_factory.mktemp("standing")
    return Site.simulated(site_dir, tiny_study, state_dir=state_dir)


def audit_of(state_dir: Path) -> list[dict]:
    text = (state_dir / "audit.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def content_of(reply: Reply) -> tuple:
    """All of a reply that does not tell how long the work took."""
    metrics = {k: v for k, v in reply.metrics.items() if not k.startswith("seconds")}
    flat = None if reply.arrays is None else reply.arrays.flat.tobytes()
    return reply.status, dict(reply.counts), metrics, flat


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


# What is refused, and that no work is done for it.


def model_arrays(study: Study, change) -> Arrays:
    state = state_of(PatientModel(study))
    return change(state)


def with_value(value: float):
    def change(state: Arrays) -> Arrays:
        flat = state.flat.copy()
        flat[3] = value
        return Arrays(manifest=state.manifest, flat=flat)

    return change


HOSTILE = {
    "another study": ({"study_hash": "0" * 64}, "study_not_accepted"),
    "no study": ({"study_hash": ""}, "study_not_accepted"),
    "other code": ({"code": "0" * 16}, "code_mismatch"),
    "a round beyond the limit": ({"round": 1001}, "round_limit"),
    "a huge round": ({"round": 10**30}, "round_limit"),
    "no arrays": ({"arrays": None}, "arrays_mismatch"),
    "a NaN": (with_value(np.nan), "arrays_not_finite"),
    "an infinity": (with_value(-np.inf), "arrays_not_finite"),
    "float64": (
        lambda s: Arrays(manifest=s.manifest, flat=s.flat.astype(np.float64)),
        "arrays_not_finite",
    ),
    "a layer more": (
        lambda s: Arrays(
            manifest=(*s.manifest, Block(name="trap", shape=(1,))),
            flat=np.append(s.flat, np.float32(0)),
        ),
        "arrays_mismatch",
    ),
    "another order": (
        lambda s: Arrays(manifest=s.manifest[::-1], flat=s.flat[::-1]),
        "arrays_mismatch",
    ),
    "the parameters without the normalisation": (
        lambda s: Arrays(manifest=(), flat=np.empty(0, dtype=np.float32)),
        "arrays_mismatch",
    ),
}


@pytest.mark.threat("S1-1", "S1-2", "S1-3", "S1-4")
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", [TaskKind.TRAIN, TaskKind.EVALUATE])
def test_a_task_that_is_not_accepted_is_refused_by_its_code_before_any_work(
    open_site, site_dir, tiny_study, monkeypatch: pytest.MonkeyPatch, name: str, kind: TaskKind
) -> None:
    change, code = HOSTILE[name]
    fields = {"arrays": model_arrays(tiny_study, change)} if callable(change) else dict(change)
    site = open_site(site_dir)

    def work(*_: object, **__: object) -> None:
        raise AssertionError("work was done for a refused task")

    monkeypatch.setattr(client.site, "load_state", work)
    for function in ("fit_intercepts", "train"):
        monkeypatch.setattr(client.work, function, work)
    reply = site.answer(task_of(tiny_study, kind, **fields))
    assert reply.status == code
    assert (reply.arrays, reply.counts, reply.metrics) == (None, {}, {})


@pytest.mark.threat("S0-1", "S1-1")
def test_a_private_policy_refuses_a_study_without_a_privacy_plan(
    open_site, new_site, tiny_study
) -> None:
    site = open_site(new_site(policy={"allow_without_privacy": False}))
    for kind in TaskKind:
        reply = site.answer(task_of(tiny_study, kind))
        assert reply.status == RefusalCode.PRIVACY_REQUIRED
        assert (reply.arrays, reply.counts, reply.metrics) == (None, {}, {})


@pytest.mark.threat("S1-1")
def test_more_steps_than_the_policy_allows_are_refused(open_site, new_site, tiny_study) -> None:
    site = open_site(new_site(policy={"max_local_steps": 2}))
    assert site.answer(task_of(tiny_study)).status == RefusalCode.STEP_LIMIT


def test_a_site_with_too_few_patients_refuses_and_tells_no_number(
    open_site, new_site, tiny_study
) -> None:
    site = open_site(new_site(policy={"min_patients": 46}))
    reply = site.answer(task_of(tiny_study, TaskKind.ENROL))
    assert reply.status == RefusalCode.TOO_FEW_PATIENTS
    assert reply.counts == {}


texts = st.text(max_size=8) | st.just("nonce")
flats = st.builds(
    lambda size, value, dtype: np.full(size, value, dtype=dtype),
    st.integers(0, 200),
    st.floats(width=32),
    st.sampled_from([np.float32, np.float64]),
)


words = st.from_regex(r"[A-Za-z0-9_-]{0,64}", fullmatch=True)


@st.composite
def any_arrays(draw, study: Study) -> Arrays | None:
    if draw(st.booleans()):
        value = draw(st.floats(width=32))
        dtype = draw(st.sampled_from([np.float32, np.float64]))
        state = state_of(PatientModel(study))
        return Arrays(manifest=state.manifest, flat=np.full(state.flat.size, value, dtype=dtype))
    flat = draw(flats)
    return Arrays(manifest=(Block(name=draw(texts), shape=(flat.size,)),), flat=flat)


@pytest.mark.threat("S1-4")
@given(data=st.data())
def test_answer_never_raises_and_is_always_a_reply_that_can_be_sent(
    standing_site, tiny_study, data: st.DataObject
) -> None:
    task = Task(
        kind=data.draw(st.sampled_from(list(TaskKind))),
        run_id=data.draw(words),
        round=data.draw(st.integers(-(2**70), 2**70) | st.integers(0, 5)),
        nonce=data.draw(words),
        study_hash=data.draw(st.just(tiny_study.hash) | texts),
        code=data.draw(st.just(code_fingerprint()) | texts),
        arrays=data.draw(st.none() | any_arrays(tiny_study)),
    )
    reply = standing_site.answer(task)
    assert reply.status == "ok" or reply.status in set(RefusalCode)
    assert (reply.kind, reply.nonce, reply.run_id) == (task.kind, task.nonce, task.run_id)
    if reply.status != "ok":
        assert (reply.arrays, reply.counts, reply.metrics) == (None, {}, {})
    if 0 <= task.round < 2**63:
        sent = reply_from_records(reply_to_records(reply))
        assert content_of(sent) == content_of(reply)


# What goes wrong inside says nothing outside.


@pytest.mark.threat("I-1")
@pytest.mark.parametrize(
    "function",
    [
        "load_state",
        "fit_intercepts",
        "evaluate",
        "train",
        "parameters_of",
        "release",
        "audit_line",
    ],
)
@pytest.mark.parametrize("fault", [ValueError, RuntimeError, KeyError, MemoryError, OSError])
def test_the_text_of_an_exception_is_neither_in_the_reply_nor_in_the_log_nor_in_the_books(
    open_site,
    site_dir,
    tiny_study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    function: str,
    fault: type[Exception],
) -> None:
    site = open_site(site_dir)

    def raising(*_: object, **__: object) -> None:
        raise fault(CANARY)

    module = client.site if hasattr(client.site, function) else client.work
    monkeypatch.setattr(module, function, raising)
    with caplog.at_level(logging.DEBUG):
        reply = site.answer(task_of(tiny_study))
    assert reply.status == RefusalCode.INTERNAL_ERROR
    assert (reply.arrays, reply.counts, reply.metrics) == (None, {}, {})
    assert fault.__name__ in caplog.text
    books = [path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    for text in (caplog.text, repr(reply), *books):
        assert CANARY not in text


def test_a_device_without_memory_is_a_code_of_its_own(
    open_site, site_dir, tiny_study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(CANARY)

    site = open_site(site_dir)
    monkeypatch.setattr(client.work, "train", full)
    reply = site.answer(task_of(tiny_study))
    assert reply.status == RefusalCode.OUT_OF_MEMORY
    assert reply.arrays is None


def test_a_fault_in_one_task_does_not_change_the_answer_to_the_next(
    open_site, site_dir, tiny_study
) -> None:
    expected = content_of(open_site(site_dir).answer(task_of(tiny_study)))
    site = open_site(site_dir)
    with pytest.MonkeyPatch.context() as patch:
        real = client.work.train

        def half_done(*args: object, **options: object) -> None:
            real(*args, **options)
            raise RuntimeError("after the model has moved")

        patch.setattr(client.work, "train", half_done)
        assert site.answer(task_of(tiny_study)).status == RefusalCode.INTERNAL_ERROR
    assert content_of(site.answer(task_of(tiny_study))) == expected


@pytest.mark.threat("C-1")
def test_an_update_that_is_not_finite_does_not_leave(open_site, site_dir, tiny_study) -> None:
    # A learning rate of 10^38 overflows in one step.
    study = override(tiny_study, training__learning_rate=1e38)
    reply = open_site(site_dir, study).answer(task_of(study))
    assert reply.status == RefusalCode.UPDATE_NOT_FINITE
    assert reply.arrays is None


def test_an_update_leaves_within_the_norm_of_the_policy(open_site, new_site, tiny_study) -> None:
    site = open_site(new_site(policy={"max_update_norm": 0.01}))
    reply = site.answer(task_of(tiny_study))
    assert reply.arrays is not None
    assert 0.0099 < float(np.linalg.norm(reply.arrays.flat.astype(np.float64))) <= 0.01


# The audit log.


def test_every_answer_has_its_line_before_it_is_returned(
    open_site, site_dir, tiny_study, tmp_path: Path
) -> None:
    site = open_site(site_dir)
    tasks = [
        task_of(tiny_study, TaskKind.ENROL),
        task_of(tiny_study),
        task_of(tiny_study, TaskKind.EVALUATE, round=1),
        task_of(tiny_study, study_hash="0" * 64),
        task_of(tiny_study, round=5000),
    ]
    for number, task in enumerate(tasks, start=1):
        reply = site.answer(task)
        lines = audit_of(tmp_path / "state")
        assert len(lines) == number
        assert lines[-1]["status"] == reply.status
        assert (lines[-1]["kind"], lines[-1]["round"]) == (task.kind.value, task.round)
        assert lines[-1]["counts"] == reply.counts
        assert lines[-1]["statistics"] == sorted(reply.metrics)
        assert (lines[-1]["sha256"] is None) == (reply.arrays is None)


@pytest.mark.threat("I-2")
@pytest.mark.parametrize("kind", list(TaskKind))
def test_nothing_leaves_if_the_audit_log_cannot_be_written(
    open_site, site_dir, tiny_study, tmp_path: Path, kind: TaskKind
) -> None:
    site = open_site(site_dir)
    (tmp_path / "state" / "audit.jsonl").mkdir(parents=True)
    reply = site.answer(task_of(tiny_study, kind))
    assert reply.status == RefusalCode.INTERNAL_ERROR
    assert (reply.arrays, reply.counts, reply.metrics) == (None, {}, {})


def test_a_fault_of_any_kind_in_the_audit_log_is_an_answer_too(
    open_site, site_dir, tiny_study, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_site(site_dir)

    def append(**_: object) -> None:
        raise ValueError(CANARY)

    site._audit.append = append
    reply = site.answer(task_of(tiny_study))
    assert reply.status == RefusalCode.INTERNAL_ERROR
    assert reply.arrays is None
    assert CANARY not in caplog.text


def test_the_audit_log_holds_the_digest_and_norm_of_what_left(
    open_site, site_dir, tiny_study, tmp_path: Path
) -> None:
    reply = open_site(site_dir).answer(task_of(tiny_study))
    assert reply.arrays is not None
    line = audit_of(tmp_path / "state")[-1]
    assert line["sha256"] == hashlib.sha256(reply.arrays.flat.tobytes()).hexdigest()
    norm = float(np.linalg.norm(reply.arrays.flat.astype(np.float64)))
    assert line["norm"] == pytest.approx(norm, abs=1e-6)
    assert line["num_elements"] == reply.arrays.flat.size


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


def test_a_reply_with_a_refusal_can_be_told_from_one_without(tiny_study, standing_site) -> None:
    reply = standing_site.answer(replace(task_of(tiny_study), code="old"))
    sent = reply_from_records(reply_to_records(reply))
    assert sent == reply

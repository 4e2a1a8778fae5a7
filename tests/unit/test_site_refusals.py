"""The door refuses before it works, by a code from the list, and never raises."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import client.site
import client.work
from common.arrays import Arrays, Block
from common.code_version import code_fingerprint
from common.errors import RefusalCode
from common.messages import Task, TaskKind
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.wire import reply_from_records, reply_to_records
from tests.unit.builders import task_of
from tests.unit.site_cases import content_of


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


def test_a_reply_with_a_refusal_can_be_told_from_one_without(tiny_study, standing_site) -> None:
    reply = standing_site.answer(replace(task_of(tiny_study), code="old"))
    sent = reply_from_records(reply_to_records(reply))
    assert sent == reply


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

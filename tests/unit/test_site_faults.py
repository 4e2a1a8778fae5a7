"""What goes wrong inside says nothing outside; nothing leaves without a line in the audit log."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import client.site
import client.work
from common.errors import RefusalCode
from common.messages import TaskKind
from common.study_file import override
from tests.unit.builders import task_of
from tests.unit.site_cases import CANARY, audit_of, content_of


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

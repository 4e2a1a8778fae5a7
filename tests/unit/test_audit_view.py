"""The view of an audit log: what left, and that every edit of the log is found.

200 random edits; 2,000 under `WARDROUND_HYPOTHESIS=full`. What finds them is the chain, the site's
public key and, for ends that were cut off, the head of the ledger that the coordinator has signed.
"""

import io
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client.audit import AuditLog, audit_line, audit_path
from client.audit_view import AuditView, renderables, view_audit
from client.chained_lines import read_lines, write_line
from client.ledger.entries import ledger_path
from client.ledger.verification import countersigned_path
from common.errors import RefusalCode, SiteConfigError
from common.messages import Reply, TaskKind
from common.receipts import Countersigned, Receipt
from common.signing import Purpose, SigningKey
from common.study import Study
from tests.unit.builders import study_of, task_of
from tests.unit.chained_edits import FOUND, Edit, Target, cut_at_a_line
from tests.unit.ledger_cases import (
    DATASET,
    countersigned,
    do_round,
    open_ledger,
    request_of,
    ticking,
)

NUM_EDITS = 2000 if os.environ.get("WARDROUND_HYPOTHESIS") == "full" else 200


class Hospital:
    """A site's state folder: a key, a ledger, an audit log, and a coordinator who signs."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.key = SigningKey.create(state / "keys" / "site.pem")
        self.coordinator = SigningKey.generate()
        self.log = AuditLog(audit_path(state), durable=False, clock=ticking(), key=self.key)
        self.study: Study = study_of()

    def answer(self, round_number: int, receipt: Receipt | None = None, **fields: Any) -> None:
        fields = {"run_id": "run-a", "nonce": "n", "site": "alpha"} | fields
        reply = Reply(kind=TaskKind.TRAIN, round=round_number, receipt=receipt, **fields)
        self.log.append(**audit_line(task_of(self.study), reply, ["counts.labs"]))

    def live(self, num_rounds: int) -> tuple[list[bytes], Countersigned]:
        """Some rounds, each countersigned with the next; the older copies of the log."""
        older = []
        with open_ledger(self.state, self.key) as ledger:
            for number in range(num_rounds):
                do_round(ledger, request_of(number), bytes([number]))
                self.answer(number, ledger.receipt(), counts={"patients": 45})
                older.append(audit_path(self.state).read_bytes())
                ledger.accept(countersigned(ledger, self.coordinator))
            self.answer(num_rounds, ledger.receipt(), run_id="run-b")
            head = countersigned(ledger, self.coordinator)
        return older, head

    def view(self, **options: Any) -> AuditView:
        return view_audit(self.state, dataset_id=DATASET, **options)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hospital, Target, Countersigned]:
    hospital = Hospital(tmp_path_factory.mktemp("state"))
    path = audit_path(hospital.state)
    hospital.answer(0)
    # A torn line, and the one that tells of it, are there too.
    path.write_bytes(path.read_bytes() + b'{"at":"2026-')
    hospital.log = AuditLog(path, durable=False, clock=ticking(), key=hospital.key)
    older, head = hospital.live(8)
    target = Target(
        purpose=Purpose.AUDIT_LINE, key=hospital.key, content=path.read_bytes(), older=older
    )
    # What the hospital itself has kept of heads is taken away: the coordinator's copy is enough.
    countersigned_path(hospital.state, DATASET).unlink()
    ledger_path(hospital.state, DATASET).unlink()
    return hospital, target, head


def text_of(view: AuditView) -> str:
    file = io.StringIO()
    console = Console(file=file, width=200)
    for part in renderables(view):
        console.print(part)
    return file.getvalue()


# What left.


def test_each_answer_is_told_in_full(hospital: Hospital) -> None:
    hospital.answer(3, counts={"patients": 45}, metrics={"event.confusion": (1.0,)})
    hospital.answer(4, status=RefusalCode.ROUND_LIMIT.value)
    first, second = hospital.view().answers
    assert (first.run_id, first.round, first.kind, first.status) == ("run-a", 3, "train", "ok")
    assert (first.counts, first.statistics) == ({"patients": 45}, ("event.confusion",))
    assert first.withheld == ("counts.labs",)
    assert (second.status, second.num_elements, second.norm) == ("round_limit", 0, None)
    text = text_of(hospital.view())
    for told in ("run-a", "event.confusion", "withheld: counts.labs", "round_limit", "whole"):
        assert told in text


def test_one_run_is_shown_and_the_whole_log_is_verified(hospital: Hospital) -> None:
    hospital.live(3)
    view = hospital.view(run_id="run-b")
    assert [answer.round for answer in view.answers] == [3]
    assert (view.num_lines, view.faults) == (4, ())
    path = audit_path(hospital.state)
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":7'))
    assert hospital.view(run_id="run-b").faults


def test_the_view_is_json(hospital: Hospital) -> None:
    hospital.live(2)
    table = json.loads(json.dumps(hospital.view().to_json()))
    assert (table["whole"], table["num_lines"], len(table["limits"])) == (True, 3, 1)


def test_what_the_coordinator_wrote_cannot_draw_on_a_terminal(hospital: Hospital) -> None:
    hospital.answer(0, run_id="\x1b[2J\x1b[31mx\nchain is whole [green]ok[/]\u202e")
    text = text_of(hospital.view())
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[green]ok" in text


def test_a_log_that_is_not_there_or_unreadable_says_so(tmp_path: Path) -> None:
    for make in (lambda: None, lambda: audit_path(tmp_path).mkdir()):
        make()
        with pytest.raises(SiteConfigError, match="audit log"):
            view_audit(tmp_path, dataset_id=DATASET)


def test_a_simulations_log_needs_no_key_and_says_what_that_means(tmp_path: Path) -> None:
    AuditLog(audit_path(tmp_path), durable=False).append(
        **audit_line(task_of(study_of()), _refusal(), [])
    )
    view = view_audit(tmp_path, dataset_id=DATASET, is_simulated=True)
    assert (view.faults, view.is_signed) == ((), False)
    assert any("no line is signed" in limit for limit in view.limits())


def test_a_real_sites_log_without_signatures_is_a_fault(hospital: Hospital) -> None:
    AuditLog(audit_path(hospital.state), durable=False).append(
        **audit_line(task_of(study_of()), _refusal(), [])
    )
    assert "not signed by the site's key" in hospital.view().faults[0]


def test_a_line_of_another_kind_is_a_fault_and_not_a_crash(hospital: Hospital) -> None:
    wrongs = [{"norm": "x"}, {"round": True}, {"receipt": 3}, {"counts": [1]}, {"at": None}]
    for wrong in [*wrongs, {"size_bytes": 1.5}, {"sha256": 3}, {"study_hash": None}]:
        fields = audit_line(task_of(study_of()), _refusal(), []) | {"at": "2026"} | wrong
        piece, _ = write_line(
            fields, after=None, torn=b"", purpose=Purpose.AUDIT_LINE, key=hospital.key
        )
        audit_path(hospital.state).write_bytes(piece)
        assert "not one of this version" in hospital.view().faults[0]


def _refusal() -> Reply:
    return Reply(kind=TaskKind.TRAIN, run_id="r", round=0, nonce="", site="alpha", status="x")


# That it is what was written.


@pytest.mark.threat("I-2")
@pytest.mark.parametrize("edit", [*FOUND, cut_at_a_line], ids=lambda edit: edit.__name__)
def test_every_edit_is_found(lived: tuple[Hospital, Target, Countersigned], edit: Edit) -> None:
    hospital, target, head = lived
    source = random.Random(edit.__name__)
    public_key = hospital.key.public_key
    for number in range(-(-NUM_EDITS // (len(FOUND) + 1))):
        edited = edit(target, source)
        if edited == target.content:
            continue
        audit_path(hospital.state).write_bytes(edited)
        view = hospital.view(public_key=public_key, last_countersigned=head)
        assert view.faults, number
        assert audit_path(hospital.state).read_bytes() == edited, "the view changes nothing"


def test_an_unedited_log_has_no_fault(lived: tuple[Hospital, Target, Countersigned]) -> None:
    hospital, target, head = lived
    audit_path(hospital.state).write_bytes(target.content)
    view = hospital.view(last_countersigned=head)
    assert (view.faults, view.num_repairs, view.is_signed) == ((), 1, True)
    assert view.checked_against == head.seq
    assert hospital.view().faults == ()


def test_without_a_head_a_cut_end_is_not_found_and_the_view_says_so(
    lived: tuple[Hospital, Target, Countersigned],
) -> None:
    hospital, target, _ = lived
    audit_path(hospital.state).write_bytes(target.older[3])
    view = hospital.view()
    assert view.faults == ()
    assert "a cut end would not be seen" in view.limits()[0]
    assert "a cut end would not be seen" in text_of(view)


@pytest.mark.threat("I-2")
def test_the_sites_own_ledger_finds_a_cut_end(hospital: Hospital) -> None:
    older, _ = hospital.live(5)
    assert hospital.view().faults == ()
    audit_path(hospital.state).write_bytes(older[-2])
    (fault,) = hospital.view().faults
    assert "its end was cut off" in fault
    assert "NOT what was written" in text_of(hospital.view())


def test_answers_after_the_newest_head_may_be_missing_and_the_view_says_so(
    hospital: Hospital,
) -> None:
    older, _ = hospital.live(5)
    audit_path(hospital.state).write_bytes(older[-1])
    view = hospital.view()
    assert view.faults == ()
    assert f"entry {view.checked_against}" in view.limits()[0]
    assert "could be cut unseen" in view.limits()[0]


def test_a_forged_head_is_a_fault(hospital: Hospital) -> None:
    _, head = hospital.live(2)
    forged = replace(head, signature=head.site_signature)
    assert "false signature" in hospital.view(last_countersigned=forged).faults[0]


def test_a_ledger_that_cannot_be_asked_is_a_fault(hospital: Hospital) -> None:
    hospital.live(2)
    countersigned_path(hospital.state, DATASET).write_bytes(b"{}")
    assert "the ledger cannot be asked" in hospital.view().faults[0]


def test_a_torn_end_is_a_fault_until_the_site_has_told_of_it(hospital: Hospital) -> None:
    hospital.live(2)
    path = audit_path(hospital.state)
    path.write_bytes(path.read_bytes() + b'{"at"')
    assert "torn" in hospital.view().faults[0]
    hospital.log = AuditLog(path, durable=False, key=hospital.key)
    hospital.answer(9)
    view = hospital.view()
    assert (view.faults, view.num_repairs) == ((), 1)
    assert "torn lines, whose answers did not leave: 1" in text_of(view)


# Large logs, and what they must not hold.


def test_a_log_of_many_lines_is_one_chain() -> None:
    content, last = _many(5000)
    found = read_lines(content, purpose=Purpose.AUDIT_LINE)
    assert (found.faults, len(found.lines)) == ((), 5000)
    assert found.lines[-1].link == last


@pytest.mark.threat("I-1")
def test_a_log_holds_digests_and_no_number_of_an_update(tmp_path: Path) -> None:
    study = study_of()
    task = task_of(study)
    assert task.arrays is not None
    reply = replace(_refusal(), arrays=task.arrays, metrics={"event.loss_sum": (0.123456789,)})
    AuditLog(audit_path(tmp_path), durable=False).append(**audit_line(task, reply, []))
    said = json.loads(audit_path(tmp_path).read_text())
    # The time of day has digits of its own.
    content = json.dumps({name: value for name, value in said.items() if name != "at"})
    assert "0.123456789" not in content
    assert task.arrays.flat.tobytes().hex()[:16] not in content
    for value in task.arrays.flat[:200]:
        if abs(value) not in (0.0, 1.0):
            assert str(value) not in content


def _many(num_lines: int) -> tuple[bytes, str]:
    fields = audit_line(task_of(study_of()), _refusal(), []) | {"at": "2026"}
    pieces: list[bytes] = []
    last = None
    for _ in range(num_lines):
        piece, last = write_line(fields, after=last, torn=b"", purpose=Purpose.AUDIT_LINE, key=None)
        pieces.append(piece)
    assert last is not None
    return b"".join(pieces), last.link

"""Chained files where mutants of them had survived: a lost newline, and the stored form."""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.audit import AuditLog, audit_line
from client.chained_lines import read_lines, write_line
from common.messages import Reply, TaskKind
from common.signing import Purpose, SigningKey
from tests.unit.builders import study_of, task_of

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def test_a_line_that_lost_its_newline_alone_is_followed_by_any_number_of_lines(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path, durable=False, key=KEY).append(number=0)
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    log = AuditLog(path, durable=False, key=KEY)
    for number in (1, 2, 3):
        log.append(number=number)
    found = read_lines(path.read_bytes(), purpose=Purpose.AUDIT_LINE, public_key=KEY.public_key)
    assert found.faults_and_torn_end() == ()
    assert [line.fields["number"] for line in found.lines] == [0, 1, 2, 3]


def test_a_line_has_the_form_in_which_hospitals_keep_theirs() -> None:
    # Ed25519 has one signature for each text. Made by `write_line` on 2026-11-21; a version that
    # writes another form could not verify the books of a hospital that was there before it.
    piece, _ = write_line({"round": 3}, after=None, torn=b"", purpose=Purpose.AUDIT_LINE, key=KEY)
    assert hashlib.sha256(piece).hexdigest() == (
        "ada6dc10d58d19362ab22223a3af91dfa100af4b2d8fd836b71cb75885e9fbd0"
    )


def test_a_line_of_the_audit_log_has_these_fields() -> None:
    reply = Reply(kind=TaskKind.TRAIN, run_id="r", round=0, nonce="n", site="alpha")
    line = audit_line(task_of(study_of()), reply, [])
    assert line["site"] == "alpha"
    assert sorted(line) == [
        "counts",
        "kind",
        "nonce",
        "norm",
        "num_elements",
        "receipt",
        "round",
        "run_id",
        "sha256",
        "site",
        "size_bytes",
        "statistics",
        "status",
        "study_hash",
        "withheld",
    ]

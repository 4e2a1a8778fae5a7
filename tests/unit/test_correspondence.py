"""The coordinator's side of trust: who is asked, who is believed, and which key counts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from common import wire
from common.envelope import is_task_signed, sign_reply, sign_task
from common.errors import RefusalCode, RunError
from common.messages import OK, Reply, Task, TaskKind
from common.signing import SigningKey
from common.site_keys import SiteKeys, node_key_line
from server.app import Run
from server.correspondence import Signed, Unsigned
from server.inbox import Expected, open_reply
from server.journal import Journal, read_journal
from server.post import Post
from server.receipts import Receipts
from tests.unit.builders import HASH, instruction, study_of
from tests.unit.consortium import COORDINATOR, roster_of

NORTH, SOUTH = SigningKey.generate(), SigningKey.generate()
TASK = Task(kind=TaskKind.TRAIN, run_id="r", round=2, nonce="n", study_hash=HASH, code="c")
REFUSAL = Reply(
    kind=TaskKind.TRAIN,
    run_id="r",
    round=2,
    nonce="n",
    site="north",
    status=RefusalCode.STEP_LIMIT.value,
)


def keys_of(name: str, signing: SigningKey) -> SiteKeys:
    node = node_key_line(generate_private_key(SECP384R1()).public_key())
    return SiteKeys(name=name, signing_key=signing.public_key, node_key=node)


ROSTER = roster_of(keys_of("north", NORTH), keys_of("south", SOUTH))
# Node 3 is of a site that is not in the roster, node 4 of nobody.
SIGNED = Signed(
    key=COORDINATOR,
    roster=ROSTER,
    sites_by_node=lambda: {1: "north", 2: "south", 3: "revoked"},
)


def test_only_sites_of_the_roster_are_known() -> None:
    assert [SIGNED.site_of(n) for n in (1, 2, 3, 4)] == ["north", "south", None, None]
    assert not SIGNED.asks_strangers
    assert Unsigned().site_of(1) is None
    assert Unsigned().signing_key_of("north") is None
    assert Unsigned().asks_strangers


def test_a_reply_is_from_the_site_that_it_names_and_that_has_signed_it() -> None:
    signed = sign_reply(REFUSAL, NORTH)
    assert SIGNED.is_from(signed, "north")
    in_the_name_of_another = sign_reply(replace(REFUSAL, site="south"), NORTH)
    for reply, site in ((signed, "south"), (in_the_name_of_another, "north"), (signed, None)):
        assert not SIGNED.is_from(reply, site)
    assert not SIGNED.is_from(sign_reply(replace(REFUSAL, site="revoked"), NORTH), "revoked")


def test_the_coordinator_signs_with_the_key_that_the_roster_names() -> None:
    assert is_task_signed(SIGNED.sign(TASK), ROSTER.coordinator_key)
    assert Unsigned().sign(TASK) is TASK
    with pytest.raises(ValueError, match="coordinator's"):
        Signed(key=SigningKey.generate(), roster=ROSTER, sites_by_node=dict)


def test_one_run_has_one_key_of_the_coordinator(tmp_path: Path) -> None:
    def run(key: SigningKey | None) -> Run:
        how = {"study": study_of(), "folder": tmp_path, "engine": "superlink"}
        return Run(**how, correspondence=SIGNED, key=key)

    assert run(None).correspondence is SIGNED
    assert run(COORDINATOR).key is COORDINATOR
    with pytest.raises(RunError, match="one key of the coordinator"):
        run(SigningKey.generate())


def opened(reply: Reply, site: str | None = "north") -> tuple[Reply | None, str]:
    expected = Expected(
        task=TASK, study=study_of(), site=site, manifest=None, dtype="float32", counts=None
    )
    message = Message(wire.reply_to_records(reply), reply_to=instruction(1))
    return open_reply(message, expected, SIGNED)


FORGED: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "no signature": (lambda r: r, "not signed by the site"),
    "nothing of a signature": (
        lambda r: replace(r, signature="0" * 128),
        "not signed by the site",
    ),
    "another site's key": (lambda r: sign_reply(r, SOUTH), "not signed by the site"),
    "the coordinator's key": (lambda r: sign_reply(r, COORDINATOR), "not signed by the site"),
    "a signature of another answer": (
        lambda r: replace(sign_reply(r, NORTH), status="internal_error"),
        "not signed by the site",
    ),
    "a signature of a task": (
        lambda r: replace(r, signature=sign_task(TASK, NORTH).signature),
        "not signed by the site",
    ),
    "another site's own answer": (
        lambda r: sign_reply(replace(r, site="south"), SOUTH),
        "answers for another site",
    ),
    "an answer to an earlier task": (
        lambda r: sign_reply(replace(r, nonce="before"), NORTH),
        "answers another task",
    ),
    "an answer of an earlier round": (
        lambda r: sign_reply(replace(r, round=1), NORTH),
        "answers another task",
    ),
    "an answer in another run": (
        lambda r: sign_reply(replace(r, run_id="r1"), NORTH),
        "answers another task",
    ),
}


@pytest.mark.threat("C-3", "N-1")
@pytest.mark.parametrize("status", [OK, RefusalCode.STEP_LIMIT.value])
@pytest.mark.parametrize(("forge", "reason"), FORGED.values(), ids=FORGED)
def test_nothing_is_believed_that_the_site_has_not_signed_now(
    forge: Callable[[Reply], Reply], reason: str, status: str
) -> None:
    assert opened(forge(replace(REFUSAL, status=status))) == (None, f"rejected: {reason}")


def test_a_signed_refusal_is_told_by_its_code() -> None:
    assert opened(sign_reply(REFUSAL, NORTH)) == (None, "step_limit")


def test_a_site_may_say_that_it_could_not_read_a_task() -> None:
    status = RefusalCode.MESSAGE_MALFORMED.value
    unread = Reply(kind=TaskKind.TRAIN, run_id="", round=0, nonce="", site="north", status=status)
    assert opened(sign_reply(unread, NORTH)) == (None, status)
    assert opened(unread) == (None, "rejected: not signed by the site")


@pytest.mark.threat("C-3")
def test_a_node_of_nobody_is_not_believed() -> None:
    signed = sign_reply(REFUSAL, NORTH)
    assert opened(signed, site=None) == (None, "rejected: not signed by the site")


# The post.


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    written = Journal(tmp_path / "journal.jsonl", durable=False)
    yield written
    written.close()


def enrolments(journal: Journal, correspondence: Signed | Unsigned, *nodes: int) -> list[Message]:
    post = Post(
        study=study_of(),
        run_id="r",
        journal=journal,
        receipts=Receipts(None),
        correspondence=correspondence,
    )
    to = dict.fromkeys(nodes)
    return post.tasks(TaskKind.ENROL, round_number=0, arrays=None, to=to, returns=None)


def test_a_task_is_addressed_and_signed_from_the_enrolment_on(journal: Journal) -> None:
    messages = enrolments(journal, SIGNED, 1, 2)
    tasks = [wire.task_from_records(message.content) for message in messages]
    assert [task.site for task in tasks] == ["north", "south"]
    assert all(is_task_signed(task, COORDINATOR.public_key) for task in tasks)


def test_a_node_that_is_not_in_the_roster_is_never_asked(journal: Journal, tmp_path: Path) -> None:
    messages = enrolments(journal, SIGNED, 1, 3, 4)
    assert [message.metadata.dst_node_id for message in messages] == [1]
    events = list(read_journal(tmp_path / "journal.jsonl"))
    absent = [(e["site"], e["reason"]) for e in events if e["event"] == "absent"]
    assert absent == [("node 3", "not in the roster"), ("node 4", "not in the roster")]


def test_in_a_simulation_nobody_is_addressed_and_nothing_signed(journal: Journal) -> None:
    (message,) = enrolments(journal, Unsigned(), 7)
    task = wire.task_from_records(message.content)
    assert (task.site, task.signature) == ("", None)
    assert "signature" not in message.content

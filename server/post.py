"""The coordinator's post: tasks out, each with what an honest reply looks like; replies in.

Whatever comes back is opened here, once, and is either accepted or written to the journal as the
absence of its site, with the reason.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from flwr.app import Message

from common import wire
from common.arrays import Arrays, Manifest
from common.code_version import code_fingerprint
from common.errors import MessageError
from common.messages import Reply, Task, TaskKind
from common.study import Study
from server.correspondence import Correspondence
from server.enrolment import Enrolled
from server.inbox import SILENT, Expected, claimed_site, open_reply
from server.journal import Journal
from server.receipts import Receipts


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """A message that was sent, and what an honest reply to it looks like."""

    message: Message
    expected: Expected

    @property
    def node_id(self) -> int:
        return self.message.metadata.dst_node_id


class Post:
    """Writes the tasks of one exchange, and opens the replies to them.

    Guarantees:
        - The nonces of an exchange are in the journal before its messages are sent.
        - Every task is answered for in the journal: by its reply, or by an absence with a reason.
        - A private reply is accepted with a signed receipt alone, whose head the next task brings
          back, that of an enrolment too.
        - In a consortium, every task is addressed and signed, and a node of no site in the roster
          gets none.
    """

    def __init__(
        self,
        *,
        study: Study,
        run_id: str,
        journal: Journal,
        receipts: Receipts,
        correspondence: Correspondence,
    ) -> None:
        self._study = study
        self._receipts = receipts
        self._correspondence = correspondence
        self._run_id = run_id
        self._study_hash = study.hash
        self._journal = journal
        self._round = 0
        self._num_accepted = 0
        self._silent: set[int] = set()
        self._sent: list[_Sent] = []
        self._strangers: set[int] = set()

    def tasks(
        self,
        kind: TaskKind,
        *,
        round_number: int,
        arrays: Arrays | None,
        to: Mapping[int, Enrolled | None],
        returns: Manifest | None,
    ) -> list[Message]:
        """The messages of one exchange.

        Args:
            arrays: the model; None when enrolling.
            to: the sites by node id, None for a node that is to enrol.
            returns: the manifest of the arrays that must come back, None if none may.
        """
        self._round = round_number
        self._num_accepted = 0
        self._silent = set()
        self._sent = []
        for node_id, enrolled in to.items():
            name = self._name_of(node_id, enrolled)
            if name is None and not self._correspondence.asks_strangers:
                self._pass_over(node_id, enrolled)
                continue
            expected = Expected(
                task=self._task(kind, node_id, name, arrays),
                study=self._study,
                site=name,
                manifest=returns,
                dtype="float64" if kind is TaskKind.ENROL else "float32",
                counts=None if enrolled is None else enrolled.counts,
            )
            self._sent.append(self._sealed(expected, node_id))
        if not self._sent:
            return []
        self._journal.write(
            "asked",
            kind=kind.value,
            round=round_number,
            nonces={_name(s): s.expected.task.nonce for s in self._sent},
            bytes_down=sum(wire.num_bytes(s.message.content) for s in self._sent),
        )
        return [s.message for s in self._sent]

    @property
    def num_accepted(self) -> int:
        """How many replies of this exchange have been accepted so far."""
        return self._num_accepted

    @property
    def silent(self) -> frozenset[int]:
        """The nodes of this exchange of which nothing was heard while it was waited for."""
        return frozenset(self._silent)

    def open(self, replies: Iterable[Message]) -> Iterator[tuple[int, Reply]]:
        """Node id and reply of each site whose reply is accepted, as they come."""
        waiting = {s.message.metadata.message_id: s for s in self._sent}
        for message in replies:
            sent = waiting.pop(message.metadata.reply_to_message_id, None)
            if sent is None:
                continue
            reply, reason = open_reply(message, sent.expected, self._correspondence)
            if reply is None:
                if reason == SILENT:
                    self._silent.add(sent.node_id)
                enrolling = sent.expected.site is None
                name = claimed_site(message) if enrolling else None
                self._absent(name or _name(sent), reason)
                continue
            has_receipt = reply.receipt is not None and self._receipts.are_kept
            if has_receipt or self._study.privacy.mode == "patient":
                try:
                    self._receipts.accept(reply.site, reply.receipt)
                except MessageError:
                    self._absent(reply.site, "rejected: no receipt, or of a ledger set back")
                    continue
            self._journal.write(
                "reply",
                round=self._round,
                kind=reply.kind.value,
                site=reply.site,
                counts=dict(reply.counts),
                metrics={name: list(values) for name, values in reply.metrics.items()},
                bytes_up=wire.num_bytes(message.content),
                **({} if reply.receipt is None else {"receipt": asdict(reply.receipt)}),
            )
            self._num_accepted += 1
            yield sent.node_id, reply
        for sent in waiting.values():
            self._absent(_name(sent), "late")

    def _task(self, kind: TaskKind, node_id: int, name: str | None, arrays: Arrays | None) -> Task:
        return Task(
            kind=kind,
            run_id=self._run_id,
            round=self._round,
            nonce=secrets.token_hex(8),
            study_hash=self._study_hash,
            code=code_fingerprint(),
            site=self._correspondence.site_of(node_id) or "",
            arrays=arrays,
            ledger=None if name is None else self._receipts.last(name),
        )

    def _sealed(self, expected: Expected, node_id: int) -> _Sent:
        """The signed message of a task to a node."""
        task = expected.task
        content = wire.task_to_records(self._correspondence.sign(task))
        group = f"round-{task.round}"
        message = Message(content, node_id, task.kind.value, group_id=group)
        return _Sent(message=message, expected=expected)

    def _name_of(self, node_id: int, enrolled: Enrolled | None) -> str | None:
        """Who is asked at a node; None for nobody that is known, or nobody that is there still."""
        site = self._correspondence.site_of(node_id)
        if enrolled is None or site == enrolled.site:
            return site
        return enrolled.site if self._correspondence.asks_strangers else None

    def _pass_over(self, node_id: int, enrolled: Enrolled | None) -> None:
        """Tells of a node that gets no task: of one that never enrolled once, not in each round."""
        if enrolled is not None:
            self._absent(enrolled.site, "not in the roster")
        elif node_id not in self._strangers:
            self._strangers.add(node_id)
            self._absent(f"node {node_id}", "not in the roster")

    def _absent(self, site: str, reason: str) -> None:
        self._journal.write("absent", round=self._round, site=site, reason=reason)


def _name(sent: _Sent) -> str:
    return sent.expected.site or f"node {sent.node_id}"

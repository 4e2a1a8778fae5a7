"""A hospital in tests of faults: a connector, a site process, and the grid on which it is asked.

What a fault must not do is said here once: no other node than the one of before, nothing worked on
twice, and an answer again within a minute.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.superlink.grid import HttpGrid

from client import site_pb2
from common.wire import records_from_bytes, records_to_bytes
from server.grid import exchange
from tests.federation.deployment import until
from tests.federation.fake_site import FakeSite
from tests.federation.nodes import content

BACK_WITHIN_S = 60.0


@dataclass
class Trainer(FakeSite):
    """Answers with other arrays than it was asked: what is the same is not sent back at all."""

    def Answer(self, request: site_pb2.Envelope, context: Any) -> site_pb2.Envelope:
        super().Answer(request, context)
        return site_pb2.Envelope(records=trained(request.records), kind=request.kind)


def trained(asked: bytes) -> bytes:
    records = records_from_bytes(asked)
    flat = records["arrays"]["flat"]  # type: ignore[index]
    turned = Array(dtype=flat.dtype, shape=flat.shape, stype=flat.stype, data=flat.data[::-1])
    records["arrays"] = ArrayRecord({"flat": turned})
    return records_to_bytes(records)


def reply_to(size: int) -> RecordDict:
    return records_from_bytes(trained(records_to_bytes(content(size))))


@dataclass
class Hospital:
    """One node, the site process behind it, and the grid on which it is asked."""

    grid: HttpGrid
    site: FakeSite
    node: int
    num_sent: int = 0

    def send(self, size: int = 10, *, timeout_s: float = 60) -> Iterator[Message]:
        self.num_sent += 1
        message = Message(content(size), self.node, "train")
        return exchange(self.grid, [message], timeout_s=timeout_s)

    def reply(self, replies: Iterator[Message], size: int = 10) -> Message:
        """The one reply, asked for again where the SuperLink has lost it.

        It can, where a line held several uploads of one reply and let go of them at once. The
        coordinator's own grid asks again; Flower's does not.
        """
        (reply,) = replies
        if reply.has_error() and reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE:
            (reply,) = self.send(size)
        return reply

    def seconds_until_back(self) -> float:
        """Asks until there is an answer; fails where none comes in time."""
        started = time.monotonic()
        while time.monotonic() < started + BACK_WITHIN_S:
            for reply in self.send(timeout_s=10):
                if reply.has_content():
                    return time.monotonic() - started
            pass_time(0.2)
        raise AssertionError("the site did not come back")

    def check_whole(self) -> None:
        """There is the one node of before, and no message was worked on twice."""
        until(lambda: list(self.grid.get_node_ids()).count(self.node) == 1)
        assert len(self.site.asked) <= self.num_sent


def pass_time(seconds: float) -> None:
    """How long a fault lasts is what is tested: this is no waiting for something to happen."""
    threading.Event().wait(seconds)

"""The gRPC service in front of a site: a task in, a reply out, in bytes.

No text of a fault may reach a caller: gRPC itself would send the text of an exception, so none is
raised to it.
"""

import logging
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

import grpc

from client import site_pb2
from client.turns import Turns
from common import wire
from common.errors import MessageError
from common.memory import give_back_memory
from common.messages import Task, TaskKind
from common.wire_limits import check_bytes

if TYPE_CHECKING:
    from client.site import Site

logger = logging.getLogger(__name__)

SERVICE = "wardround.site.v1.Site"


@dataclass(kw_only=True)
class Asked:
    """A task as it came over the wire.

    gRPC holds its request until the answer is away: what is large is taken out of it, once.
    """

    records: bytes
    kind: str

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What an envelope holds."""
        envelope = site_pb2.Envelope.FromString(data)
        return cls(records=envelope.records, kind=envelope.kind)

    def take(self) -> bytes:
        """The records; from then on, they are not held here."""
        records, self.records = self.records, b""
        return records


def answer_bytes(site: "Site", records: bytes, kind: TaskKind) -> bytes:
    """The site's reply to a task, both as Flower's records in protobuf.

    What is no task, one of another kind, or larger than any task, is answered by a refusal code.
    """
    return _answer_to(site, Asked(records=records, kind=kind.value), kind)


def _answer_to(site: "Site", asked: Asked, kind: TaskKind) -> bytes:
    """As `answer_bytes`; while the site works, nothing is held but the task itself."""
    try:
        reply = site.answer(_task_of(asked.take(), kind, most_bytes=site.most_task_bytes))
    except MessageError:
        reply = site.refuse_malformed(kind)
    return wire.records_to_bytes(wire.reply_to_records(reply))


def _task_of(records: bytes, kind: TaskKind, *, most_bytes: int) -> Task:
    """The task of these records, of which nothing else is kept. Raises `MessageError`."""
    check_bytes(records, most_bytes)
    task = wire.task_from_records(wire.records_from_bytes(records))
    if task.kind is not kind:
        raise MessageError("Expected a task of the envelope's kind, found another.")
    return task


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A site that answers, and what it says of itself."""

    site: "Site"
    description: site_pb2.Description


class SiteService:
    """The gRPC service in front of a site.

    Guarantees:
        - A fault is a refusal reply, or a status code without a text.
        - Until the site is open, every call is answered UNAVAILABLE.
        - All work is done by one thread, whoever calls.
    """

    def __init__(self, turns: Turns, worker: Executor) -> None:
        self._turns = turns
        self._worker = worker
        self._opened: Opened | None = None

    def open_for(self, opened: Opened) -> None:
        """From now on, tasks are answered."""
        self._opened = opened

    def Answer(self, request: Asked, context: grpc.ServicerContext) -> Any:  # noqa: N802  # gRPC's name
        """The reply to a task."""
        opened = self._opened or _end(context, grpc.StatusCode.UNAVAILABLE)
        try:
            kind = TaskKind(request.kind)
        except ValueError:
            _end(context, grpc.StatusCode.INVALID_ARGUMENT)
        context.add_callback(self._turns.look_again)
        context.add_callback(self._tidy)
        code = self._turns.take(context.is_active)
        if code is not grpc.StatusCode.OK:
            _end(context, code)
        try:
            work = self._worker.submit(_answer_to, opened.site, request, kind)
            fault = work.exception()
        finally:
            self._turns.give_back()
        if fault is not None:
            # `Site.answer` does not raise; this is for what lies around it (no memory, say).
            logger.error("site process failed with %s", type(fault).__name__)
            _end(context, grpc.StatusCode.INTERNAL)
        return site_pb2.Envelope(records=work.result(), kind=request.kind)

    def Describe(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  # gRPC's name
        """Who answers here."""
        opened = self._opened or _end(context, grpc.StatusCode.UNAVAILABLE)
        return opened.description

    def _tidy(self) -> None:
        """Gives back what a task has left, once its reply is away: until then it is in memory."""
        with suppress(RuntimeError):  # the process is about to end
            self._worker.submit(give_back_memory)


def handler_of(service: SiteService) -> grpc.GenericRpcHandler:
    """The service as `site.proto` has it, but for how the request of a task is held."""
    answer = grpc.unary_unary_rpc_method_handler(
        service.Answer,
        request_deserializer=Asked.from_bytes,
        response_serializer=site_pb2.Envelope.SerializeToString,
    )
    describe = grpc.unary_unary_rpc_method_handler(
        service.Describe,
        request_deserializer=site_pb2.DescribeRequest.FromString,
        response_serializer=site_pb2.Description.SerializeToString,
    )
    methods = {"Answer": answer, "Describe": describe}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _end(context: grpc.ServicerContext, code: grpc.StatusCode) -> NoReturn:
    """Ends a call with a status code and no text."""
    context.abort(code, "")
    raise AssertionError  # `abort` raises, which its types do not say

"""The site process: the one program of a hospital that reads its patients' data.

It lives long, opens its site once, and answers one task at a time behind a Unix socket or loopback.
It needs no network. It must never listen to another machine, and no text of a fault may reach a
caller: gRPC itself would send the text of an exception, so none is raised to it.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from client import site_pb2
from client.agent_address import (
    Address,
    claimed,
    default_address,
    parse_address,
    share_socket,
)
from client.agent_client import MAX_MESSAGE_BYTES
from client.config import SiteConfig, load_site_config
from client.turns import Turns
from common import wire
from common.code_version import code_fingerprint
from common.errors import DataError, MessageError, SiteConfigError, WardroundError
from common.memory import give_back_memory, keep_for_good
from common.signing import SigningKey
from common.wire_limits import check_bytes

if TYPE_CHECKING:
    from client.site import Site

logger = logging.getLogger(__name__)

SERVICE = "wardround.site.v1.Site"
# Tasks that may wait while one is worked on; each holds its message in memory.
MAX_WAITING = 4
# How long a task may go on after the process was asked to end.
GRACE_S = 30.0

_NUM_THREADS = 1 + MAX_WAITING + 4  # the last for health, descriptions and refusals
_SENDING_S = 2.0
_POLL_S = 0.05
_LOOK_S = 0.5
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


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


def answer_bytes(site: "Site", records: bytes, kind: wire.TaskKind) -> bytes:
    """The site's reply to a task, both as Flower's records in protobuf.

    What is no task, one of another kind, or larger than any task, is answered by a refusal code.
    """
    return _answer_to(site, Asked(records=records, kind=kind.value), kind)


def _answer_to(site: "Site", asked: Asked, kind: wire.TaskKind) -> bytes:
    """As `answer_bytes`; while the site works, nothing is held but the task itself."""
    try:
        reply = site.answer(_task_of(asked.take(), kind, most_bytes=site.most_task_bytes))
    except MessageError:
        reply = site.refuse_malformed(kind)
    return wire.records_to_bytes(wire.reply_to_records(reply))


def _task_of(records: bytes, kind: wire.TaskKind, *, most_bytes: int) -> wire.Task:
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
            kind = wire.TaskKind(request.kind)
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


def serve(
    site_dir: Path,
    *,
    address: str | None = None,
    ready: Callable[[str], None],
    stop: threading.Event,
    drain: threading.Event | None = None,
    grace_s: float = GRACE_S,
    gpu_memory_fraction: float = 1.0,
    socket_group: str | None = None,
) -> bool:
    """Answers for the site of a folder until `stop`; whether everything begun was finished.

    Where it returns False, a task or the loading still runs in a thread: the caller must end the
    process, which gives the ledger's lock back. What the task was charged stays charged.

    Guarantees:
        - The site is opened once; ledger, noise, data and model stay in it.
        - The health service says NOT_SERVING until `ready` is called, and again from `stop` or
          `drain` on.
        - From `drain` on no task is begun, and the running one has all the time that it needs,
          unless `stop` comes.
        - At the end, the ledger is closed (unless False) and the socket is gone.

    Args:
        address: "unix:/PATH", "127.0.0.1:PORT" (0: any free port), or None for `default_address`.
        ready: called once with the address, when tasks are answered.
        stop: set to end; after `grace_s` at the latest.
        drain: set to end once the running task is done.
        grace_s: how long a task may go on after `stop`.
        gpu_memory_fraction: of the GPU that `site.toml` names, how much this process may take.
        socket_group: whose members may connect as well; None for this user alone.

    Raises:
        SiteConfigError, DataError, StudyError: the site cannot be opened, as `Site.open` says.
        SiteConfigError: the address is taken, or can be reached from elsewhere.
    """
    config = load_site_config(site_dir)
    where = parse_address(address or default_address(config.state_dir))
    turns = Turns(MAX_WAITING)
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="site")
    service = SiteService(turns, worker)
    health = HealthServicer()
    with claimed(where, group=socket_group):
        health.set("", _NOT_SERVING)
        health.set(SERVICE, _NOT_SERVING)
        server, target = _listen(where, service, health, socket_group)
        opening = worker.submit(_open, site_dir, config, gpu_memory_fraction)
        try:
            _until(opening, stop)
            if opening.done() and not stop.is_set():
                service.open_for(_result(opening))
                health.set("", _SERVING)
                health.set(SERVICE, _SERVING)
                ready(target)
                _until_told(turns, health, stop, drain or threading.Event())
        finally:
            health.enter_graceful_shutdown()
            is_finished = turns.close(timeout_s=grace_s)
            server.stop(_SENDING_S).wait()
            wait([opening], timeout=grace_s)
            worker.shutdown(wait=False, cancel_futures=True)
            is_finished = is_finished and opening.done()
            if is_finished and opening.exception() is None:
                opening.result().site.close()
    return is_finished


def serve_command(
    site_dir: Path,
    address: str | None = None,
    gpu_memory_fraction: float = 1.0,
    socket_group: str | None = None,
) -> None:
    """Runs the site process of a folder until SIGTERM or SIGINT; one line when it is ready.

    SIGHUP ends it as well, once the running task is done, however long that takes. Exit code 1
    where a task had to be given up. Logs to standard error: ids, never values.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    drain = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: drain.set())

    def ready(target: str) -> None:
        keep_for_good()
        typer.echo(f"site process of {site_dir} is ready at {target}")

    is_finished = serve(
        site_dir,
        address=address,
        ready=ready,
        stop=stop,
        drain=drain,
        gpu_memory_fraction=gpu_memory_fraction,
        socket_group=socket_group,
    )
    if not is_finished:
        logger.error("gave up what was running; a task that was charged stays charged")
        logging.shutdown()
        # Python would wait for the thread that did not end in time.
        os._exit(1)


def _listen(
    where: Address, service: SiteService, health: HealthServicer, group: str | None
) -> tuple[grpc.Server, str]:
    """A server that listens at `where`, and its address with the port that it got."""
    pool = ThreadPoolExecutor(max_workers=_NUM_THREADS, thread_name_prefix="call")
    options = (
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Else a second process could share the port, and be sent half of the tasks.
        ("grpc.so_reuseport", 0),
    )
    server = grpc.server(pool, options=options)
    server.add_generic_rpc_handlers((_handler(service),))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_insecure_port(where.target)
    except RuntimeError:
        raise SiteConfigError(
            f"Expected a free address at {where.target}, found that it cannot be used. Name "
            "another: --address 127.0.0.1:PORT or unix:/PATH."
        ) from None
    if where.path is not None:
        share_socket(where.path, group=group)
    server.start()
    return server, where.target if where.path is not None else f"{where.host}:{port}"


def _handler(service: SiteService) -> grpc.GenericRpcHandler:
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


def _open(site_dir: Path, config: SiteConfig, gpu_memory_fraction: float) -> Opened:
    """The site, open. Here torch is loaded, after the socket is there for those who ask."""
    import torch

    from client.acceptance import accepted_studies
    from client.device import device_of
    from client.site import Site

    device = device_of(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(gpu_memory_fraction, device)
    site = Site.open(site_dir)
    description = site_pb2.Description(
        site=site.name,
        code=code_fingerprint(),
        accepted_studies=sorted(accepted_studies(config)),
        public_key=SigningKey.load(config.state_dir / "keys" / "site.pem").public_key,
    )
    return Opened(site=site, description=description)


def _until(opening: "Future[Opened]", stop: threading.Event) -> None:
    """Waits until the site is open or failed to, or until `stop`."""
    while not opening.done() and not stop.wait(_POLL_S):
        pass


def _until_told(
    turns: Turns, health: HealthServicer, stop: threading.Event, drain: threading.Event
) -> None:
    """Waits until `stop`, or `drain` and nobody works any more."""
    while not stop.wait(_LOOK_S) and not drain.is_set():
        pass
    health.enter_graceful_shutdown()
    while not stop.is_set() and not turns.close(timeout_s=_POLL_S):
        pass


def _result(opening: "Future[Opened]") -> Opened:
    """The open site; what it failed with, without a text of anybody else's making."""
    fault = opening.exception()
    if fault is None or isinstance(fault, WardroundError):
        return opening.result()
    raise DataError(
        f"Expected a site that can be opened, found {type(fault).__name__}. Say wardround "
        "check-site to see what is wrong with the folder."
    ) from None


def _end(context: grpc.ServicerContext, code: grpc.StatusCode) -> NoReturn:
    """Ends a call with a status code and no text."""
    context.abort(code, "")
    raise AssertionError  # `abort` raises, which its types do not say

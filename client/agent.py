"""The site process: the one program of a hospital that reads its patients' data.

It lives long, opens its site once, and answers one task at a time behind a Unix socket or loopback.
It needs no network, and must never listen to another machine. How it answers: `agent_service`.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from client import site_pb2
from client.agent_address import Address, claimed, default_address, parse_address, share_socket
from client.agent_client import MAX_MESSAGE_BYTES
from client.agent_service import SERVICE, Opened, SiteService, handler_of
from client.config import SiteConfig, load_site_config
from client.turns import Turns
from common.code_version import code_fingerprint
from common.errors import DataError, SiteConfigError, WardroundError
from common.memory import keep_for_good
from common.signing import SigningKey

logger = logging.getLogger(__name__)

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
    server.add_generic_rpc_handlers((handler_of(service),))
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

"""What a connector holds of the site process: bytes in, bytes out, without torch and without flwr.

It must never open a site, and never speak to another machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import site_pb2, site_pb2_grpc
from client.agent_address import parse_address
from common.errors import SiteProcessError
from common.protobuf_fields import field

# 128 million float32: the largest message that either side takes.
MAX_MESSAGE_BYTES = 512 * 2**20

_ANSWER = "/wardround.site.v1.Site/Answer"
_QUICK_S = 10.0
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A hospital's http_proxy is for other machines.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC would wait for up to two minutes for a site process that is back after one second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True, kw_only=True)
class SiteDescription:
    """Who answers at the address, and for which studies."""

    site: str
    code: str
    accepted_studies: tuple[str, ...]
    public_key: str


class SiteConnection:
    """A connection to one site process. A context manager; threads may share it.

    Guarantees:
        - Importing this module loads neither torch nor flwr nor pandas.
        - A site process that was away is found again, without a new connection.
        - Every failure is a `SiteProcessError`; it says whether to try again.
    """

    def __init__(self, address: str) -> None:
        self._address = parse_address(address).target
        self._channel = grpc.insecure_channel(self._address, options=_OPTIONS)
        self._site = site_pb2_grpc.SiteStub(self._channel)
        # Takes bytes as they are: a message would be one copy of the model more.
        self._answer = self._channel.unary_unary(
            _ANSWER, response_deserializer=site_pb2.Envelope.FromString
        )
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; a task that is being worked on is finished, its reply kept."""
        self._channel.close()

    def answer(self, records: bytes, kind: str, *, timeout_s: float | None = None) -> bytes:
        """The reply to a task, both as Flower's records in protobuf.

        Args:
            kind: "query", "train" or "evaluate".
            timeout_s: how long to wait; None waits for as long as the site process lives. Training
                goes on after it, and a private study's reply is there when asked again.

        Raises:
            SiteProcessError: it is away, loads, is busy (`may_retry`), or does not take this.
        """
        parts = field(site_pb2.Envelope, "records", records)
        asked = b"".join([*parts, *field(site_pb2.Envelope, "kind", kind.encode())])
        reply = self._call(lambda: self._answer(asked, timeout=timeout_s))
        return bytes(reply.records)

    def describe(self) -> SiteDescription:
        """Who answers. Raises `SiteProcessError` as `answer` does."""
        request = site_pb2.DescribeRequest()
        said = self._call(lambda: self._site.Describe(request, timeout=_QUICK_S))
        return SiteDescription(
            site=said.site,
            code=said.code,
            accepted_studies=tuple(said.accepted_studies),
            public_key=said.public_key,
        )

    def is_serving(self, *, timeout_s: float = _QUICK_S) -> bool:
        """Whether the site has loaded its data and answers tasks; False where nobody listens."""
        try:
            return self.says_serving(timeout_s=timeout_s)
        except SiteProcessError:
            return False

    def says_serving(self, *, timeout_s: float = _QUICK_S) -> bool:
        """Whether tasks are answered, by its own word. Raises `SiteProcessError` without one."""
        request = health_pb2.HealthCheckRequest()
        said = self._call(lambda: self._health.Check(request, timeout=timeout_s))
        return bool(said.status == health_pb2.HealthCheckResponse.SERVING)

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except grpc.RpcError as fault:
            code = fault.code()
            # The site process sends no text; gRPC does where a message is too large, now and later.
            is_busy = code is grpc.StatusCode.RESOURCE_EXHAUSTED and not fault.details()
        except ValueError:  # what gRPC raises on a closed channel
            code, is_busy = grpc.StatusCode.CANCELLED, False
        raise SiteProcessError(
            f"Expected an answer of the site process at {self._address}, found {code.name}. Look "
            "whether `wardround site serve` runs, and into its log.",
            may_retry=is_busy or code is grpc.StatusCode.UNAVAILABLE,
        )


def connect(address: str) -> SiteConnection:
    """A connection to the site process at `address`, which need not be there yet.

    Raises:
        SiteConfigError: the address is neither a Unix socket nor loopback.
    """
    return SiteConnection(address)

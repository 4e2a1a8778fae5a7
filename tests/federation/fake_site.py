"""A site process that knows no medicine: it answers what it is asked, or waits, or is away."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from client import site_pb2, site_pb2_grpc
from client.agent_client import MAX_MESSAGE_BYTES

_OPTIONS = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES))


@dataclass
class FakeSite(site_pb2_grpc.SiteServicer):
    """Echoes; `gate` holds answers back, `asked` counts them."""

    gate: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    port: int = 0
    server: grpc.Server | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "FakeSite":
        self.server = grpc.server(ThreadPoolExecutor(4), options=_OPTIONS)
        site_pb2_grpc.add_SiteServicer_to_server(self, self.server)
        health = HealthServicer()
        health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()
        return self

    def stop(self) -> None:
        self.gate.set()
        if self.server is not None:
            self.server.stop(None).wait(10)
            self.server = None

    def Answer(self, request: site_pb2.Envelope, context: Any) -> site_pb2.Envelope:
        self.asked.append(request.kind)
        self.gate.wait(60)
        return request

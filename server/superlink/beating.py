"""The heartbeat of a run's task: without it, Flower gives the task up."""

import threading
from contextlib import suppress
from pathlib import Path

import httpx
from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor

from server.superlink.http import Patient
from server.superlink.runtime import runtime
from server.superlink.tls import tls_of

# Flower gives a task up after 60 s without one.
_BEAT_S = 5.0


class Beating(threading.Thread):
    """Tells the SuperLink that the task lives. What it answers is for the grid's calls to find."""

    def __init__(self, address: str, ca: Path, token: str) -> None:
        super().__init__(name="task heartbeat", daemon=True)
        self._patient = Patient(tls_of(ca), patience_s=0.0)
        self._client = runtime(address, RuntimeTokenHttpInterceptor(token=token), self._patient)
        self._end = threading.Event()

    def run(self) -> None:
        """Beats until it is ended."""
        while not self._end.wait(_BEAT_S):
            with suppress(httpx.HTTPError, ValueError):
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    def end(self) -> None:
        """Stops; waits for a beat that is on its way."""
        self._end.set()
        if self.is_alive():
            self.join()
        self._client.close()
        self._patient.close()

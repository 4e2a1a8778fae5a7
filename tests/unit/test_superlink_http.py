"""A request to a SuperLink that is away is sent again, and its return is told once."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import certifi
import httpx
import pytest
from flwr.supercore.protobuf.client import ProtobufRequestContext
from google.protobuf.empty_pb2 import Empty

from server.superlink.control import Seen
from server.superlink.http import Patient
from server.superlink.presence import ListedPresence
from server.superlink.task import SuperLinkGrid


@contextmanager
def answering(*codes: int) -> Iterator[str]:
    """The URL of a server on loopback that gives these answers, one after another."""
    left = list(codes)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(left.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: the test's output is its own."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def asked(patient: Patient, url: str) -> int:
    request = httpx.Request("POST", url)
    context = ProtobufRequestContext(rpc_method="", message=Empty(), request=request)
    return patient.intercept(context, lambda _: pytest.fail("that is Flower's own")).status_code


def test_the_return_of_a_superlink_is_told_once_for_each_time_that_it_was_away() -> None:
    returns: list[int] = []
    patient = Patient(
        ssl.create_default_context(), patience_s=10.0, on_return=lambda: returns.append(1)
    )
    with answering(200, 503, 502, 200, 200, 500, 200) as url:
        assert asked(patient, url) == 200
        assert returns == []
        assert [asked(patient, url) for _ in range(3)] == [200, 200, 200]
    patient.close()
    assert len(returns) == 2
    assert patient.outages == 2


def test_the_coordinators_grid_gives_all_nodes_time_after_an_outage() -> None:
    now_s = 0.0
    node = Seen(node_id=1, public_key=b"", is_online=True, silent_s=13.0)
    presence = ListedPresence(lambda: ((node,), datetime.now(UTC)), clock=lambda: now_s)
    ca = Path(certifi.where())
    grid = SuperLinkGrid("127.0.0.1:1", ca=ca, token=ca.name, patience_s=10.0, presence=presence)
    for now_s in range(14):  # noqa: B007  # the clock
        silent = presence.silent([1])
    assert silent == {1}
    with answering(503, 200) as url:
        assert asked(grid.patient, url) == 200
    assert presence.silent([1]) == frozenset()
    grid.patient.close()


def test_what_a_look_raises_ends_the_waiting_for_a_superlink_and_only_within_the_block() -> None:
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt

    patient = Patient(ssl.create_default_context(), patience_s=600.0)
    with answering(503, 503, 200) as url:
        with pytest.raises(KeyboardInterrupt), patient.looked_after(look):
            asked(patient, url)
        assert asked(patient, url) == 200
    patient.close()
    assert len(looks) == 3


def test_without_patience_the_first_answer_counts() -> None:
    patient = Patient(ssl.create_default_context(), patience_s=0.0)
    with answering(503) as url:
        assert asked(patient, url) == 503
    patient.close()
    assert patient.outages == 0

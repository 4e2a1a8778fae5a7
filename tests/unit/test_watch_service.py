"""The live page over HTTP: a real server on a free port of this machine, and a real browser."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import httpx
import pytest
import typer

import server.watch.service as service_module
from common.errors import RunError
from server.cli_watch import watch
from server.watch.guard import is_host_of_ours, is_loopback
from server.watch.runs import Runs, runs_to_watch
from server.watch.service import Service
from tests.unit.report_journals import plain_journal

WITHIN_S = 60.0


def write(folder: Path, num_events: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(event) + "\n" for event in plain_journal()[:num_events])
    # A journal only ever grows: whoever reads it meanwhile must not find it empty.
    (folder / "journal.new").write_text(text)
    return (folder / "journal.new").rename(folder / "journal.jsonl").parent


@contextmanager
def served(runs: Runs) -> Iterator[str]:
    ready: Queue[str] = Queue()
    service = Service(runs, host="127.0.0.1", port=0, on_ready=ready.put)
    thread = Thread(target=service.run, daemon=True)
    thread.start()
    try:
        yield ready.get(timeout=WITHIN_S)
    finally:
        service.should_exit = True
        thread.join(timeout=WITHIN_S)
        assert not thread.is_alive()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "first"


@pytest.fixture
def url(run: Path) -> Iterator[str]:
    write(run.with_name("other & old"))
    write(run)
    with served(Runs(first=run, parent=run.parent)) as address:
        yield address


def changes(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_the_page_is_of_the_run_and_names_the_others(url: str) -> None:
    page = httpx.get(url)
    assert page.status_code == 200
    assert "Finished: round 2 of 2." in page.text
    assert '<a href="/runs/other%20%26%20old">other &amp; old</a>' in page.text
    other = httpx.get(f"{url}runs/other%20%26%20old")
    assert 'data-events="/runs/other%20%26%20old/events"' in other.text
    assert "Run other &amp; old, study" in other.text


@pytest.mark.parametrize("name", ["nobody", "%2e%2e", "%2e%2e%2fsecret", "..%2f..%2fsecret"])
def test_only_runs_are_served_and_no_other_file(url: str, run: Path, name: str) -> None:
    write(run.parent.parent / "secret")
    assert httpx.get(f"{url}runs/{name}").status_code == 404
    assert httpx.get(f"{url}runs/{name}/events").status_code == 404


def test_changes_are_told_as_they_happen_from_before_the_run_began(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "coming"
    with (
        served(runs_to_watch(run, tmp_path)) as url,
        httpx.stream("GET", f"{url}runs/coming/events", timeout=WITHIN_S) as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = changes(stream)
        assert "has not begun" in next(told)["status"]
        write(run, 7)
        assert next(told)["status"] == "Running: round 0 of 2, enrolment."
        write(run)
        last = next(told)
        assert last["status"].startswith("Finished: round 2 of 2.")
        assert "AUROC of event over rounds" in last["sections"]["curves"]
        (run / "journal.jsonl").unlink()
        again = next(told)
        assert "has not begun" in again["status"]


def test_only_what_has_changed_is_sent(url: str, run: Path) -> None:
    with httpx.stream("GET", f"{url}runs/first/events", timeout=WITHIN_S) as stream:
        told = changes(stream)
        assert set(next(told)["sections"]) == {"now", "hospitals", "curves", "privacy", "part"}
        with (run / "journal.jsonl").open("a") as file:
            file.write('{"at": "2026-03-01T13:00:00.000+00:00", "event": "noticed"}\n')
        assert set(next(told)["sections"]) == {"now"}


def test_the_end_does_not_wait_for_pages_that_are_open(run: Path) -> None:
    write(run)
    ready: Queue[str] = Queue()
    service = Service(Runs(first=run), host="127.0.0.1", port=0, on_ready=ready.put)
    thread = Thread(target=service.run, daemon=True)
    thread.start()
    url = ready.get(timeout=WITHIN_S)
    with httpx.stream("GET", f"{url}runs/first/events", timeout=WITHIN_S) as stream:
        told = changes(stream)
        next(told)
        service.should_exit = True
        # The stream ends as streams do; one that is cut off would raise here.
        assert list(told) == []
    thread.join(timeout=WITHIN_S)
    assert not thread.is_alive()


def test_ctrl_c_ends_it_at_once_and_without_a_word_of_complaint(run: Path) -> None:
    write(run)
    command = "from simulations.cli import main; main()"
    watching = subprocess.Popen(
        [sys.executable, "-c", command, "watch", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    url = watching.stdout.readline().strip()
    with httpx.stream("GET", f"{url}runs/first/events", timeout=WITHIN_S) as stream:
        next(changes(stream))
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=WITHIN_S)
    assert watching.returncode == 0
    assert out == ""
    expected = ["Watching", "Ctrl-C ends it; the run goes on.", "Ended."]
    assert [line.split(" /")[0] for line in err.splitlines()] == expected


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "169.254.169.254"]
)
def test_a_foreign_host_learns_nothing(url: str, host: str) -> None:
    answer = httpx.get(url, headers={"Host": host})
    assert answer.status_code == 421
    assert "Finished" not in answer.text
    assert httpx.get(f"{url}runs/first/events", headers={"Host": host}).status_code == 421


def test_two_hosts_in_one_request_learn_nothing(url: str) -> None:
    port = int(url.rsplit(":", 1)[1].strip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n")
        assert connection.recv(64).split(b" ")[1] in (b"400", b"421")


@pytest.mark.parametrize(("host", "status"), [("evil.example", 421), ("127.0.0.1", 200)])
def test_an_upgrade_is_guarded_like_any_request(url: str, host: str, status: int) -> None:
    asked = {"Upgrade": "websocket", "Connection": "Upgrade", "Host": host}
    asked |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    answer = httpx.get(url, headers=asked)
    assert answer.status_code == status
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: "])
def test_connections_that_ask_nothing_keep_no_reader_out(
    run: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(service_module, "_IDLE_S", 0.05)
    write(run)
    with served(Runs(first=run)) as url, ExitStack() as stack:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S))
            for _ in range(service_module._MOST_CONNECTIONS)
        ]
        # Each is closed, perhaps before it has begun to ask, and nothing was said to it.
        assert [_said(connection, begun) for connection in connections] == [b""] * len(connections)
        monkeypatch.setattr(service_module, "_IDLE_S", WITHIN_S)
        assert httpx.get(url).status_code == 200


def _said(connection: socket.socket, begun: bytes) -> bytes:
    """What is answered to this; nothing where the connection is closed, however that is told."""
    try:
        connection.sendall(begun)
        return connection.recv(1)
    except ConnectionError:
        return b""


def test_a_stream_is_no_connection_that_asks_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = threading.Event()
    look = service_module.Connection._close_if_idle

    def watched(connection: service_module.Connection) -> None:
        look(connection)
        looked_at.set()

    monkeypatch.setattr(service_module, "_IDLE_S", 1.0)
    monkeypatch.setattr(service_module.Connection, "_close_if_idle", watched)
    write(run, 7)
    with (
        served(Runs(first=run)) as url,
        httpx.stream("GET", f"{url}runs/first/events", timeout=WITHIN_S) as stream,
    ):
        told = changes(stream)
        next(told)
        assert looked_at.wait(WITHIN_S)
        write(run)
        assert next(told)["status"].startswith("Finished")


def test_a_journal_that_cannot_be_read_is_told_of_and_stops_no_page(run: Path) -> None:
    write(run)
    (run.with_name("other") / "journal.jsonl").mkdir(parents=True)
    with served(Runs(first=run, parent=run.parent)) as url:
        assert httpx.get(url).status_code == 200
        told = httpx.get(f"{url}runs/other")
        assert told.status_code == 200
        assert "found: Is a directory." in told.text


def test_a_folder_whose_name_is_no_text_stops_no_page(run: Path) -> None:
    write(run)
    strange = Path(os.fsdecode(os.fsencode(run.parent) + b"/\xff"))
    try:
        write(strange)
    except OSError:
        pytest.skip("this disk takes text alone as names")
    with served(Runs(first=run, parent=run.parent)) as url:
        assert httpx.get(url).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_there_is_nothing_but_get(url: str, method: str) -> None:
    assert httpx.request(method, url).status_code == 405
    assert httpx.request(method, f"{url}runs/first/events").status_code == 405


@pytest.mark.parametrize("path", ["", "runs/nobody", "docs", "openapi.json", "runs/first"])
def test_no_other_origin_may_read_frame_or_store_an_answer(url: str, path: str) -> None:
    answer = httpx.get(url + path, headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["content-security-policy"].startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.status_code == (200 if path in ("", "runs/first") else 404)


def test_an_address_of_this_machine_is_taken_as_host_where_the_page_is_exposed() -> None:
    assert is_host_of_ours("10.0.0.5:8000", is_exposed=True)
    assert not is_host_of_ours("10.0.0.5:8000", is_exposed=False)
    assert is_host_of_ours(socket.gethostname(), is_exposed=True)
    assert not is_host_of_ours("evil.example", is_exposed=True)
    assert is_loopback("::1")
    assert not is_loopback("example.org")


def test_an_address_that_others_can_reach_has_to_be_meant(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no password"):
        watch(tmp_path, host="0.0.0.0")  # noqa: S104


def test_a_port_that_is_taken_is_told_of(run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"127.0.0.1, port {port}.*--port"):
            Service(Runs(first=run), host="127.0.0.1", port=port, on_ready=print)


def test_the_newest_run_is_watched_where_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Expected a run below"):
        runs_to_watch(None, tmp_path / "runs")
    for name in ("old", "new"):
        write(tmp_path / "runs" / name)
    (tmp_path / "runs" / "no-run").mkdir()
    journal = tmp_path / "runs" / "old" / "journal.jsonl"
    later = journal.stat().st_mtime + 10
    os.utime(journal, (later, later))
    runs = runs_to_watch(None, tmp_path / "runs")
    assert runs.names == ["old", "new"]
    assert runs.first.name == "old"
    assert runs_to_watch(tmp_path / "elsewhere", tmp_path / "runs").names == ["elsewhere"]

"""The pages and their changes over HTTP, on this machine."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated
from urllib.parse import quote

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.errors import RunError
from server.watch.frame import content_policy, page_of
from server.watch.guard import Guard, is_loopback
from server.watch.runs import Runs
from server.watch.watched import Watched

# How soon a change is seen; and how long a browser waits before it asks again.
_EVERY_S = 0.5
_RETRY_MS = 2000
# Each open page holds a connection; more of them than this are turned away.
_MOST_CONNECTIONS = 64
_END_WITHIN_S = 3
# A connection over which nothing is answered is looked at this often.
_IDLE_S = 10.0


class Connection(H11Protocol):
    """One connection, which is closed where whoever opened it asks nothing, or never ends asking.

    Guarantees:
        - Connections that ask nothing keep no reader out for longer than `_IDLE_S`.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self.loop.call_later(_IDLE_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.loop.call_later(_IDLE_S, self._close_if_idle)


def app_of(runs: Runs, ending: asyncio.Event) -> FastAPI:
    """The application: a page for each run, and a stream of what changes on it.

    Args:
        ending: set once the service is to end, so that streams do.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def run_named(name: str) -> Watched:
        watched = runs.named(name)
        if watched is None:
            raise HTTPException(status_code=404, detail="No run of this name.")
        return watched

    async def page(name: str) -> HTMLResponse:
        shown = await run_in_threadpool(run_named(name).look)
        others = [(n, _path(n)) for n in runs.names if n != name]
        html = page_of(shown, events=f"{_path(name)}/events", others=others)
        return HTMLResponse(html.encode(errors="backslashreplace"))

    @app.get("/")
    async def first() -> HTMLResponse:
        return await page(runs.first.name)

    @app.get("/runs/{name}")
    async def run(name: str) -> HTMLResponse:
        return await page(name)

    # Looked up before the stream begins: after that, there is no way to say that there is none.
    @app.get("/runs/{name}/events", response_class=EventSourceResponse)
    async def events(
        watched: Annotated[Watched, Depends(run_named)],
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in _changes(watched, ending):
            yield event

    return app


async def _changes(watched: Watched, ending: asyncio.Event) -> AsyncIterator[ServerSentEvent]:
    """What changes on the page, beginning with all of it: the reader may have an old one."""
    sent: dict[str, str] = {}
    last: dict[str, str] = {}
    while not ending.is_set():
        shown = await run_in_threadpool(watched.look)
        changed = {k: html for k, html in shown.sections.items() if sent.get(k) != html}
        told = {name: getattr(shown, name) for name in ("title", "heading", "subtitle", "status")}
        if changed or told != last:
            sent, last = sent | changed, told
            data = {**told, "sections": changed}
            yield ServerSentEvent(event="change", data=data, retry=_RETRY_MS)
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), _EVERY_S)


def _path(name: str) -> str:
    # A name that is no text, as others may give a folder, leads nowhere but stops no page.
    return f"/runs/{quote(name, safe='', errors='replace')}"


class Service(uvicorn.Server):
    """A server of the pages at one address, bound when it is made; `run` serves until it is ended.

    Guarantees:
        - Pages that are open do not hold up its end.

    Args:
        port: 0 takes one that is free.
        on_ready: told of the address, as a link, once pages can be asked for.

    Raises:
        RunError: nothing can listen there.
    """

    def __init__(
        self, runs: Runs, *, host: str, port: int, on_ready: Callable[[str], None]
    ) -> None:
        self._ending = asyncio.Event()
        self._on_ready = on_ready
        self._socket = _listening_at(host, port)
        guard = Guard(
            app_of(runs, self._ending), is_exposed=not is_loopback(host), policy=content_policy()
        )
        super().__init__(
            uvicorn.Config(
                guard,
                http=Connection,
                # An upgrade is then a request like any other, which the guard answers.
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_END_WITHIN_S,
            )
        )

    @property
    def url(self) -> str:
        """The link to the first run."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal comes, or `should_exit` is set."""
        super().run(sockets=[self._socket])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets=sockets)
        self._on_ready(self.url)

    async def main_loop(self) -> None:
        """Waits for the end, and ends the streams."""
        await super().main_loop()
        self._ending.set()


def _listening_at(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as fault:
        raise RunError(
            f"Expected to listen at {host}, port {port}, found that it cannot be done ({fault}). "
            "Name another by --host and --port; port 0 takes a free one."
        ) from None
    return listening

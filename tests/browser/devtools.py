"""A headless Chromium, spoken to by the DevTools protocol over two pipes: no library, no port."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_S = 120.0
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "about:blank",
)
# Chromium reads and writes here.
_THEIRS = (3, 4)
_FREE = 10


@dataclass(kw_only=True)
class Browser:
    """A browser that runs; each `tab` is a profile of its own, with nothing kept of the last."""

    to_it: int
    from_it: int
    _last: int = 0
    _rest: bytes = b""
    _events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """The result of a method. What happens meanwhile is kept for `events`."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self.to_it, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WAIT_S
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def events(self, session: str, method: str) -> list[dict[str, Any]]:
        """What has been told of a tab by events of this name, in order."""
        return [
            e["params"]
            for e in self._events
            if e.get("sessionId") == session and e["method"] == method
        ]

    def await_event(self, session: str, method: str) -> None:
        """Returns once there is such an event. Raises TimeoutError where none comes."""
        deadline = time.monotonic() + WAIT_S
        while not self.events(session, method):
            self._events.append(self._read(deadline))

    def forget(self, session: str) -> None:
        """Drops what has been told of a tab."""
        self._events = [e for e in self._events if e.get("sessionId") != session]

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.from_it], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError("the browser does not answer")
            piece = os.read(self.from_it, 1 << 20)
            if not piece:
                raise EOFError("the browser has ended")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    @contextmanager
    def tab(self) -> "Iterator[Tab]":
        """A tab that is open within the block."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(browser=self, session=session["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        try:
            yield tab
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


@dataclass(frozen=True, kw_only=True)
class Tab:
    """One page."""

    browser: Browser
    session: str

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method for this page."""
        return self.browser.call(method, self.session, **params)

    def open(self, url: str) -> None:
        """Goes to an address, and waits until all of it is loaded."""
        self.browser.forget(self.session)
        self.call("Page.navigate", url=url)
        self.browser.await_event(self.session, "Page.loadEventFired")

    def show(
        self, *, width: int, height: int = 900, media: str = "screen", **features: str
    ) -> None:
        """How the page is looked at: `features` are of media queries, with _ in place of -."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        told = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=told)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        made = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def press(self, key: str, code: int, *, times: int = 1) -> None:
        """A key, down and up."""
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=code,
                )

    def complaints(self) -> list[str]:
        """All that the page has said in the console, and every error."""
        told = self.browser.events(self.session, "Runtime.consoleAPICalled")
        said = [f"console.{e['type']}: {e['args']}" for e in told]
        thrown = self.browser.events(self.session, "Runtime.exceptionThrown")
        said += [e["exceptionDetails"]["text"] for e in thrown]
        entries = self.browser.events(self.session, "Log.entryAdded")
        return said + [e["entry"]["text"] for e in entries]

    def requests(self) -> list[str]:
        """The address of every request, the page's own first; what is in the page is none."""
        sent = self.browser.events(self.session, "Network.requestWillBeSent")
        urls = [e["request"]["url"] for e in sent]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self, path: Path) -> None:
        """Writes a picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip: Mapping[str, Any] = {**size, "x": 0, "y": 0, "scale": 1}
        taken = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(b64decode(taken["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser that is there within the block, and its processes after it no more."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Out of the way of the two numbers that the child must have.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FREE) for end in (theirs_in, theirs_out)]
    os.close(theirs_in)
    os.close(theirs_out)

    def as_chromium_wants() -> None:
        for end, number in zip(ends, _THEIRS, strict=True):
            os.dup2(end, number)

    process = subprocess.Popen(
        [str(CHROMIUM), f"--user-data-dir={profile}", *_OPTIONS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=as_chromium_wants,
    )
    for end in ends:
        os.close(end)
    made = Browser(to_it=ours_out, from_it=ours_in)
    try:
        yield made
    finally:
        with suppress(OSError, EOFError, TimeoutError, AssertionError):
            made.call("Browser.close")
        os.close(ours_out)
        os.close(ours_in)
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

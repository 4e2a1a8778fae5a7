"""Who may ask: readers on this machine, or those to whom the page was opened on purpose.

A page of the network that a browser on this machine has open can make that browser ask here. It
cannot read the answer, as no other origin is allowed to; and it cannot pass for this origin by
giving its own name the address of this machine (DNS rebinding), as only addresses and names of
this machine are taken in `Host`.
"""

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]
LOCAL = "localhost"


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can be reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == LOCAL:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_host_of_ours(header: str, *, is_exposed: bool) -> bool:
    """Whether a `Host` header names this machine, and not somebody's name for it.

    >>> hosts = ("127.0.0.1:8080", "[::1]", "evil.example:8080")
    >>> [is_host_of_ours(host, is_exposed=False) for host in hosts]
    [True, True, False]
    """
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    name = name.removeprefix("[").removesuffix("]").lower()
    if name == LOCAL or (is_exposed and name == socket.gethostname().lower()):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return is_exposed or address.is_loopback


class Guard:
    """Passes on what may be asked, and puts the rules of the page on every answer.

    Guarantees:
        - A request with a foreign `Host`, none, or two of them is answered with 421 and no fact.
        - Whatever is not GET is answered with 405.
        - Every answer forbids other origins to read, frame or guess at it, and is stored nowhere.
    """

    def __init__(self, app: App, *, is_exposed: bool, policy: str) -> None:
        self._app = app
        self._is_exposed = is_exposed
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-frame-options", b"DENY"),
            (b"cache-control", b"no-store"),
        ]

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in self._headers}
                kept = [h for h in message.get("headers", []) if h[0].lower() not in own]
                message = {**message, "headers": [*kept, *self._headers]}
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not is_host_of_ours(hosts[0], is_exposed=self._is_exposed):
            await _answer(guarded, 421, b"Expected the address of this machine as host.\n")
        elif scope["method"] != "GET":
            await _answer(guarded, 405, b"Expected GET.\n")
        else:
            await self._app(scope, receive, guarded)


async def _answer(send: Callable[[Message], Awaitable[None]], status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})

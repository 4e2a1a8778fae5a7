"""How the coordinator calls its SuperLink: again while it restarts, for a bounded time."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_REPEATED = frozenset({500, 502, 503, 504})
# What a SuperLink says of a message that it cannot store as it is, now or later.
_OWN_FAULT, _OWN_FAULT_PATIENCE_S = 500, 3.0
_PUSH = "/v1/runtime/push-messages"


class Patient:
    """Sends requests; one that was not answered is sent again until patience ends.

    It is the last interceptor of Flower's clients and sends in their place: their own repetition
    has no end, and ends the whole process by a signal when a token is refused.

    Guarantees:
        - A request is sent at most until `patience_s` after its first failure; then the failure is
          raised.
        - A message that the SuperLink fails to store is sent again for 3 s at the most: another
          node may be to blame, and everybody would wait.
        - No redirection is followed, and no proxy of the environment is asked: the SuperLink is
          on this machine or in its network.

    Only for requests that may be repeated. Threads may share it.

    Args:
        on_return: called once the SuperLink answers again.

    Attributes:
        patience_s: seconds for which an unanswered request is repeated.
        outages: how often the SuperLink did not answer and then did.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        patience_s: float,
        on_return: Callable[[], None] = lambda: None,
    ) -> None:
        self._http = httpx.Client(verify=tls, trust_env=False, follow_redirects=False)
        self.patience_s = patience_s
        self._on_return = on_return
        self._lock = threading.Lock()
        self._is_out = False
        self._look: Callable[[], None] = lambda: None
        self.outages = 0

    @contextmanager
    def looked_after(self, look: Callable[[], None]) -> Iterator[None]:
        """Within the block `look` is called before each request, also before it is repeated.

        Whoever waits for something asks for it again and again: what `look` raises ends that.
        """
        self._look = look
        try:
            yield
        finally:
            self._look = lambda: None

    def close(self) -> None:
        """Closes every connection."""
        self._http.close()

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """The answer to a request; `call_next`, which would be Flower's own, is not called."""
        started = time.monotonic()
        pause_s = _FIRST_PAUSE_S
        while True:
            self._look()
            response, fault = None, None
            try:
                response = self._http.send(context.request)
            except httpx.TransportError as error:
                fault = error
            if response is not None and response.status_code not in _REPEATED:
                self._answered()
                return response
            waited_s = time.monotonic() + pause_s - started
            if waited_s > self._patience_for(response) or _is_certificate(fault):
                if fault is not None:
                    raise fault
                return response  # type: ignore[return-value]  # one of both is there
            self._failed()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _patience_for(self, response: httpx.Response | None) -> float:
        if response is None or response.status_code != _OWN_FAULT:
            return self.patience_s
        is_push = response.request.url.path == _PUSH
        return min(self.patience_s, _OWN_FAULT_PATIENCE_S) if is_push else self.patience_s

    def _failed(self) -> None:
        with self._lock:
            self._is_out = True

    def _answered(self) -> None:
        with self._lock:
            was_out, self._is_out = self._is_out, False
            self.outages += was_out
        if was_out:
            self._on_return()


def _is_certificate(fault: Exception | None) -> bool:
    """Whether the server's certificate is not accepted: it will not be so later, either."""
    return fault is not None and "certificate" in str(fault).lower()

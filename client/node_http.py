"""How the connector sends a request: never redirected, and its answer bounded in size and time."""

import time
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

_MAX_RESPONSE_BYTES = 64 * 2**20  # Flower sends arrays in pieces of 5 MiB
_REQUEST_TIMEOUT_S = 60.0


class Bounded:
    """Sends requests, and reads at most so much of an answer, for at most so long.

    It is the last interceptor of Flower's client and sends in its place, because that one reads
    answers of any size, follows redirections and unpacks what a server has compressed.

    Guarantees:
        - An answer that is too long, or comes too slowly, is given up.
        - No redirection is followed.
        - A compressed answer is not unpacked.

    Attributes:
        server_date: the clock of the server, as its last answer said.
    """

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self.server_date: datetime | None = None

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """The answer to a request; `call_next`, which would be Flower's own, is not called."""
        request = context.request
        request.headers["accept-encoding"] = "identity"
        deadline = time.monotonic() + _REQUEST_TIMEOUT_S
        response = self._http.send(request, stream=True)
        content = bytearray()
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise httpx.DecodingError("expected a plain answer", request=request)
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > _MAX_RESPONSE_BYTES:
                    raise httpx.DecodingError("expected a shorter answer", request=request)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("expected a faster answer", request=request)
        finally:
            response.close()
        self.server_date = _date(response.headers.get("date", ""))
        return httpx.Response(response.status_code, content=bytes(content), request=request)


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a time zone beyond all days
        return None
    return date if date.tzinfo is not None else None

"""What it means for a node that a call to the SuperLink has failed, and no more than that.

The text of an error is the server's, and goes nowhere.
"""

from datetime import UTC, datetime

import httpx

_MOST_ERROR_CHARS = 400


class Unreachable(Exception):  # noqa: N818  # what is so, not what went wrong
    """The SuperLink did not answer, or not as one: connect anew, later.

    Attributes:
        may_have_arrived: whether the SuperLink may have done what it was asked.
    """

    def __init__(self, text: str, *, may_have_arrived: bool = True) -> None:
        super().__init__(text)
        self.may_have_arrived = may_have_arrived


class NotRecognised(Exception):  # noqa: N818
    """The SuperLink does not know this node any more: join anew."""


class Rejected(Exception):  # noqa: N818
    """The SuperLink does not want this message any more: its run has ended, for example."""


def meaning_of(response: httpx.Response, *, server_date: datetime | None) -> Exception:
    """What an HTTP error means for the node.

    Args:
        server_date: the server's clock when it answered, if it said so.
    """
    status = response.status_code
    if status == httpx.codes.UNAUTHORIZED:
        return NotRecognised(f"the SuperLink does not know this key{_skew(server_date)}")
    if status >= 500 or status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.REQUEST_TIMEOUT):
        return Unreachable(f"HTTP {status}")
    # Not before it is needed: a web server comes with it, of 18 MB.
    from flwr.supercore.error import ApiErrorCode, FlowerError

    # No more of it: a long one could be nested too deeply to be read.
    error = FlowerError.from_json(response.text[:_MOST_ERROR_CHARS])
    known = error is not None and error.code in set(ApiErrorCode)
    return Rejected(ApiErrorCode(error.code).name if error and known else f"HTTP {status}")


def _skew(server_date: datetime | None) -> str:
    """A hint where the two clocks differ by more than the SuperLink tolerates."""
    if server_date is None:
        return ""
    skew_s = (datetime.now(UTC) - server_date).total_seconds()
    return f"; this clock is {skew_s:+.0f} s off the server's" if abs(skew_s) > 4 else ""

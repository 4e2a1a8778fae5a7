"""Flower's Runtime API, as a run's task calls it, and what it means when a call fails."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from common.errors import RunError

TASK_TYPE = "flwr-serverapp"
_GONE = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})


class RunLost(Exception):  # noqa: N818  # what is so, not what went wrong
    """The SuperLink has ended this run, or has forgotten it: go on in a new one."""


class NotTaken(RunError):  # noqa: N818
    """The SuperLink fails at what it was given."""


def runtime(address: str, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
    """The calls of the SuperLink at HOST:PORT, through `interceptors`, the last of which sends."""
    versioned = RuntimeVersionHttpInterceptor(component_name=TASK_TYPE)
    return RuntimeHttpClient(f"https://{address}", interceptors=[versioned, *interceptors])


@contextmanager
def understood(address: str) -> Iterator[None]:
    """Says what a failed call means.

    Raises:
        RunLost: the SuperLink does not know the task any more.
        NotTaken: it fails at a call.
        RunError: it does not answer, or does not take a call.
    """
    try:
        yield
    except httpx.HTTPStatusError as fault:
        status = fault.response.status_code
        if status in _GONE:
            raise RunLost(
                f"the SuperLink does not know this run any more (HTTP {status})"
            ) from None
        raise (NotTaken if status == httpx.codes.INTERNAL_SERVER_ERROR else RunError)(
            f"Expected the SuperLink at {address} to take a call, found HTTP {status}. See "
            "superlink/superlink.log in the coordinator's folder."
        ) from None
    except httpx.HTTPError as fault:
        raise RunError(
            f"Expected the SuperLink to answer at {address}, found {type(fault).__name__} for as "
            "long as patience lasts. Start it by `wardround server up DIR`, and go on with "
            "--resume."
        ) from None

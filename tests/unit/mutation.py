"""Damaged files: seeded mutants of a good one, and the promise that every reader keeps for them."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from client.findings import Finding
from tests.unit.image_builders import CANARY

__all__ = ["CANARY", "assert_discreet", "mutants"]

NUM_MUTANTS = 200


def mutants(
    content: bytes, *, header: int = 400, count: int = NUM_MUTANTS, seed: int = 0
) -> Iterator[bytes]:
    """Damaged copies of a file; `header` bytes at its start are hit in every other one."""
    source = random.Random(seed)
    for number in range(count):
        operation = _OPERATIONS[number % len(_OPERATIONS)]
        end = header if source.random() < 0.5 else len(content)
        yield operation(content, min(end, len(content)), source)


def assert_discreet(
    findings: Sequence[Finding],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    *canaries: str,
) -> None:
    """No canary is in a finding, and nothing was printed or logged."""
    text = " ".join(finding.sentence() for finding in findings)
    for canary in (CANARY, *canaries):
        assert canary not in text
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


def _truncated(content: bytes, end: int, source: random.Random) -> bytes:
    return content[: source.randrange(end)]


def _flipped(content: bytes, end: int, source: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(source.randint(1, 8)):
        damaged[source.randrange(end)] ^= 1 << source.randrange(8)
    return bytes(damaged)


def _overwritten(content: bytes, end: int, source: random.Random) -> bytes:
    """A few bytes of 0x00, 0x7f or 0xff: absurd sizes, where a size stood."""
    damaged = bytearray(content)
    at = source.randrange(end)
    width = source.choice([1, 2, 4, 8])
    damaged[at : at + width] = bytes([source.choice([0, 0x7F, 0xFF])]) * width
    return bytes(damaged)


def _noisy(content: bytes, end: int, source: random.Random) -> bytes:
    at = source.randrange(end)
    length = source.randint(1, 64)
    return content[:at] + source.randbytes(length) + content[at + length :]


def _cut(content: bytes, end: int, source: random.Random) -> bytes:
    at = source.randrange(end)
    return content[:at] + content[at + source.randint(1, 100) :]


def _repeated(content: bytes, end: int, source: random.Random) -> bytes:
    at = source.randrange(end)
    length = source.randint(1, 200)
    return content[: at + length] + content[at:]


def _without_magic(content: bytes, end: int, source: random.Random) -> bytes:
    del end
    return source.randbytes(4) + content[4:]


def _of_another_encoding(content: bytes, end: int, source: random.Random) -> bytes:
    del end
    return content.decode("latin-1").encode(source.choice(["utf-16", "utf-8", "utf-32-be"]))


_OPERATIONS: tuple[Callable[[bytes, int, random.Random], bytes], ...] = (
    _truncated,
    _flipped,
    _overwritten,
    _noisy,
    _flipped,
    _cut,
    _repeated,
    _overwritten,
    _without_magic,
    _of_another_encoding,
)

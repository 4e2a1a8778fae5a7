"""Ledgers for tests: requests, charges, a clock that needs no time, and a site that dies on cue."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from client.ledger.entries import Request
from client.ledger.ledger import Ledger
from common.privacy.events import Charge, Gaussian, Part
from common.receipts import Countersigned
from common.signing import SigningKey, countersign

DATASET = "heart 2026/ward 4"
FINGERPRINT = "fe" * 32
STUDY_HASH = "5a" * 32


def ticking() -> Callable[[], datetime]:
    """A clock that is a second later each time it is asked."""
    seconds = count()
    start = datetime(2026, 3, 1, 9, tzinfo=UTC)
    return lambda: start + timedelta(seconds=next(seconds))


def request_of(
    round_number: int = 0, *, run: str = "run-a", kind: str = "train", arrays: str = "first"
) -> Request:
    return Request(
        run_id=run,
        kind=kind,
        round=round_number,
        study_hash=STUDY_HASH,
        study="heart-disease",
        arrays_digest=hashlib.sha256(arrays.encode()).hexdigest(),
    )


def training(noise: float = 1.0, rate: float = 0.1, steps: int = 10) -> tuple[Charge, ...]:
    event = Gaussian(noise_multiplier=noise, sample_rate=rate, count=steps)
    return (Charge(event=event, part=Part.TRAIN, split="split"),)


def zcdp_epsilon(charges: Sequence[Charge], delta: float) -> float:
    """A bound without amplification by sampling: cheap, and enough to test who asks when.

    Source: Bun & Steinke 2016, arXiv:1605.02065, proposition 1.3: rho + 2 sqrt(rho log(1/delta)).
    """
    events = [charge.event for charge in charges]
    if not all(isinstance(event, Gaussian) for event in events):
        return math.inf
    rho = sum(e.count / (2 * e.noise_multiplier**2) for e in events if isinstance(e, Gaussian))
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def open_ledger(state_dir: Path, key: SigningKey, **changes: Any) -> Ledger:
    """A ledger of a simulation (no waiting for the disk), unless `changes` say otherwise."""
    options: dict[str, Any] = {
        "dataset_id": DATASET,
        "cohort_size": 303,
        "simulation": True,
        "durable": False,
        "clock": ticking(),
        "accountant": zcdp_epsilon,
    }
    return Ledger.open(state_dir, key=key, **options | changes)


def reserve(ledger: Ledger, request: Request, charges: Sequence[Charge] | None = None) -> None:
    charges = training() if charges is None else charges
    ledger.reserve(request, charges, fingerprint=FINGERPRINT, source_kind="seeded")


def do_round(ledger: Ledger, request: Request, payload: bytes = b"update") -> bytes:
    """One task from reserve to send, as a site does it."""
    sealed = ledger.sealed(request)
    if sealed is None:
        reserve(ledger, request)
        ledger.seal(request, payload)
        sealed = payload
    ledger.sent(request)
    return sealed


def countersigned(ledger: Ledger, coordinator: SigningKey) -> Countersigned:
    receipt = ledger.receipt()
    return countersign(receipt, coordinator, site_key=receipt.key)


def entries_of(path: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, path.read_bytes().splitlines())

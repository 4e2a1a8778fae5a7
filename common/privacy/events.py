"""What happened, apart from what it costs: the events that a ledger stores.

An event says what a mechanism did to the patients that it looked at; `common.privacy.accounting`
says what a history of events costs. A ledger stores events and never an epsilon.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Gaussian noise on a sum over patients, `count` times; a Poisson sample of them if q < 1.

    Attributes:
        noise_multiplier: standard deviation of the noise in units of the L2 sensitivity to adding
            or removing one patient.
        sample_rate: q, the chance of each patient, independently, to be in a sum.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < float("inf"):
            raise ValueError(f"expected a noise multiplier above 0, found {self.noise_multiplier}")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"expected a sample rate in (0, 1], found {self.sample_rate}")
        if self.count < 0:
            raise ValueError(f"expected a count of 0 or more, found {self.count}")


@dataclass(frozen=True, kw_only=True)
class Unprotected:
    """Something was released without any mechanism: no bound holds from here on."""


Event = Gaussian | Unprotected


class Part(StrEnum):
    """Which patients an event looked at. Nobody is both in training and held out."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Charge:
    """An event, and whom it is charged to.

    Attributes:
        split: what decides who is held out (a digest of the study's evaluation plan, which looks at
            each patient alone): under one split, `TRAIN` and `TEST` are different patients.
    """

    event: Event
    part: Part = Part.ALL
    split: str = ""


def charge_to_json(charge: Charge) -> dict[str, Any]:
    """The charge as JSON: {"mechanism": "gaussian", "noise_multiplier": …, "part": …, …}."""
    name = type(charge.event).__name__.lower()
    return {"mechanism": name, **asdict(charge.event), "part": charge.part, "split": charge.split}


def charge_from_json(table: Mapping[str, Any]) -> Charge:
    """The inverse of `charge_to_json`.

    Raises:
        ValueError: the mechanism, a field or a value is not known.
    """
    fields = dict(table)
    kinds = {kind.__name__.lower(): kind for kind in (Gaussian, Unprotected)}
    try:
        kind = kinds[fields.pop("mechanism")]
        part, split = Part(fields.pop("part")), fields.pop("split")
        return Charge(event=kind(**fields), part=part, split=split)
    except (KeyError, TypeError) as fault:
        raise ValueError(f"expected a known event, found another ({fault})") from None

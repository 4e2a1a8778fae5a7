"""What a round cost beyond local training, from what either side wrote down. Pure functions."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of all sites.

    Attributes:
        seconds: wall time, from its first message to the checked and aggregated result.
        work: of the slowest site, the wall time within training and evaluation. Of stock Flower,
            which asks for them one after the other, the slowest training plus the slowest
            evaluation.
        num_sites: how many took part.
    """

    seconds: float
    work: float
    num_sites: int

    @property
    def overhead(self) -> float:
        """What the round cost beyond the local work."""
        return self.seconds - self.work


def rounds_of_journal(events: Iterable[Mapping[str, Any]]) -> list[Round]:
    """The rounds of one of our runs, by its journal: events of training replies and of ends."""
    work: dict[int, list[float]] = {}
    found = []
    for event in events:
        if event["event"] == "reply" and event["kind"] == "train":
            metrics = event["metrics"]
            own = metrics["seconds_evaluation"][0] + metrics["seconds_training"][0]
            work.setdefault(event["round"], []).append(own)
        elif event["event"] == "round_finished":
            # A reply tells the round that it starts from, the end the round that it reaches.
            of_sites = work[event["round"] - 1]
            found.append(
                Round(seconds=event["seconds"], work=max(of_sites), num_sites=len(of_sites))
            )
    return found


def rounds_of_stock(lines: str) -> list[Round]:
    """The rounds that `stock_app.server_app` wrote down.

    Raises:
        ValueError: a round without replies.
    """
    found = []
    for line in lines.splitlines():
        event = json.loads(line)
        training, evaluation = event["training"], event["evaluation"]
        if training is None or evaluation is None:
            raise ValueError(f"expected replies in every round, found none in {event['round']}")
        found.append(
            Round(
                seconds=event["seconds"],
                work=training["seconds"] + evaluation["seconds"],
                num_sites=min(training["num-sites"], evaluation["num-sites"]),
            )
        )
    return found


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Figures of a run; its first round, which loads libraries, is left out."""
    counted = rounds[1:]
    overheads = [one.overhead for one in counted]
    return {
        "num_rounds_measured": len(counted),
        "seconds_per_round": statistics.median(one.seconds for one in counted),
        "work_seconds": statistics.median(one.work for one in counted),
        "overhead_seconds": statistics.median(overheads),
        "overhead_seconds_min": min(overheads),
        "overhead_seconds_max": max(overheads),
        "first_round_seconds": rounds[0].seconds,
    }


def with_ratios(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each arm with stock Flower's median overhead over its own, where stock Flower was run."""
    stock = arms.get("stock")
    return {
        name: {
            **figures,
            "stock_over_this": (
                None if stock is None else stock["overhead_seconds"] / figures["overhead_seconds"]
            ),
        }
        for name, figures in arms.items()
    }

"""A metric after the last round: of all patients pooled, and how far hospitals are apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from server.report.columns import columns_of, number_of, title_of


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One metric of one outcome.

    Attributes:
        pooled: of the patients of all sites together; None where undefined or not released.
        by_site: of each site that has a value.
        num_sites: how many sites are enrolled.
    """

    metric: str
    title: str
    pooled: float | None
    by_site: Mapping[str, float]
    num_sites: int

    @property
    def text(self) -> str:
        """How far hospitals are apart, in words; empty where no two have a value."""
        values = list(self.by_site.values())
        if len(values) < 2:
            return ""
        low, high, mean, sd = (
            number_of(self.metric, v)
            for v in (min(values), max(values), fmean(values), stdev(values))
        )
        whose = f"{len(values)} of {self.num_sites}" if len(values) < self.num_sites else "all"
        return f"{mean} ± {sd} over {whose} hospitals, from {low} to {high}"


def spread_of(
    results: Mapping[str, Any], evaluated: Mapping[str, Any], outcome: str, metric: str = ""
) -> Spread:
    """The spread of `metric`, or else of the metric that headlines this kind of outcome."""
    metric = metric or columns_of(results["outcomes"][outcome])[0]
    by_site = {}
    for site, outcomes in sorted(evaluated["sites"].items()):
        value = ((outcomes or {}).get(outcome) or {}).get(metric)
        if value is not None:
            by_site[site] = value
    return Spread(
        metric=metric,
        title=title_of(metric, results["units"].get(outcome, "")),
        pooled=evaluated["pooled"][outcome].get(metric),
        by_site=by_site,
        num_sites=len(results["sites"]),
    )

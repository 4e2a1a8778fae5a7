"""What predictions rest on, in the results: of the last model, pooled and by hospital."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.metrics.attributions import (
    Column,
    attributions_from_flat,
    columns_of,
    is_attribution,
    means_of,
    score_name,
)
from common.metrics.statistics import EvaluationSums
from common.study import Study
from server.report.told import told_by_site

# So much of the size goes one way where a score is said to rise or fall with a value.
_CLEAR = 0.6

# By site, then by outcome.
AttributionSums = dict[str, dict[str, EvaluationSums]]


def attributions_of(
    rounds: Mapping[int, Mapping[str, Mapping[str, Sequence[float]]]], study: Study
) -> dict[str, Any] | None:
    """The entry of the results; None where the study does not ask for attributions.

    Args:
        rounds: the statistics that sites sent, by round and site.
    """
    if not study.evaluation.attributions:
        return None
    for number in sorted(rounds, reverse=True):
        by_site = told_by_site(
            rounds[number], study, is_told=is_attribution, read=attributions_from_flat
        )
        if any(by_site.values()):
            return {"round": number, "outcomes": _outcomes(by_site, study)}
    return {"round": None, "outcomes": {}}


def _outcomes(by_site: AttributionSums, study: Study) -> dict[str, Any]:
    told: dict[str, Any] = {}
    columns = columns_of(study)
    for name, outcome in study.outcomes.items():
        sums = {site: of_site[name] for site, of_site in by_site.items() if name in of_site}
        if not sums:
            continue
        first, *others = sums.values()
        pooled = _told_of(sum(others, start=first), columns)
        sites = {site: _told_of(of_site, columns) for site, of_site in sums.items()}
        entries = [
            {
                "granularity": column.granularity,
                "feature": column.feature,
                "pooled": pooled[f],
                "sites": {site: of[f] for site, of in sites.items() if of[f] is not None},
            }
            for f, column in enumerate(columns)
        ]
        told[name] = {
            "score": score_name(outcome),
            "granularities": [e for e in entries if e["feature"] is None],
            "features": [e for e in entries if e["feature"] is not None],
        }
    return told


def _told_of(
    sums: EvaluationSums, columns: Sequence[Column]
) -> list[dict[str, float | None] | None]:
    """The means of each column; None of one that nothing is told of."""
    means = means_of(sums)
    told: list[dict[str, float | None] | None] = []
    for f, column in enumerate(columns):
        if not means["patients"][f]:
            told.append(None)
            continue
        values = {name: _number(of[f]) for name, of in means.items() if name != "patients"}
        if not column.has_direction:
            values["direction"] = None
        told.append({"num_patients": float(means["patients"][f]), **values})
    return told


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def by_size(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are told, the largest mean size first."""
    told = [e for e in entries if e["pooled"] and e["pooled"]["mean_absolute"] is not None]
    return sorted(told, key=lambda entry: -entry["pooled"]["mean_absolute"])


def direction_text(direction: float | None) -> str:
    """How the score goes with a value, in words.

    >>> direction_text(0.9), direction_text(-0.61), direction_text(0.2), direction_text(None)
    ('rises with higher values', 'falls with higher values', 'both ways', '–')
    """
    if direction is None:
        return "–"
    if abs(direction) < _CLEAR:
        return "both ways"
    return f"{'rises' if direction > 0 else 'falls'} with higher values"


def name_of(entry: dict[str, Any]) -> str:
    """The feature, or the granularity as a whole."""
    return str(entry["feature"] or entry["granularity"])

"""Runs side by side: the settings in which they differ, and what each reached.

A pure function of their journals.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from common.errors import RunError
from common.study import Study
from server.journal import Event
from server.report.columns import columns_of, noised_number_of, number_of, title_of
from server.report.html.spread import spread_of
from server.report.privacy import cost_of, is_private
from server.report.results import results_of
from server.report.rounds import last_evaluated

_ABSENT = "–"
_LONGEST = 60
# Beside the study: what else makes two runs differ.
_OF_RUN = ("engine", "release", "code")
_METRICS = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a comparison: what it is of, and a text for each run."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The main metric of an outcome, of all patients pooled, for each run that has it.

    Attributes:
        kind: of the outcome.
        values: the metric, and the standard deviation of the noise in it, by the name of the run.
    """

    title: str
    kind: str
    values: Mapping[str, tuple[float, float | None]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several runs, in the order in which they were named.

    Attributes:
        settings: those that are not the same in all runs.
        outcomes: of each outcome, the main metrics of each run.
        headlines: of each outcome, the first of these metrics as numbers.
        warnings: why numbers of these runs may not be comparable.
    """

    runs: tuple[str, ...]
    settings: tuple[Row, ...]
    outcomes: Mapping[str, tuple[Row, ...]]
    headlines: Mapping[str, Headline]
    warnings: tuple[str, ...]


def compare(journals: Mapping[str, Sequence[Event]]) -> Comparison:
    """The comparison of runs, by the name under which each is shown.

    Raises:
        RunError: fewer than two runs, or a journal has no beginning of a run.
    """
    if len(journals) < 2:
        raise RunError(
            f"Expected at least 2 different runs to compare, found {len(journals)}. Name their "
            "folders."
        )
    results = [results_of(events) for events in journals.values()]
    by_run = dict(zip(journals, results, strict=True))
    outcomes = dict.fromkeys(name for result in results for name in result["outcomes"])
    return Comparison(
        runs=tuple(journals),
        settings=tuple(_settings(list(journals.values()), results)),
        outcomes={name: tuple(_rows(name, results)) for name in outcomes},
        headlines={name: _headline(name, by_run) for name in outcomes},
        warnings=tuple(_warnings(by_run)),
    )


def _settings(
    journals: Sequence[Sequence[Event]], results: Sequence[Mapping[str, Any]]
) -> Iterator[Row]:
    starts = [
        [e for e in events if e["event"] in ("run_started", "run_resumed")][-1]
        for events in journals
    ]
    # Validated, so that a default that is written out is the same as one that is not.
    studies = [Study.model_validate(start["study"]).model_dump(mode="json") for start in starts]
    yield from _differences("", studies)
    for name in _OF_RUN:
        yield from _differences(name, [result[name] for result in results])
    yield from _differences("hospitals", [sorted(result["sites"]) for result in results])


def _differences(name: str, values: Sequence[Any]) -> Iterator[Row]:
    """The leaves in which the values differ; a part that one of them lacks is one leaf."""
    # As text, because dicts are equal in any order, and the order of features is one of inputs.
    if len({json.dumps(value) for value in values}) == 1:
        return
    if not all(isinstance(value, dict) for value in values):
        yield Row(name=name, cells=tuple(_text(value) for value in values))
        return
    if all(value == values[0] for value in values) and any(
        list(value) != list(values[0]) for value in values
    ):
        yield Row(name=f"{name}, order", cells=tuple(_text(list(value)) for value in values))
    for key in dict.fromkeys(key for value in values for key in value):
        parts = [value.get(key) for value in values]
        yield from _differences(f"{name}.{key}" if name else key, parts)


def _text(value: Any) -> str:
    if value is None or value == [] or value == "":
        return _ABSENT
    if isinstance(value, dict):
        return "set"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _rows(outcome: str, results: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """The main metrics of an outcome: pooled, and mean ± sd, lowest and highest over sites."""
    kinds = [result["outcomes"].get(outcome) for result in results]
    # A run that calls something else by this name is not compared on its terms.
    kind = next(kind for kind in kinds if kind)
    unit = next(r["units"].get(outcome, "") for r in results if r["outcomes"].get(outcome))
    for metric in columns_of(kind)[:_METRICS]:
        cells = [
            _cells(outcome, metric, result) if found == kind else (_ABSENT, _ABSENT)
            for result, found in zip(results, kinds, strict=True)
        ]
        title = title_of(metric, unit)
        pooled, spread = zip(*cells, strict=True)
        yield Row(name=f"{title}, all pooled", cells=pooled)
        yield Row(name=f"{title}, over hospitals", cells=spread)


def _headline(outcome: str, runs: Mapping[str, dict[str, Any]]) -> Headline:
    of = next(result for result in runs.values() if result["outcomes"].get(outcome))
    kind, unit = of["outcomes"][outcome], of["units"].get(outcome, "")
    metric = columns_of(kind)[0]
    values = {}
    for name, result in runs.items():
        evaluated = last_evaluated(result)
        if evaluated is None or result["outcomes"].get(outcome) != kind:
            continue
        pooled = evaluated["pooled"][outcome]
        if pooled.get(metric) is not None:
            values[name] = pooled[metric], pooled.get(f"{metric}_noise_sd")
    return Headline(title=title_of(metric, unit), kind=kind, values=values)


def _cells(outcome: str, metric: str, result: dict[str, Any]) -> tuple[str, str]:
    evaluated = last_evaluated(result)
    if evaluated is None:
        return _ABSENT, _ABSENT
    spread = spread_of(result, evaluated, outcome, metric)
    values = list(spread.by_site.values())
    over = _ABSENT
    if len(values) > 1:
        mean, sd, low, high = (
            number_of(metric, v) for v in (fmean(values), stdev(values), min(values), max(values))
        )
        over = f"{mean} ± {sd} ({low} to {high}, {len(values)} hospitals)"
    return noised_number_of(metric, evaluated["pooled"][outcome]), over


def _warnings(runs: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Why numbers of these runs may not be comparable."""
    results = runs.values()
    if len({result["study"] for result in results}) > 1:
        yield "These runs are of different studies: patients and outcomes may not be the same."
    if len({tuple(sorted(result["sites"])) for result in results}) > 1:
        yield "Not the same hospitals took part, so held-out patients are not the same."
    for name, result in runs.items():
        if result["status"] != "finished":
            yield f"{name} is {result['status']}: its numbers are not its last."
    spent = [
        f"{name} {cost_of(max(told, default=None))}"
        for name, result in runs.items()
        if is_private(result)
        for told in [_told_costs(result)]
    ]
    if spent:
        yield f"Numbers of private runs carry noise (±). Most epsilon spent: {', '.join(spent)}."
    yield "These are single runs: a difference smaller than between two seeds is chance."


def _told_costs(result: Mapping[str, Any]) -> list[float]:
    costs = [cost["epsilon"] for cost in result["privacy"]["sites"].values()]
    return [epsilon for epsilon in costs if epsilon is not None]

"""Performance in groups of patients, such as by sex or age, beside that of hospitals."""

from math import inf, sqrt
from typing import Any

from common.metrics.intervals import auroc_error
from common.metrics.statistics import EvaluationSums, Metrics
from common.metrics.subgroups import splits_of
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.page.document import Block, Charts, Heading, Paragraph, Section, Table
from common.page.rows import Dot, dot_chart
from server.report.columns import columns_of, number_of, title_of
from server.report.html.facts import Facts
from server.report.html.spread import spread_of
from server.report.html.untold import why_untold
from server.report.rounds import last_evaluated, pooled_title

_MOST_DOTS = 40
_WHAT = (
    "How well the model does in groups of patients that the study names. A difference between "
    "groups can be chance, other patients (older, sicker), or a model that serves some worse; "
    "this table does not tell which. Many groups are compared, and some differ by chance alone."
)
_PRIVATE = (
    "The study names groups of patients. Because it protects each patient, nothing of groups was "
    "released."
)
_NONE = (
    "The study names groups of patients, and no hospital told of any: after the last round, or "
    "because its groups are too small."
)
_NOTE = (
    "A hospital tells nothing of a group of fewer patients than its policy's smallest_group, nor "
    "of one from which such a group would follow: where a group is of fewer hospitals, it may "
    "differ for that reason. Patients of whom the feature is not known are in no group. Ranks are "
    "from coarser bins than those of all patients."
)


def subgroups(results: dict[str, Any], facts: Facts) -> Section:
    """A table and a chart of hospitals and groups for each outcome.

    Guarantees:
        - Nothing of a group that no hospital told of is shown.
        - A run under privacy says that nothing was released.
    """
    blocks = why_untold(results, "subgroups", "groups", private=_PRIVATE, none=_NONE)
    if blocks is None:
        blocks = [Paragraph(text=_WHAT)]
        for outcome in results["outcomes"]:
            blocks += _of_outcome(outcome, results, facts)
    return Section(key="groups", title="Groups of patients", blocks=blocks)


def has_groups(results: dict[str, Any]) -> bool:
    """Whether anything is known of a group of patients."""
    found = results.get("subgroups") or {"groups": []}
    return any(group["pooled"] for group in found["groups"])


def _of_outcome(outcome: str, results: dict[str, Any], facts: Facts) -> list[Block]:
    groups = [g for g in results["subgroups"]["groups"] if outcome in g["pooled"]]
    evaluated = last_evaluated(results)
    if not groups or evaluated is None:
        return []
    unit = results["units"].get(outcome, "")
    columns = [
        column
        for column in columns_of(results["outcomes"][outcome])
        if any(group["pooled"][outcome].get(column) is not None for group in groups)
    ]
    rows = [
        [
            f"{group['feature']}: {group['label']}",
            str(sum(1 for told in group["sites"].values() if outcome in told)),
            *_numbers(group["pooled"][outcome], columns),
        ]
        for group in groups
    ]
    pooled = evaluated["pooled"][outcome]
    num_sites = sum(1 for told in evaluated["sites"].values() if (told or {}).get(outcome))
    blocks: list[Block] = [
        Heading(text=outcome),
        Table(
            caption=f"{outcome}: held-out patients by group",
            head=("group", "hospitals", "held out", *(title_of(c, unit) for c in columns)),
            rows=rows,
            total=(
                pooled_title(results, evaluated, outcome),
                str(num_sites),
                *_numbers(pooled, columns),
            ),
            note=_NOTE,
        ),
    ]
    return blocks + _chart(outcome, results, evaluated, facts)


def _numbers(metrics: Metrics, columns: list[str]) -> list[str]:
    return [number_of(column, metrics.get(column)) for column in ("num_patients", *columns)]


def _chart(
    outcome: str, results: dict[str, Any], evaluated: dict[str, Any], facts: Facts
) -> list[Block]:
    spread = spread_of(results, evaluated, outcome)
    about = facts.study.outcomes[outcome]
    dots = [
        Dot(
            name=site,
            value=value,
            sd=_error(value, facts.by_site.get(site, {}).get(outcome), about),
        )
        for site, value in spread.by_site.items()
    ]
    keys = [g.key for groups in splits_of(facts.study).values() for g in groups]
    for key, group in zip(keys, results["subgroups"]["groups"], strict=True):
        value = group["pooled"].get(outcome, {}).get(spread.metric)
        if value is not None:
            sd = _error(value, facts.groups.get(key, {}).get(outcome), about)
            dots.append(Dot(name=group["label"], value=value, sd=sd))
    if not 2 <= len(dots) <= _MOST_DOTS:
        return []
    lowest = min(dots, key=lambda dot: dot.value)
    highest = max(dots, key=lambda dot: dot.value)
    low, high = (number_of(spread.metric, dot.value) for dot in (lowest, highest))
    chart = dot_chart(
        f"{spread.title} of {outcome}, by hospital and by group",
        dots=dots,
        reference=spread.pooled,
        bounds=(0.0, inf if results["outcomes"][outcome] == "regression" else 1.0),
        label=f"{spread.title}; dashed: all pooled ({number_of(spread.metric, spread.pooled)})",
        description=(
            f"From {low} ({lowest.name}) to {high} ({highest.name}). Hospitals first, then groups; "
            "lines, where there are some: 95 % intervals for how few patients there are."
        ),
        rows_are="hospital or group",
        sd_is="± sd",
    )
    return [Charts(charts=[chart])]


def _error(value: float, sums: EvaluationSums | None, outcome: AnyOutcome) -> float | None:
    """How far so few patients move the main metric; None where no formula is at hand."""
    if sums is None:
        return None
    if isinstance(outcome, ClassOutcome) and outcome.kind == "binary" and sums.has("confusion"):
        negatives, positives = sums.sums["confusion"].sum(axis=1).tolist()
        return auroc_error(value, positives, negatives)
    names = ("absolute_error_sum", "squared_error_sum")
    if isinstance(outcome, RegressionOutcome) and sums.has(*names):
        n, (low, high) = sums.num_patients, outcome.range
        absolute, squared = (float(sums.sums[name]) / n for name in names)
        return (high - low) * sqrt(max(squared - absolute**2, 0.0) / n)
    return None

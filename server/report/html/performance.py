"""How well the model does: by hospital after the last round, over rounds, and beside own models."""

from collections.abc import Sequence
from math import inf
from typing import Any

from common.metrics.intervals import FEWEST
from common.page.charts import Line, calibration_chart, line_chart
from common.page.document import Block, Chart, Charts, Heading, Paragraph, Section, Table
from common.page.rows import Dot, dot_chart
from server.report.columns import (
    columns_of,
    columns_with_values,
    noised_number_of,
    number_of,
    title_of,
)
from server.report.html.calibration import calibration_bins
from server.report.html.facts import Facts
from server.report.html.spread import spread_of
from server.report.privacy import is_private
from server.report.rounds import last_evaluated, pooled_title

# More hospitals than this are told by their lowest, middle and highest value in each round.
_MOST_LINES = 12
_MOST_DOTS = 40
_NOISED = (
    "Each number carries noise for privacy; ± is the standard deviation of what the noise alone "
    "does to it. How few patients there are comes on top."
)


def by_hospital(results: dict[str, Any], facts: Facts) -> Section:
    """The newest evaluation: a table, a chart of hospitals and calibration of each outcome."""
    evaluated = last_evaluated(results)
    if evaluated is None:
        return Section(key="hospitals", title="Results by hospital", blocks=[])
    blocks: list[Block] = []
    for outcome in results["outcomes"]:
        blocks.append(Heading(text=f"{outcome}, after round {evaluated['round']}"))
        blocks.append(
            results_table(f"{outcome}: held-out patients by hospital", outcome, results, evaluated)
        )
        charts = _dots(outcome, results, evaluated) + _calibration(outcome, results, facts)
        if charts:
            blocks.append(Charts(charts=charts))
        blocks += _oracle(outcome, results, evaluated)
    return Section(key="hospitals", title="Results by hospital", blocks=blocks)


def results_table(
    caption: str, outcome: str, results: dict[str, Any], evaluated: dict[str, Any]
) -> Table:
    """One row for each hospital that was asked, and one of all patients pooled."""
    sites, pooled = evaluated["sites"], evaluated["pooled"][outcome]
    parts = [pooled, *((m or {}).get(outcome) for m in sites.values())]
    columns = columns_with_values(results, outcome, parts)
    unit = results["units"].get(outcome, "")
    rows = [
        _row(site, (sites.get(site) or {}).get(outcome), columns)
        for site in sorted({*results["sites"], *sites})
    ]
    notes = [_NOISED] if is_private(results) else []
    for bounded in ("auroc", "c_index"):
        bound = pooled.get(f"{bounded}_error_bound")
        if bound is not None:
            notes.append(
                f"The {title_of(bounded)} of all pooled is computed from counts of patients by "
                f"predicted risk, and exact to ±{bound:.4f}."
            )
    return Table(
        caption=caption,
        head=("hospital", "held out", *(title_of(column, unit) for column in columns)),
        rows=rows,
        total=_row(pooled_title(results, evaluated, outcome), pooled, columns),
        note=" ".join(notes),
    )


def _row(name: str, metrics: dict[str, float | None] | None, columns: Sequence[str]) -> list[str]:
    if metrics is None or not metrics["num_patients"]:
        is_noised = metrics is not None and "num_patients_noise_sd" in metrics
        return [name, "lost in the noise" if is_noised else "not sent", *("–" for _ in columns)]
    return [name, *(noised_number_of(column, metrics) for column in ("num_patients", *columns))]


def _dots(outcome: str, results: dict[str, Any], evaluated: dict[str, Any]) -> list[Chart]:
    spread = spread_of(results, evaluated, outcome)
    if not 2 <= len(spread.by_site) <= _MOST_DOTS:
        return []
    noise = {
        site: evaluated["sites"][site][outcome].get(f"{spread.metric}_noise_sd")
        for site in spread.by_site
    }
    pooled = number_of(spread.metric, spread.pooled)
    return [
        dot_chart(
            f"{spread.title} of {outcome}, hospital by hospital",
            dots=[Dot(name=s, value=v, sd=noise[s]) for s, v in spread.by_site.items()],
            reference=spread.pooled,
            bounds=(0.0, inf if results["outcomes"][outcome] == "regression" else 1.0),
            label=f"{spread.title}; dashed: all pooled ({pooled})",
            description=f"{spread.text}. All patients pooled: {pooled}.",
        )
    ]


def _calibration(outcome: str, results: dict[str, Any], facts: Facts) -> list[Chart]:
    kind = results["outcomes"][outcome]
    if kind not in ("binary", "multiclass") or outcome not in facts.totals:
        return []
    bins = calibration_bins(facts.totals[outcome])
    if not bins:
        return []
    farthest = max(bins, key=lambda b: abs(b.observed - b.predicted))
    whose = "of the outcome" if kind == "binary" else "of the most probable class"
    return [
        calibration_chart(
            f"Calibration of {outcome}: are probabilities {whose} what they say?",
            bins=bins,
            description=(
                "On the dashed diagonal, probabilities are what they say. Farthest from it: said "
                f"{farthest.predicted:.2f}, observed {farthest.observed:.2f}. Vertical lines: 95 % "
                f"intervals. Each point is of at least {FEWEST} patients, hospitals pooled."
            ),
        )
    ]


def _oracle(outcome: str, results: dict[str, Any], evaluated: dict[str, Any]) -> list[Block]:
    if evaluated["oracle"] is None:
        return []
    exact = evaluated["oracle"][outcome]
    columns = [c for c in columns_of(results["outcomes"][outcome]) if exact.get(c) is not None]
    unit = results["units"].get(outcome, "")
    numbers = ", ".join(f"{title_of(c, unit)} {number_of(c, exact[c])}" for c in columns)
    text = (
        "Exact, from the predictions of all patients at one place, which exist in a simulation "
        f"alone: {numbers}."
    )
    return [Paragraph(text=text, look="note")]


def learning_curves(results: dict[str, Any]) -> Section:
    """Loss and the headline metric of each outcome, round by round."""
    rounds = [e for e in results["rounds"] if any(e["sites"].values())]
    blocks: list[Block] = []
    if len(rounds) < 2:
        # Of a private run, what the simulation's oracle saw, if there was one.
        rounds = [
            e | {"pooled": e["oracle"], "sites": {}} for e in results["rounds"] if e["oracle"]
        ]
        note = "As the oracle saw it, which exists in simulation only; no hospital released it."
        blocks.append(Paragraph(text=note, look="note"))
    if len(rounds) < 2:
        return Section(key="curves", title="Learning curves", blocks=[])
    for outcome, kind in results["outcomes"].items():
        metrics = dict.fromkeys((columns_of(kind)[0], "loss"))
        charts = [_curve(outcome, metric, results, rounds) for metric in metrics]
        blocks += [
            Heading(text=outcome),
            Charts(charts=[chart for chart in charts if chart is not None]),
        ]
    return Section(key="curves", title="Learning curves", blocks=blocks)


def _curve(
    outcome: str, metric: str, results: dict[str, Any], rounds: Sequence[dict[str, Any]]
) -> Chart | None:
    pooled = [entry["pooled"][outcome].get(metric) for entry in rounds]
    known = [value for value in pooled if value is not None]
    if len(known) < 2:
        return None
    title = title_of(metric, results["units"].get(outcome, ""))
    first, last = (number_of(metric, value) for value in (known[0], known[-1]))
    return line_chart(
        f"{title} of {outcome} over rounds",
        x=[entry["round"] for entry in rounds],
        lines=[Line(name="all, pooled", values=pooled), *_site_lines(outcome, metric, rounds)],
        x_label="round",
        y_label=title,
        description=f"All held-out patients pooled: from {first} to {last}.",
    )


def _site_lines(outcome: str, metric: str, rounds: Sequence[dict[str, Any]]) -> list[Line]:
    """A thin line for each hospital; of many, the lowest, middle and highest in each round."""
    sites = sorted({site for entry in rounds for site in entry["sites"]})
    values = {
        site: [
            (((entry["sites"].get(site) or {}).get(outcome)) or {}).get(metric) for entry in rounds
        ]
        for site in sites
    }
    if len(sites) <= _MOST_LINES:
        return [Line(name=site, values=v, look="faint") for site, v in values.items()]
    lines: dict[str, list[float | None]] = {"lowest": [], "middle": [], "highest": []}
    for at_round in zip(*values.values(), strict=True):
        known = sorted(value for value in at_round if value is not None)
        lines["lowest"].append(known[0] if known else None)
        lines["middle"].append(known[len(known) // 2] if known else None)
        lines["highest"].append(known[-1] if known else None)
    looks = {"lowest": "third", "middle": "second", "highest": "third"}
    return [Line(name=name, values=v, look=looks[name]) for name, v in lines.items()]


def own_models(results: dict[str, Any]) -> Section:
    """The shared model beside each hospital's own, where hospitals have their own."""
    evaluated = next((e for e in reversed(results["rounds"]) if e["personal"]), None)
    if evaluated is None:
        return Section(key="own-models", title="Shared and own models", blocks=[])
    blocks: list[Block] = [Paragraph(text=_OWN)]
    for outcome in results["outcomes"]:
        shared = spread_of(results, evaluated, outcome)
        own = spread_of(results, evaluated["personal"], outcome, shared.metric)
        rows = [
            [
                site,
                number_of(shared.metric, shared.by_site.get(site)),
                number_of(own.metric, value),
            ]
            for site, value in own.by_site.items()
        ]
        blocks.append(
            Table(
                caption=f"{outcome}: {shared.title} on each hospital's own held-out patients",
                head=("hospital", "shared model", "its own model"),
                rows=rows,
                total=(
                    pooled_title(results, evaluated["personal"], outcome),
                    number_of(shared.metric, shared.pooled),
                    number_of(own.metric, own.pooled),
                ),
            )
        )
    return Section(key="own-models", title="Shared and own models", blocks=blocks)


_OWN = (
    "Each hospital also has a model of its own, fitted further to its own patients. It stays "
    "there; only how well it does was sent."
)

"""Planning: how many patients with an outcome to expect, by hospital, and how sure that is."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.metrics.demand import (
    Correction,
    Risks,
    correction_of,
    planned,
    poisson_binomial_interval,
    told_sites,
)
from common.metrics.intervals import FEWEST
from common.metrics.statistics import EvaluationSums
from common.metrics.thresholds import score_cells
from common.outcomes import ClassOutcome
from common.page.document import Block, Heading, Items, Paragraph, Section, Table
from server.report.html.facts import Facts
from server.report.privacy import is_private

_PLANNED = (100, 1_000)
_MOST_HOSPITALS = 40
_WHAT_IT_IS = (
    "A forecast of numbers, for staff and beds: how many patients with the outcome to expect, from "
    "the distribution of predicted risks. It says nothing of any one patient."
)
_WHAT_IT_IS_NOT = (
    "It is not a forecast of how many patients will come: only of how many of those who come will "
    "have the outcome.",
    "It takes the next patients to be like the held-out ones of the same hospital. Another season, "
    "ward or referral makes another number.",
    "Forecasts are corrected by observed over expected patients of these hospitals together, so "
    "that the model tells only how hospitals differ. The correction is of the held-out patients "
    "that stand beside it.",
    "The intervals hold chance, how little these patients tell of the correction, and how far "
    "hospitals are apart beyond it. They hold no change of the world.",
)
_PRIVATE = (
    "No forecast is made of a private run: what its noised counts would allow is too little to "
    "plan by."
)
_NOTE = (
    "Expected: the sum of predicted risks, with the 95 % interval of how many have the outcome if "
    "the risks are right (Poisson-binomial). Of the next patients: corrected, with a 95 % interval "
    f"of its own. Numbers of fewer than {FEWEST} patients are not told, nor those from which they "
    "would follow."
)


def demand(results: dict[str, Any], facts: Facts) -> Section:
    """Of each outcome of two classes: expected and observed patients, and those to plan for.

    Guarantees:
        - An observed number is told where it is of `FEWEST` patients with and without the outcome.
        - Says what it is not.
    """
    labels = {
        name: outcome.classes[1]
        for name, outcome in facts.study.outcomes.items()
        if isinstance(outcome, ClassOutcome) and outcome.kind == "binary" and name in facts.totals
    }
    blocks: list[Block] = []
    if labels and is_private(results):
        blocks = [Paragraph(text=_PRIVATE, look="note")]
    elif labels:
        told = [block for n, label in labels.items() for block in _of_outcome(n, label, facts)]
        if told:
            blocks = [Paragraph(text=_WHAT_IT_IS), *told]
            blocks += [Heading(text="What it is not"), Items(items=_WHAT_IT_IS_NOT)]
    return Section(key="planning", title="Planning", blocks=blocks)


def _of_outcome(name: str, label: str, facts: Facts) -> list[Block]:
    sites = _risks_of(name, facts.by_site)
    if not 0 < len(sites) <= _MOST_HOSPITALS:
        return []
    correction = correction_of(list(sites.values()))
    if correction is None:
        return []
    told = told_sites(sites)
    whole = Risks(
        middles_S=next(iter(sites.values())).middles_S,
        count_S=np.sum([s.count_S for s in sites.values()], axis=0),
        observed=sum(s.observed for s in sites.values()),
    )
    ahead = [f"of the next {n:,}" for n in _PLANNED]
    return [
        Heading(text=f"{name}: “{label}”"),
        Table(
            caption=f"{name}: patients with “{label}”, expected and observed",
            head=("hospital", "held out", "expected", "observed", "observed / expected", *ahead),
            rows=[
                [site, *_cells(risks, is_told=site in told), *_ahead(risks, correction)]
                for site, risks in sites.items()
            ],
            total=["all", *_cells(whole, is_told=True), *("–" for _ in _PLANNED)],
            note=_NOTE,
        ),
        Paragraph(text=_correction_text(correction, len(sites)), look="note"),
    ]


def _risks_of(
    outcome: str, by_site: Mapping[str, Mapping[str, EvaluationSums]]
) -> dict[str, Risks]:
    sites = {}
    for site, sums in sorted(by_site.items()):
        cells = score_cells(sums[outcome]) if outcome in sums else None
        if cells is not None and cells.is_enough():
            sites[site] = Risks(
                middles_S=cells.middles,
                count_S=cells.positives_S + cells.negatives_S,
                observed=float(cells.positives_S.sum()),
            )
    return sites


def _cells(risks: Risks, *, is_told: bool) -> list[str]:
    low, high = poisson_binomial_interval(risks)
    expected = f"{risks.expected:,.1f} ({low:,} to {high:,})"
    if not is_told:
        return [f"{risks.num_patients:,.0f}", expected, "not told", "–"]
    ratio = f"{risks.observed / risks.expected:.2f}" if risks.expected > 0 else "–"
    return [f"{risks.num_patients:,.0f}", expected, f"{risks.observed:,.0f}", ratio]


def _ahead(risks: Risks, correction: Correction) -> list[str]:
    forecasts = [planned(risks, correction, n) for n in _PLANNED]
    return [f"{mean:,.0f} ({low:,} to {high:,})" for mean, low, high in forecasts]


def _correction_text(correction: Correction, num_sites: int) -> str:
    apart = "not farther apart than chance alone could make them"
    if correction.spread > 0:
        apart = f"apart by about {correction.spread:.0%} beyond chance (one standard deviation)"
    if num_sites == 1:
        apart = "not to be compared: there is one alone"
    return (
        f"Observed over expected of these hospitals together: {correction.ratio:.2f}. The ratios "
        f"of single hospitals are {apart}."
    )

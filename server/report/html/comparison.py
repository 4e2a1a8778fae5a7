"""Runs side by side as one page: what they reached, in which settings they differ."""

from collections.abc import Sequence
from math import inf

from common.page.document import Block, Charts, Items, Page, Paragraph, Section, Table, html_of
from common.page.rows import Dot, dot_chart
from server.report.compare import Comparison, Headline, Row
from server.report.html.glossary import metric_rows
from server.report.html.report import FOOTER

_MOST_DOTS = 40
_NOTE = (
    "All pooled: over the held-out patients of all hospitals that sent figures; ± beside it is "
    "the noise for privacy of that run, where there is some. Over hospitals: mean ± standard "
    "deviation, lowest to highest."
)


def comparison_html(comparison: Comparison) -> str:
    """The comparison as one HTML file, which looks like a report."""
    blocks: list[Block] = []
    for outcome, rows in comparison.outcomes.items():
        caption = f"{outcome}: held-out patients"
        blocks.append(_table(caption, "metric", comparison, rows, note=_NOTE))
        blocks += _chart(outcome, comparison.headlines[outcome])
    settings: Block = Paragraph(text="These runs have the same settings.")
    if comparison.settings:
        caption = "What is not the same in all runs (–: the run has no such setting)"
        settings = _table(caption, "setting", comparison, comparison.settings)
    kinds = dict.fromkeys(headline.kind for headline in comparison.headlines.values())
    words = Table(
        caption="Metrics of these runs",
        head=("word", "meaning"),
        rows=[list(row) for row in metric_rows(kinds)],
        is_words=True,
    )
    sections = [
        Section(
            key="results",
            title="Results",
            blocks=[*([Items(items=comparison.warnings)] if comparison.warnings else []), *blocks],
        ),
        Section(key="settings", title="Settings that differ", blocks=[settings]),
        Section(key="words", title="What the words mean", blocks=[words]),
    ]
    page = Page(
        title=f"{len(comparison.runs)} runs compared",
        subtitle=[", ".join(comparison.runs)],
        sections=sections,
        footer=f"Written by Wardround from the journals of the runs alone. {FOOTER}",
    )
    return html_of(page)


def _table(
    caption: str, first: str, comparison: Comparison, rows: Sequence[Row], *, note: str = ""
) -> Table:
    return Table(
        caption=caption,
        head=(first, *comparison.runs),
        rows=[(row.name, *row.cells) for row in rows],
        is_words=True,
        note=note,
    )


def _chart(outcome: str, headline: Headline) -> list[Block]:
    """The runs below one another; nothing where fewer than two have the metric."""
    if not 2 <= len(headline.values) <= _MOST_DOTS:
        return []
    dots = [Dot(name=name, value=v, sd=sd) for name, (v, sd) in headline.values.items()]
    low, high = (end(dots, key=lambda dot: dot.value) for end in (min, max))
    chart = dot_chart(
        f"{headline.title} of {outcome}, all patients pooled, run by run",
        dots=dots,
        reference=None,
        bounds=(0.0, inf if headline.kind == "regression" else 1.0),
        label=headline.title,
        description=(
            f"From {low.value:.4g} ({low.name}) to {high.value:.4g} ({high.name}). Lines, where "
            "there are some: as far as noise for privacy may have moved it. Chance of training "
            "and of few patients comes on top."
        ),
        rows_are="run",
    )
    return [Charts(charts=[chart])]

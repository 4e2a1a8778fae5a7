"""A run as one page: which sections there are, and in which order.

First what everybody should read; then how well the model does and what a decision by it would do,
for clinicians; what was promised, attacked and sent, for privacy officers; then how the run went,
and what is needed to judge or repeat it.
"""

from typing import Any

from common.page.document import Page, html_of
from server.report.html.attributions import attributions
from server.report.html.audits import audited
from server.report.html.card import model_card
from server.report.html.course import environment, taking_part, timing
from server.report.html.demand import demand
from server.report.html.facts import Facts
from server.report.html.glossary import glossary
from server.report.html.left import what_left
from server.report.html.performance import by_hospital, learning_curves, own_models
from server.report.html.privacy import privacy
from server.report.html.subgroups import subgroups
from server.report.html.summary import summary
from server.report.html.survival_curves import survival_curves
from server.report.html.thresholds import thresholds

FOOTER = "Not a medical device; not for decisions about patients."


def report_html(results: dict[str, Any], facts: Facts) -> str:
    """The report of a run, whole or unfinished, as one HTML file.

    Guarantees:
        - A function of the journal alone, from which both arguments are: no clock, no chance.
        - A part of which the run has nothing is left out, not shown empty.
    """
    title = facts.study.study.title or facts.study.name
    page = Page(
        title=f"{title}: report of a run",
        subtitle=[
            f"Study {results['study']}, run {results['run_id']}, {results['status']}. "
            f"Started {results['started_at'][:16].replace('T', ' ')} UTC."
        ],
        sections=[
            summary(results, facts),
            by_hospital(results, facts),
            own_models(results),
            subgroups(results, facts),
            attributions(results, facts),
            thresholds(results, facts),
            survival_curves(results, facts),
            demand(results, facts),
            privacy(results),
            audited(results),
            what_left(results, facts),
            taking_part(results),
            learning_curves(results),
            timing(results, facts),
            model_card(results, facts),
            glossary(results, facts),
            environment(results, facts),
        ],
        footer=f"Written by Wardround {results['release']} from the run's journal alone. {FOOTER}",
    )
    return html_of(page)

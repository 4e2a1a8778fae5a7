"""A run as one page: which sections there are, and in which order."""

from typing import Any

from common.page.document import Page, html_of
from server.report.html.audits import audited
from server.report.html.card import model_card
from server.report.html.course import environment, taking_part, timing, what_left
from server.report.html.demand import demand
from server.report.html.facts import Facts
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
            subgroups(results, facts),
            thresholds(results, facts),
            survival_curves(results, facts),
            demand(results, facts),
            learning_curves(results),
            own_models(results),
            taking_part(results),
            privacy(results),
            audited(results),
            what_left(results, facts),
            timing(results, facts),
            model_card(results, facts),
            environment(results, facts),
        ],
        footer=f"Written by Wardround {results['release']} from the run's journal alone. {FOOTER}",
    )
    return html_of(page)

"""Live progress of a run, rounds by sites, from the events of its journal."""

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from common.metrics.evaluation import from_flat, statistics_of
from common.metrics.statistics import EvaluationSums, Metrics
from common.study import Study
from server.journal import Event
from server.report.columns import columns_of, columns_with_values, noised_number_of, title_of
from server.report.html.words import reason_of
from server.report.privacy import cost_of, is_private
from server.report.rounds import last_evaluated, pooled_title
from server.watch.states import RunState, after, span

_MOST_ROWS = 16
# Metrics with the size of their noise are wide; the report has all of them.
_MOST_NOISED = 3


class Progress:
    """Shows each site's state in the present round; a line a round where there is no terminal.

    The facts are those of the live page (`server.watch`). Used as a context manager; `listen` is
    the journal's listener.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._study: Study | None = None
        self._state = RunState()
        self._patients: dict[str, str] = {}
        self._metrics_of: dict[str, str] = {}
        self._total: EvaluationSums | None = None
        self._epsilon: float | None = None
        self._last_round = ""

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)

    def listen(self, event: Event) -> None:
        """Takes note of an event, and shows what has changed."""
        actions: dict[str, Callable[[Event], None]] = {
            "run_started": self._on_start,
            "run_resumed": self._on_start,
            "enrolled": self._on_enrolled,
            "asked": self._on_asked,
            "reply": self._on_reply,
            "absent": self._on_absent,
            "site_privacy": self._on_site_privacy,
            "aggregated": self._on_round,
            "run_finished": self._on_round,
        }
        self._state = after(self._state, event)
        action = actions.get(event["event"])
        if action is not None:
            action(event)
        if self._live is not None:
            self._live.update(self.table())

    def _on_start(self, event: Event) -> None:
        self._study = Study.model_validate(event["study"])
        if event["event"] == "run_resumed":
            self._console.print(f"Going on at round {event['round']}.", highlight=False)

    def _on_enrolled(self, event: Event) -> None:
        patients = "private" if self._is_private else str(event["counts"].get("patients", ""))
        self._patients[event["site"]] = patients

    def _on_asked(self, _: Event) -> None:
        self._total = None

    def _on_reply(self, event: Event) -> None:
        if event["site"] not in self._patients:
            return
        spent = (event.get("receipt") or {}).get("epsilon")
        if spent is not None:
            self._epsilon = max(spent, self._epsilon or 0.0)
        sums = self._sums(event)
        if sums is None:
            self._metrics_of[event["site"]] = "–" if self._is_private else "not sent"
            return
        self._total = sums if self._total is None else self._total + sums
        column = self._columns()[0]
        self._metrics_of[event["site"]] = noised_number_of(column, self._metrics(sums))

    def _on_absent(self, event: Event) -> None:
        if not self._console.is_terminal:
            why = reason_of(event["reason"])
            where = f"round {event['round']}: {event['site']} absent ({why})"
            self._console.print(where, markup=False, highlight=False, soft_wrap=True)

    def _on_site_privacy(self, event: Event) -> None:
        self._epsilon = event["epsilon"]

    def _on_round(self, event: Event) -> None:
        self._last_round = self._summary()
        if not self._console.is_terminal and self._state.kind != "query":
            self._console.print(self._last_round, highlight=False, soft_wrap=True)

    def _sums(self, event: Event) -> EvaluationSums | None:
        """The statistics of the first outcome in a reply, if its site sends them."""
        if self._study is None:
            return None
        try:
            by_outcome = from_flat(self._study, event["metrics"])
        except ValueError:
            return None
        return by_outcome.get(next(iter(self._study.outcomes)))

    @property
    def _is_private(self) -> bool:
        return self._study is not None and self._study.privacy.mode == "patient"

    def _metrics(self, sums: EvaluationSums | None) -> Metrics:
        """The metrics of the first outcome; none before there are statistics."""
        if self._study is None or sums is None:
            return {}
        return next(iter(statistics_of(self._study).values())).metrics_of(sums)

    def _columns(self) -> tuple[str, ...]:
        """The metrics of the first outcome that are shown, the most telling one first."""
        return ("",) if self._study is None else columns_of(self._study.primary.kind)

    def _summary(self) -> str:
        """The present round as far as it has come, pooled over the sites that have answered."""
        state = self._state
        answered = f"round {state.round}/{state.num_rounds}: {state.num_answered} sites"
        spent = "" if self._epsilon is None else f", epsilon {cost_of(self._epsilon)} spent"
        if self._total is None and self._is_private:
            return f"{answered}{spent}"
        metrics = self._metrics(self._total)
        # A private site sends nothing that a loss could be computed from.
        shown = dict.fromkeys((*self._columns()[:2], *([] if self._is_private else ["loss"])))
        numbers = ", ".join(f"{title_of(name)} {noised_number_of(name, metrics)}" for name in shown)
        return f"{answered}, {numbers}{spent}"

    def table(self) -> Table:
        """Each site and its state in the present round."""
        state = self._state
        left = "" if state.seconds_left is None else f"; about {span(state.seconds_left)} left"
        answered = f"{state.num_answered} of {len(state.sites)} sites have answered{left}"
        table = Table(
            title=f"round {state.round}/{state.num_rounds}: {answered}",
            caption=self._last_round or None,
            title_justify="left",
            caption_justify="left",
        )
        for column in ("site", "patients", "state", title_of(self._columns()[0]), "seconds"):
            table.add_column(column, justify="left" if column in ("site", "state") else "right")
        rows = sorted(state.sites.items())
        for name, site in rows[:_MOST_ROWS]:
            told = self._patients.get(name, ""), site.doing, self._metrics_of.get(name, "")
            table.add_row(name, *told, "" if site.seconds is None else f"{site.seconds:.2f}")
        if len(rows) > _MOST_ROWS:
            table.add_row(f"… and {len(rows) - _MOST_ROWS} more", "", "", "", "")
        return table


def results_tables(results: dict[str, Any]) -> Iterator[Table]:
    """Every hospital's result after the last round, a table for each outcome, for the terminal.

    Of a private run, last, what it has cost.
    """
    yield from _outcome_tables(results)
    privacy = results["privacy"]
    if privacy["mode"] == "none":
        return
    title = f"privacy ({privacy['adjacency']}): what this run has cost"
    table = Table(title=title, title_justify="left", min_width=len(title))
    for column in ("site", "epsilon", "delta"):
        table.add_column(column, justify="left" if column == "site" else "right")
    everyone = {"every site": {"epsilon": privacy["epsilon"], "delta": privacy["delta"]}}
    for who, spent in sorted(privacy.get("sites", everyone).items()):
        epsilon, delta = spent["epsilon"], spent["delta"]
        cells = ("not told", "") if epsilon is None else (cost_of(epsilon), f"{delta:g}")
        table.add_row(who, *cells)
    yield table


def _outcome_tables(results: dict[str, Any]) -> Iterator[Table]:
    last = last_evaluated(results) or next(reversed(results["rounds"]), None)
    if last is None:
        return
    is_noised = is_private(results)
    for name in results["outcomes"]:
        unit = results.get("units", {}).get(name, "")
        parts = [last["pooled"][name], *((m or {}).get(name) for m in last["sites"].values())]
        columns = columns_with_values(results, name, parts)
        if is_noised:
            columns = columns[:_MOST_NOISED]
        title = f"{name}: held-out patients after round {last['round']}"
        noise = "±: what the noise for privacy alone does" if is_noised else None
        table = Table(title=title, title_justify="left", caption=noise, caption_justify="left")
        table.add_column("site")
        for column in ("held out", *(title_of(c, unit) for c in columns)):
            table.add_column(column, justify="right")
        sites = {site: (m or {}).get(name) for site, m in sorted(last["sites"].items())}
        total = pooled_title(results, last, name)
        for site, metrics in (sites | {total: last["pooled"][name]}).items():
            if metrics is None:
                table.add_row(site, "not sent")
                continue
            numbers = (noised_number_of(c, metrics) for c in ("num_patients", *columns))
            table.add_row(site, *numbers)
        yield table

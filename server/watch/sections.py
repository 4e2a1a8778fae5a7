"""What the live page shows: where the run stands, its hospitals, curves, privacy and absences.

Pure functions of the results and the state of a run; most sections are those of the report.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from common.page.charts import Line, line_chart
from common.page.document import Block, Charts, Figure, Figures, Paragraph, Section, Table
from common.page.rows import Bar, bar_chart
from common.page.words import listed, several
from common.privacy.sections import AnyPrivacy, PatientPrivacy, SitePrivacy
from common.study import Study
from server.journal import Event
from server.report.columns import noised_number_of, number_of
from server.report.html.course import taking_part
from server.report.html.performance import learning_curves
from server.report.html.privacy import privacy as report_privacy
from server.report.html.spread import spread_of
from server.report.privacy import cost_of, is_private
from server.report.rounds import last_evaluated, pooled_title
from server.watch.states import ANSWERED, RunState, SiteState, span

_KINDS = {"query": "Enrolment", "train": "Training", "evaluate": "Evaluation"}
_SILENT_MINUTES = 1
_MOST_BARS = 40
NOT_BEGUN = "This run has not begun: its folder holds no journal yet. Once it does, it is shown."


def sentence_of(results: dict[str, Any], state: RunState) -> str:
    """Where the run stands, in one sentence, which changes once a round or where one is absent.

    It is read out to those who cannot see the page, so that it does not tell of every reply.
    """
    done = f"round {state.round} of {state.num_rounds}"
    if state.status == "finished":
        return f"Finished: {done}. {_headlines(results)}".strip()
    if state.status == "failed":
        return f"Failed in {done}: {state.failure}. Go on with --resume once that is mended."
    absent = f" Absent: {listed(sorted(state.absent))}." if state.absent else ""
    # Between the last round and the evaluation, nobody has been asked for that yet.
    kind = "evaluate" if state.round == state.num_rounds else state.kind
    what = _KINDS.get(kind, "Work").lower()
    return f"Running: {done}, {what}.{absent} {_headlines(results)}".strip()


def _headlines(results: dict[str, Any]) -> str:
    evaluated = last_evaluated(results)
    if evaluated is None:
        return ""
    told = [spread_of(results, evaluated, outcome) for outcome in results["outcomes"]]
    numbers = [
        f"{s.title} of {outcome} {number_of(s.metric, s.pooled)}"
        for outcome, s in zip(results["outcomes"], told, strict=True)
        if s.pooled is not None
    ]
    return f"After round {evaluated['round']}: {listed(numbers)}." if numbers else ""


def sections_of(
    results: dict[str, Any], state: RunState, events: Sequence[Event], *, now: datetime
) -> list[Section]:
    """All sections of the page, in order."""
    return [
        _standing(results, state, now=now),
        _hospitals(results, state),
        _curves(results),
        _privacy(results, state, events),
        taking_part(results),
    ]


def _standing(results: dict[str, Any], state: RunState, *, now: datetime) -> Section:
    left = state.seconds_left
    figures = [
        Figure(
            name="Round",
            value=f"{state.round} of {state.num_rounds}",
            more="" if left is None else f"about {span(left)} left",
        ),
        Figure(
            name=_KINDS.get(state.kind, "Exchange"),
            value=f"{state.num_answered} of {state.num_asked}",
            more="hospitals have answered",
        ),
        *_metrics(results),
        _spent(results),
    ]
    blocks: list[Block] = [Figures(figures=figures)]
    minutes = int((now - datetime.fromisoformat(results["ended_at"])).total_seconds() // 60)
    if state.status == "running" and minutes >= _SILENT_MINUTES:
        text = (
            f"Nothing has been written for {_silence(minutes)}. Either hospitals are at "
            "work, or the run was ended without a word; it can be taken up with --resume."
        )
        blocks.append(Paragraph(text=text, look="warn"))
    last = results["ended_at"][:19].replace("T", " ")
    resumed = f" Taken up again {several(state.num_resumed, 'time')}." if state.num_resumed else ""
    blocks.append(Paragraph(text=f"Last event: {last} UTC.{resumed}", look="note"))
    return Section(key="now", title="Now", blocks=blocks)


def _silence(minutes: int) -> str:
    """A time without a word, in the largest unit of which there are two.

    >>> _silence(1), _silence(119), _silence(180), _silence(4321)
    ('1 minute', '119 minutes', '3 hours', '3 days')
    """
    if minutes < 120:
        return several(minutes, "minute")
    return several(minutes // 60, "hour") if minutes < 2880 else several(minutes // 1440, "day")


def _metrics(results: dict[str, Any]) -> list[Figure]:
    evaluated = last_evaluated(results)
    figures = []
    for outcome in list(results["outcomes"])[:3] if evaluated else []:
        entry = evaluated or {}
        spread = spread_of(results, entry, outcome)
        noise = entry["pooled"][outcome].get(f"{spread.metric}_noise_sd")
        noised = "" if noise is None else f"± {number_of(spread.metric, noise)} by noise; "
        figures.append(
            Figure(
                name=f"{spread.title}, {outcome}",
                value=number_of(spread.metric, spread.pooled),
                more=f"{noised}{pooled_title(results, entry, outcome)}, round {entry['round']}",
            )
        )
    return figures


def _spent(results: dict[str, Any]) -> Figure:
    privacy = results["privacy"]
    if privacy["mode"] == "none":
        return Figure(name="Epsilon", value="no bound", more="exact sums are sent")
    if privacy["mode"] == "site":
        return Figure(name="Epsilon, per hospital", value=cost_of(privacy["epsilon"]), more="spent")
    told = [c["epsilon"] for c in privacy["sites"].values() if c["epsilon"] is not None]
    if told:
        return Figure(name="Epsilon, per patient", value=cost_of(max(told)), more="spent at most")
    limit = privacy["epsilon"]
    value = "by the noise" if limit is None else f"≤ {limit:g}"
    return Figure(name="Epsilon, per patient", value=value, more="reserved for the whole run")


def _hospitals(results: dict[str, Any], state: RunState) -> Section:
    evaluated = last_evaluated(results)
    outcome = next(iter(results["outcomes"]))
    title, number = spread_of(results, evaluated, outcome).title if evaluated else "", ""
    rows = []
    for name, site in sorted(state.sites.items()):
        if evaluated:
            spread = spread_of(results, evaluated, outcome)
            metrics = ((evaluated["sites"].get(name) or {}).get(outcome)) or {}
            number = noised_number_of(spread.metric, metrics)
        rows.append([name, *([number] if evaluated else []), _doing(site)])
    metric = [f"{title}, {outcome}, round {evaluated['round']}"] if evaluated else []
    table = Table(
        caption="Hospitals, and what each is doing",
        head=("hospital", *metric, "now"),
        rows=rows,
        is_words=True,
    )
    nobody = Paragraph(text="No hospital has enrolled yet.")
    return Section(key="hospitals", title="Hospitals", blocks=[table] if rows else [nobody])


def _doing(site: SiteState) -> str:
    seconds = "" if site.seconds is None else f" in {site.seconds:.2f} s"
    absent = f"; absent {several(site.num_absent, 'time')} so far" if site.num_absent else ""
    return f"{site.doing}{seconds if site.doing == ANSWERED else ''}{absent}"


def _curves(results: dict[str, Any]) -> Section:
    section = learning_curves(results)
    if section.blocks:
        return section
    text = (
        "A private run is evaluated once, after its last round, because every evaluation costs "
        "privacy."
        if is_private(results)
        else "Curves begin once two rounds have been evaluated."
    )
    return Section(key=section.key, title=section.title, blocks=[Paragraph(text=text)])


def _privacy(results: dict[str, Any], state: RunState, events: Sequence[Event]) -> Section:
    section = report_privacy(results)
    plan = _plan_of(events)
    charts = []
    if isinstance(plan, PatientPrivacy) and 0 < len(state.sites) <= _MOST_BARS:
        charts.append(_charged(state, plan))
    if isinstance(plan, SitePrivacy):
        charts += _by_round(events, plan)
    blocks: list[Block] = [Charts(charts=charts)] if charts else []
    return Section(key=section.key, title=section.title, blocks=[*blocks, *section.blocks])


def _plan_of(events: Sequence[Event]) -> AnyPrivacy:
    started = [e for e in events if e["event"] in ("run_started", "run_resumed")]
    return Study.model_validate(started[-1]["study"]).privacy


def _charged(state: RunState, plan: PatientPrivacy) -> Any:
    """In how many rounds each hospital was asked for noised work, of those that were planned."""
    planned = state.num_rounds + plan.spare_rounds
    title = "Rounds that each hospital was asked to pay for"
    rows = [(name, site.num_charged) for name, site in sorted(state.sites.items())]
    return bar_chart(
        title,
        bars=[Bar(name=n, part=c / planned, text=f"{c} of {planned}") for n, c in rows],
        description=(
            f"The noise is such that {several(planned, 'round')} ({plan.spare_rounds} of them "
            "spare) stay within the study's epsilon. What was spent is told by each hospital's own "
            "ledger, after the last round."
        ),
        table=Table(
            caption=title,
            head=("hospital", "asked", "planned"),
            rows=[(name, str(count), str(planned)) for name, count in rows],
        ),
    )


def _by_round(events: Sequence[Event], plan: SitePrivacy) -> list[Any]:
    spent = {e["round"]: e["epsilon"] for e in events if e["event"] == "site_privacy"}
    if not spent:
        return []
    rounds = sorted(spent)
    lines = [Line(name="spent", values=[spent[number] for number in rounds])]
    if plan.epsilon is not None:
        lines.append(Line(name="the study's", values=[plan.epsilon] * len(rounds), look="second"))
    return [
        line_chart(
            "Epsilon per hospital over rounds",
            x=rounds,
            lines=lines,
            x_label="round",
            y_label="epsilon",
            description=f"After round {rounds[-1]}: {cost_of(spent[rounds[-1]])}.",
            from_zero=True,
        )
    ]

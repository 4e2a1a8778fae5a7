"""What joining brings as one HTML page: a sentence for each hospital first, then pictures."""

from collections.abc import Sequence

from common.code_version import code_fingerprint, release
from common.page.document import (
    Block,
    Chart,
    Charts,
    Heading,
    Items,
    Page,
    Paragraph,
    Section,
    Table,
    html_of,
)
from common.page.words import listed, several
from simulations.joining.chart import Gain, gain_chart
from simulations.joining.findings import NOT_JOINED, Difference, Findings
from simulations.joining.method import how_measured
from simulations.joining.tables import (
    contribution_table,
    granularity_table,
    joining_table,
    levels_table,
    others_table,
    pairs_tables,
    receiving_table,
)
from simulations.joining.words import (
    hospital_sentence,
    interval,
    metric_title,
    overall,
    question_asked,
    signed,
    verdict_words,
)

_MOST_ROWS = 40
FOOTER = "Not a medical device; not for decisions about patients."


def joining_html(findings: Findings) -> str:
    """The page as one HTML file.

    Guarantees:
        - A function of the findings and the code's version alone: no clock, no chance.
        - Every hospital has a sentence, also where nothing can be said.
    """
    study = findings.study
    seeds = several(len(findings.seeds), "training")
    page = Page(
        title=f"{study.study.title or study.name}: what joining brings",
        subtitle=[
            f"Study {study.name}; {several(len(findings.people), 'hospital')}, {seeds} of every "
            f"model, {metric_title(findings)} of “{findings.outcome}”. {privacy_line(findings)}"
        ],
        sections=[
            _in_short(findings),
            _by_hospital(findings),
            _receiving(findings),
            _hospitals(findings),
            _granularities(findings),
            _how(findings),
        ],
        footer=f"Written by Wardround {release()} (code {code_fingerprint()}). {FOOTER}",
    )
    return html_of(page)


def privacy_line(findings: Findings) -> str:
    """How patients are protected, in all arms alike."""
    privacy = findings.study.privacy
    if privacy.mode == "none":
        return "Without differential privacy."
    if privacy.mode == "site":
        return "Each hospital is protected as a whole; patients are not."
    asked = "a fixed noise" if privacy.epsilon is None else f"epsilon {privacy.epsilon:g}"
    return f"Every patient is protected: {asked}, delta {privacy.delta:g}, in every arm."


def _in_short(findings: Findings) -> Section:
    hospitals = [d for d in findings.of("joining") if d.scope in findings.people]
    blocks: list[Block] = [
        Paragraph(text=question_asked(findings), look="lead"),
        Items(items=[hospital_sentence(d, findings) for d in hospitals]),
    ]
    blocks += [Heading(text="All hospitals together"), Items(items=overall(findings))]
    return Section(key="summary", title="For each hospital", blocks=blocks)


def _by_hospital(findings: Findings) -> Section:
    charts = [
        _chart("Joined against alone", findings.of("joining"), findings),
        _chart("Personal model against the joined one", findings.of("fine-tuning"), findings),
        _chart("Pooled at one place against joined", findings.of("pooling"), findings),
    ]
    few = [site for site, people in findings.people.items() if people.too_few]
    text = f"Not in the pictures, for too few held-out patients: {listed(few)}."
    blocks: list[Block] = _shown(charts)
    blocks += [Paragraph(text=text, look="note")] if few else []
    blocks += [joining_table(findings), levels_table(findings)]
    blocks += [t for t in [others_table(findings)] if t]
    return Section(key="hospitals", title="Alone and together", blocks=blocks)


def _receiving(findings: Findings) -> Section:
    table = receiving_table(findings)
    text = (
        "What would a hospital get that does not join, but uses the model that the others have "
        "trained? Each hospital was left out once, and the others' model judged by its patients."
    )
    charts = [
        _chart(f"{NOT_JOINED} against alone".capitalize(), findings.of("receiving"), findings),
        _chart(f"Joined against {NOT_JOINED}", findings.of("taking part"), findings),
    ]
    return _section("receiving", "A hospital that has not joined", text, charts, [table])


def _hospitals(findings: Findings) -> Section:
    means = [d for d in findings.of("hospital") if d.scope not in findings.people]
    text = (
        "What do the others lose when one hospital is absent? The gain is the mean of all other "
        "hospitals' results with it, against without it. It says nothing of what a hospital's "
        "patients are worth in another consortium."
    )
    charts = [_chart("What each hospital brings the others", means, findings)]
    tables = [contribution_table(findings), *pairs_tables(findings)[:1]]
    return _section("contributions", "What each hospital brings", text, charts, tables)


def _granularities(findings: Findings) -> Section:
    means = [d for d in findings.of("granularity") if d.scope not in findings.people]
    text = (
        "The study was trained again without each granularity. A small gain may mean that another "
        "granularity tells the same, and not that this one tells nothing."
    )
    charts = [_chart("What each granularity brings", means, findings)]
    tables = [granularity_table(findings), *pairs_tables(findings)[1:]]
    return _section("granularities", "What each granularity brings", text, charts, tables)


def _section(
    key: str,
    title: str,
    text: str,
    charts: Sequence[Chart | None],
    tables: Sequence[Table | None],
) -> Section:
    """A section with what there is; without any table it has no block, and is left out."""
    there = [table for table in tables if table is not None]
    blocks: list[Block] = [Paragraph(text=text), *_shown(charts), *there] if there else []
    return Section(key=key, title=title, blocks=blocks)


def _how(findings: Findings) -> Section:
    blocks: list[Block] = [Items(items=how_measured(findings))]
    if findings.failures:
        blocks += [
            Heading(text="Where there is no result, and why"),
            Items(items=findings.failures),
        ]
    text = f"Study hash {findings.study.hash}."
    return Section(
        key="how",
        title="How this was measured",
        blocks=[*blocks, Paragraph(text=text, look="note")],
    )


def _shown(charts: Sequence[Chart | None]) -> list[Block]:
    there = [chart for chart in charts if chart is not None]
    return [Charts(charts=there)] if there else []


def _chart(title: str, differences: Sequence[Difference], findings: Findings) -> Chart | None:
    """The gains that have an interval; None where none has, or they are too many to be read."""
    told = [d for d in differences if d.gain.low is not None and d.gain.high is not None]
    if not told or len(told) > _MOST_ROWS:
        return None
    outcome = findings.study.primary
    gains = [
        Gain(
            name=d.absent or d.scope,
            value=d.gain.value or 0.0,
            low=d.gain.low or 0.0,
            high=d.gain.high or 0.0,
            texts=(
                d.absent or d.scope,
                signed(d.gain.value or 0.0, outcome),
                interval(d, findings),
            ),
        )
        for d in told
    ]
    by_words: dict[str, list[str]] = {}
    for d in told:
        by_words.setdefault(verdict_words(d), []).append(d.absent or d.scope)
    description = "; ".join(f"{words}: {listed(names)}" for words, names in by_words.items())
    return gain_chart(
        title,
        gains=gains,
        label=f"gain in {metric_title(findings)}; right of the line is better",
        description=f"95 % intervals. {description[0].upper()}{description[1:]}.",
    )

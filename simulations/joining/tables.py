"""The tables of what joining brings, the same in Markdown and on the page."""

from collections.abc import Sequence

from common.page.document import Table
from common.page.words import listed, several
from simulations.joining.findings import (
    LEVEL_ARMS,
    MEAN,
    NOT_JOINED,
    Difference,
    Findings,
    Question,
)
from simulations.joining.words import interval, metric_title, plain, signed, verdict_words

# A table with a column for each of more hospitals than this cannot be read.
_WITHOUT_AND_WITH = (
    "without it",
    "with it",
    "gain",
    "95 % interval",
    "p, adjusted",
    "verdict",
)
_MOST_COLUMNS = 8
_NOTHING = "–"


def levels_table(findings: Findings) -> Table:
    """Every arm at every hospital: mean ± sd over seeds; reasons stand in the note."""
    arms = [arm for arm in LEVEL_ARMS if findings.level(arm, next(iter(findings.people)))]
    arms = [arm for arm in arms if arm != NOT_JOINED]
    rows = [
        [site, f"{people.num_training:,}", f"{people.num_held_out:,}"]
        + [_level(findings, arm, site) for arm in arms]
        for site, people in findings.people.items()
    ]
    total = [MEAN, "", "", *(_level(findings, arm, MEAN) for arm in arms)]
    few = [site for site, people in findings.people.items() if people.too_few]
    notes = ["± is the standard deviation over seeds."] if len(findings.seeds) > 1 else []
    notes += [f"The mean is without {listed(few)}: too few held-out patients."] if few else []
    return Table(
        caption=f"{metric_title(findings)} of {findings.outcome} at each hospital's own patients",
        head=("hospital", "training", "held out", *arms),
        rows=rows,
        total=total if findings.level(arms[0], MEAN) else (),
        note=" ".join(notes),
    )


def joining_table(findings: Findings) -> Table:
    """Joined minus alone at every hospital, with what each interval and all together say."""
    return Table(
        caption=f"What joining brings: gain in {metric_title(findings)}, joined against alone",
        head=("hospital", "alone", "joined", "gain", "95 % interval", "p, adjusted", "verdict"),
        rows=[_row(d.scope, d, findings) for d in findings.of("joining")],
        note=_note(findings.of("joining")),
    )


def others_table(findings: Findings) -> Table | None:
    """Personal models and pooling, each against what it would replace; None without any."""
    asked = {
        "personal against alone": findings.of("personal"),
        "personal against joined": findings.of("fine-tuning"),
        "pooled against joined": findings.of("pooling"),
    }
    asked = {title: found for title, found in asked.items() if found}
    if not asked:
        return None
    return Table(
        caption="Other ways: gain and 95 % interval",
        head=("hospital", *asked),
        rows=_side_by_side(list(asked.values()), findings),
        note=_STARS,
    )


def receiving_table(findings: Findings) -> Table | None:
    """What a hospital gets that has not joined; None where nothing was left out."""
    receiving, taking = findings.of("receiving"), findings.of("taking part")
    if not receiving:
        return None
    rows = []
    for row, one in zip(_side_by_side([receiving, taking], findings), receiving, strict=True):
        joined = next((d.after for d in taking if d.scope == one.scope), None)
        levels = [_value(v, findings) for v in (one.before, one.after, joined)]
        rows.append([row[0], *levels, *row[1:]])
    return Table(
        caption="Alone, with the others' model, and joined",
        head=(
            "hospital",
            "alone",
            NOT_JOINED,
            "joined",
            "gain of theirs against alone",
            "gain of joining against theirs",
        ),
        rows=rows,
        note=f"{_STARS} {_note(receiving)}".strip(),
    )


def contribution_table(findings: Findings) -> Table | None:
    """What everybody else loses when one hospital is absent; None where nothing was left out."""
    means = [d for d in findings.of("hospital") if d.scope not in findings.people]
    if not means:
        return None
    return Table(
        caption="What each hospital brings the others: their mean with it against without it",
        head=("hospital", *_WITHOUT_AND_WITH),
        rows=[_row(d.absent, d, findings) for d in means],
        note=_note(means),
    )


def granularity_table(findings: Findings) -> Table | None:
    """What the hospitals lose without one granularity; None where nothing was left out."""
    means = [d for d in findings.of("granularity") if d.scope not in findings.people]
    if not means:
        return None
    over = {several(len(d.sites), "hospital") for d in means}
    head = ["granularity", *_WITHOUT_AND_WITH]
    rows = [_row(d.absent, d, findings) for d in means]
    if len(over) > 1:
        head.insert(1, "hospitals")
        rows = [[r[0], str(len(d.sites)), *r[1:]] for r, d in zip(rows, means, strict=True)]
    return Table(
        caption="What each granularity brings: mean of the hospitals that have anything else",
        head=head,
        rows=rows,
        note=_note(means),
    )


def pairs_tables(findings: Findings) -> list[Table]:
    """Gain at every hospital by what is absent, where not too many columns are needed."""
    if len(findings.people) > _MOST_COLUMNS:
        return []
    tables = []
    titles: dict[Question, str] = {
        "hospital": "What each hospital brings each of the others",
        "granularity": "What each granularity brings each hospital",
    }
    for question, title in titles.items():
        found = [d for d in findings.of(question) if d.scope in findings.people]
        if not found:
            continue
        by_place = {(d.absent, d.scope): d for d in found}
        rows = [
            [absent] + [_gain(by_place.get((absent, site)), findings) for site in findings.people]
            for absent in dict.fromkeys(d.absent for d in found)
        ]
        tables.append(
            Table(
                caption=f"{title}: gain (intervals are in joining.csv)",
                head=(question, *(f"at {s}" for s in findings.people)),
                rows=rows,
            )
        )
    return tables


_STARS = "* its interval leaves 0 out; ** so it does when all hospitals are judged together."


def _side_by_side(columns: Sequence[Sequence[Difference]], findings: Findings) -> list[list[str]]:
    """A row for each scope of the first column, with the gain of each column."""
    rows = []
    for one in columns[0]:
        cells = [next((d for d in column if d.scope == one.scope), None) for column in columns]
        rows.append([one.scope, *(_starred(d, findings) for d in cells)])
    return rows


def _starred(d: Difference | None, findings: Findings) -> str:
    if d is None or d.gain.value is None:
        return _NOTHING
    if d.verdict == "untold":
        return f"{_gain(d, findings)} (no interval)"
    stars = "" if d.verdict == "unclear" else "**" if d.stands else "*"
    return f"{_gain(d, findings)} ({interval(d, findings)}){stars}"


def _row(name: str, d: Difference, findings: Findings) -> list[str]:
    return [
        name,
        _value(d.before, findings),
        _value(d.after, findings),
        _gain(d, findings),
        interval(d, findings),
        _NOTHING if d.p_holm is None else f"{d.p_holm:.3f}",
        verdict_words(d),
    ]


def _gain(d: Difference | None, findings: Findings) -> str:
    if d is None or d.gain.value is None:
        return _NOTHING
    return signed(d.gain.value, findings.study.primary)


def _value(value: float | None, findings: Findings) -> str:
    return _NOTHING if value is None else plain(value, findings.study.primary)


def _level(findings: Findings, arm: str, scope: str) -> str:
    level = findings.level(arm, scope)
    if level is None or level.estimate.value is None:
        return _NOTHING
    text, sd = _value(level.estimate.value, findings), level.estimate.seeds_sd
    text += "" if sd is None else f" ± {plain(sd, findings.study.primary)}"
    lost = len(findings.seeds) - level.estimate.num_seeds
    return text + (f" ({level.estimate.num_seeds} of {len(findings.seeds)})" if lost else "")


def _note(differences: Sequence[Difference]) -> str:
    """Why some rows have no interval, and how many were judged together."""
    reasons = dict.fromkeys(f"{d.absent or d.scope}: {d.reason}." for d in differences if d.reason)
    number = max((d.num_compared for d in differences), default=0)
    together = f"Adjusted for {number} comparisons (Holm)." if number > 1 else ""
    return " ".join([*reasons, together]).strip()

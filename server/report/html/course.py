"""What happened: who took part and who was absent, what left, how long it took, and on what."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from common.page.charts import Line, line_chart
from common.page.document import (
    Block,
    Charts,
    Details,
    Heading,
    Items,
    Paragraph,
    Section,
    Table,
)
from common.page.words import bytes_text, listed, rounds_text, several
from common.study_file import study_to_toml
from server.report.html.facts import QUERY, Facts, MessageKind
from server.report.html.spread import is_private
from server.report.html.words import reason_of

_KINDS = {
    QUERY: "enrolment",
    "train": "training, with an evaluation of the model that came",
    "evaluate": "evaluation",
}
# A round's table grows no longer than this; the journal has every round.
_MOST_ROWS = 120


def taking_part(results: dict[str, Any]) -> Section:
    """Which hospital has what, and who was absent why."""
    blocks: list[Block] = []
    if results["sites"]:
        blocks.append(_offers(results) if is_private(results) else _counts(results))
    groups: dict[tuple[str, str], list[int]] = {}
    for absence in results["absent"]:
        groups.setdefault((absence["site"], absence["reason"]), []).append(absence["round"])
    blocks.append(Heading(text="Absences and refusals"))
    if not groups:
        blocks.append(Paragraph(text="No hospital was absent from any round."))
    else:
        rows = [
            [site, reason_of(reason), rounds_text(rounds)]
            for (site, reason), rounds in sorted(groups.items())
        ]
        blocks.append(
            Table(
                caption="Absent hospitals, why, and when",
                head=("hospital", "what happened", "rounds"),
                rows=rows,
                is_words=True,
                note=(
                    "The round is that of the model that was sent. A refusal is a hospital's "
                    "right; its own log tells more."
                ),
            )
        )
    blocks += _long_updates(results)
    return Section(key="part", title="Who took part", blocks=blocks)


def _long_updates(results: dict[str, Any]) -> list[Block]:
    """Whose updates were much longer than those of the others; nothing where none was."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for found in results.get("long_updates", []):
        groups.setdefault(found["site"], []).append(found)
    if not groups:
        return []
    rows = [
        [
            site,
            f"{max(f['times_median'] for f in found):g} times the median",
            rounds_text([f["round"] for f in found]),
        ]
        for site, found in sorted(groups.items())
    ]
    return [
        Heading(text="Suspiciously long updates"),
        Table(
            caption="Hospitals whose updates were over 3 times as long as the median, and when",
            head=("hospital", "at most", "rounds"),
            rows=rows,
            is_words=True,
            note=(
                "Other patients can be a reason; a faulty or hostile site is another. The updates "
                "were used as the study's strategy says."
            ),
        ),
    ]


def _counts(results: dict[str, Any]) -> Table:
    sites = sorted(results["sites"].items())
    names = list(dict.fromkeys(n for _, site in sites for n in site["training_patients"]))
    rows = [
        [site, *(f"{enrolled['training_patients'].get(name, 0):,}" for name in names)]
        for site, enrolled in sites
    ]
    sums = [sum(s["training_patients"].get(name, 0) for _, s in sites) for name in names]
    return Table(
        caption="Training patients, by granularity and by known outcome",
        head=("hospital", *names),
        rows=rows,
        total=("all", *(f"{count:,}" for count in sums)),
    )


def _offers(results: dict[str, Any]) -> Table:
    sites = sorted(results["sites"].items())
    offered = dict.fromkeys(name for _, site in sites for name in site["offers"])
    names = sorted(offered, key=lambda name: name in results["outcomes"])
    return Table(
        caption="What each hospital has",
        head=("hospital", *names),
        rows=[
            [site, *("yes" if name in enrolled["offers"] else "–" for name in names)]
            for site, enrolled in sites
        ],
        note="How many patients a hospital has is nobody's business in a private study.",
    )


def what_left(results: dict[str, Any], facts: Facts) -> Section:
    """Bytes by hospital and by round, and the names of all that was sent."""
    blocks: list[Block] = []
    if facts.messages:
        blocks += [
            Paragraph(
                text=(
                    f"In all, {bytes_text(results['bytes']['down'])} went to the hospitals and "
                    f"{bytes_text(results['bytes']['up'])} came back, without the framing of the "
                    "network. Below is every kind of reply, and the name of everything that "
                    "replies held, as the coordinator's journal has it. A hospital's own signed "
                    "log of what left is shown there by “wardround audit SITE_DIR”."
                )
            ),
            _messages(facts.messages, is_of_private_run=is_private(results)),
            Table(
                caption="What left each hospital",
                head=("hospital", "replies", "bytes"),
                rows=[
                    [site, f"{replies:,}", f"{size:,}"]
                    for site, (replies, size) in facts.bytes_by_site.items()
                ],
            ),
        ]
    if len(facts.rounds) > 1:
        blocks.append(Charts(charts=[_bytes_chart(facts)]))
    return Section(key="left", title="What left each hospital", blocks=blocks)


def _bytes_chart(facts: Facts) -> Any:
    largest = max(max(r.bytes_down, r.bytes_up) for r in facts.rounds)
    unit, size = next(
        u for u in (("MB", 1e6), ("kB", 1e3), ("bytes", 1)) if largest >= u[1] or u[1] == 1
    )
    return line_chart(
        "Sent by round, all hospitals together",
        x=[r.round for r in facts.rounds],
        lines=[
            Line(name="to the hospitals", values=[r.bytes_down / size for r in facts.rounds]),
            Line(
                name="back",
                values=[r.bytes_up / size for r in facts.rounds],
                look="second",
            ),
        ],
        x_label="round of the model that was sent",
        y_label=unit,
        description=(
            f"At most {bytes_text(largest)} in one direction of one round. The last exchange is "
            "the evaluation."
        ),
        from_zero=True,
    )


def _messages(kinds: Sequence[MessageKind], *, is_of_private_run: bool) -> Table:
    rows = []
    for kind in kinds:
        held = []
        if kind.kind == "train":
            noised = "noised update" if is_of_private_run else "update"
            held.append(f"one {noised} (a difference of parameters)")
        if kind.counts:
            what = "public weights, and no counts" if is_of_private_run else "counts of patients"
            held.append(f"{what}: {', '.join(kind.counts)}")
        if kind.statistics:
            held.append(f"statistics: {_by_owner(kind.statistics)}")
        if kind.has_receipts:
            held.append("receipt: the signed head of the hospital's ledger")
        rows.append(
            [
                _KINDS.get(kind.kind, kind.kind),
                f"{kind.num_replies:,}",
                bytes_text(kind.num_bytes),
                "; ".join(held) or "nothing",
            ]
        )
    return Table(
        caption="Replies of hospitals, by kind",
        head=("kind", "replies", "size", "what they held"),
        rows=rows,
        is_words=True,
    )


def _by_owner(names: Sequence[str]) -> str:
    """Names of statistics, each outcome's together.

    >>> _by_owner(["seconds_training", "event.loss_sum", "event.confusion"])
    'seconds_training; of event: loss_sum, confusion'
    """
    owners: dict[str, list[str]] = {}
    for name in names:
        owner, _, statistic = name.rpartition(".")
        owners.setdefault(owner, []).append(statistic)
    return "; ".join(
        (f"of {owner}: " if owner else "") + ", ".join(statistics)
        for owner, statistics in owners.items()
    )


def timing(results: dict[str, Any], facts: Facts) -> Section:
    """How long the run took, in all and by round."""
    seconds = results["seconds"]
    timed = {r.round + 1: r.seconds for r in facts.rounds if r.seconds is not None}
    told = [
        f"{seconds['rounds']:.2f} s in rounds: from the first task of a round to its new model.",
        f"{seconds['aggregation']:.2f} s of that in aggregation, {seconds['checkpoints']:.2f} s in "
        "writing checkpoints.",
    ]
    if is_private(results):
        told.append("How long hospitals worked is not told: it depends on their patients.")
    else:
        told.append(
            f"{seconds['site_training']:.2f} s of training and {seconds['site_evaluation']:.2f} s "
            "of evaluation at the hospitals, added up over them."
        )
    if timed:
        slowest = max(timed, key=lambda number: (timed[number], -number))
        told.append(
            f"A round took {median(timed.values()):.2f} s (median); the slowest, round {slowest}, "
            f"{timed[slowest]:.2f} s."
        )
    blocks: list[Block] = [Items(items=told)]
    if len(timed) > 1:
        rows = [
            [str(n), f"{value:.2f}"]
            for n, value in list(timed.items())[:: -(-len(timed) // _MOST_ROWS)]
        ]
        lines = [Line(name="seconds", values=list(timed.values()))]
        chart = line_chart(
            "Seconds of each round",
            x=list(timed),
            lines=lines,
            x_label="round",
            y_label="seconds",
            description=f"{several(len(rows), 'round')} timed; the slowest is round {slowest}.",
            from_zero=True,
        )
        blocks.append(Charts(charts=[chart]))
    return Section(key="time", title="Time", blocks=blocks)


def environment(results: dict[str, Any], facts: Facts) -> Section:
    """All that is needed to run it again."""
    rows = [
        ["run", results["run_id"]],
        ["status", results["status"]],
        ["started", results["started_at"]],
        ["last event", results["ended_at"]],
        ["Wardround", results["release"]],
        ["code, fingerprint", results["code"]],
        ["engine", results["engine"]],
        ["seed", str(results["seed"])],
        ["study", results["study"]],
        ["study, SHA-256", results["study_hash"]],
        ["optimiser of the server", results["strategy"]],
        ["resumed at rounds", ", ".join(map(str, results["resumed_at_rounds"])) or "never"],
        *(["started from another model", _transferred(t)] for t in results["transferred"]),
    ]
    blocks: list[Block] = [
        Table(
            caption="This run",
            head=("what", "value"),
            rows=rows,
            is_words=True,
            note=(
                "The same study, data and seed give the same model, bit for bit, on any engine, as "
                "long as no cryptographic noise for privacy is added."
            ),
        ),
        Details(summary="The effective study, as TOML", text=study_to_toml(facts.study)),
    ]
    return Section(key="environment", title="How to do it again", blocks=blocks)


def _transferred(transfer: dict[str, Any]) -> str:
    left = [f"{name} ({reason})" for name, reason in transfer["left"].items()]
    taken = f"taken: {listed(transfer['taken'])}" if transfer["taken"] else "nothing taken"
    return f"{taken}; not taken: {listed(left)}" if left else taken

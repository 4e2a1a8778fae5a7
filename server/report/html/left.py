"""What left each hospital: bytes by hospital and by round, and the name of all that was sent."""

from collections.abc import Sequence
from typing import Any

from common.page.charts import Line, line_chart
from common.page.document import Block, Chart, Charts, Paragraph, Section, Table
from common.page.words import bytes_text
from server.report.html.facts import QUERY, Facts, MessageKind
from server.report.privacy import is_private

_KINDS = {
    QUERY: "enrolment",
    "train": "training, with an evaluation of the model that came",
    "evaluate": "evaluation",
}


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
                    "replies held, as the coordinator's journal has it. What each name is, and why "
                    "it may leave, is in Wardround's documentation, “What leaves your hospital”. A "
                    "hospital's own log of what left is shown there by “wardround audit SITE_DIR”, "
                    "and as a signed page by “wardround dossier SITE_DIR”."
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


def _bytes_chart(facts: Facts) -> Chart:
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

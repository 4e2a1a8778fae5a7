"""What happened: who took part and who was absent, how long it took, and on what."""

from statistics import median
from typing import Any

from common.page.charts import Line, line_chart
from common.page.document import Block, Charts, Details, Heading, Items, Paragraph, Section, Table
from common.page.words import listed, rounds_text, several
from common.study_file import study_to_toml
from server.report.html.facts import Facts
from server.report.html.words import reason_of
from server.report.privacy import is_private

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
        ["last rounds whose models were averaged", str(results["averaged_rounds"] or "none")],
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

"""The part of the page that tells what left, and to whom: run by run, message by message."""

from collections.abc import Mapping, Sequence
from typing import Any

from client.dossier.runs import Protection
from client.dossier.words import kind_of
from client.plain_text import plain
from common.page.document import Block, Heading, Items, Paragraph, Section, Table
from common.page.words import bytes_text, listed, rounds_text, several
from common.site_keys import fingerprint

# Of more messages in a run, the page shows the first and the last half; the JSON file has all.
_MOST_MESSAGES = 1000

PROTECTIONS = {
    Protection.PATIENT: "each patient",
    Protection.NONE: "none",
    Protection.NOTHING_LEFT: "nothing of patients left",
    Protection.UNKNOWN: "not known",
}


def what_left(dossier: Mapping[str, Any]) -> Section:
    """To whom this hospital sent something, and what, by run."""
    blocks: list[Block] = [Paragraph(text=_to_whom(dossier))]
    if dossier["runs"]:
        blocks.append(_runs(dossier))
    for run in dossier["runs"]:
        blocks += _run(run)
    return Section(key="left", title="What left, and to whom", blocks=blocks)


def size_text(told: Mapping[str, Any]) -> str:
    """A sum of sizes; at least so much, where the log tells not all of them.

    >>> size_text({"size_bytes": 4200, "num_of_unknown_size": 0})
    '4.2 kB'
    """
    at_least = "at least " if told["num_of_unknown_size"] else ""
    return at_least + bytes_text(told["size_bytes"])


def name_of(run: Mapping[str, Any]) -> str:
    """A run's id as it may be shown; messages that were no task have none."""
    return plain(run["run_id"]) or "no run"


def _to_whom(dossier: Mapping[str, Any]) -> str:
    if dossier["is_simulation"]:
        return "Everything went to a simulated coordinator on the same machine."
    key = dossier["coordinator_key"]
    if key is None:
        return (
            "This hospital has joined no consortium, so that it knows no coordinator; each run "
            "below names the study for which something left."
        )
    return (
        "Everything went to one receiver: the coordinator of the consortium that this hospital has "
        f"joined, whose signing key has the fingerprint {fingerprint(bytes.fromhex(key))}. It "
        "signed each task that was answered, and each answer was for one run of one study."
    )


def _runs(dossier: Mapping[str, Any]) -> Table:
    rows = [
        (
            name_of(run),
            _study(run),
            _days(run),
            rounds_text(run["rounds"]) or "–",
            f"{sum(kind['num_messages'] for kind in run['kinds']):,}",
            size_text(_sizes(run)),
            f"{sum(run['refusals'].values()):,}",
            PROTECTIONS[Protection(run["privacy"]["protection"])],
        )
        for run in dossier["runs"]
    ]
    left = dossier["left"]
    total = ("together", "", "", "", f"{left['num_messages']:,}", size_text(left))
    return Table(
        caption="Runs that asked something of this hospital",
        head=("run", "study", "days", "rounds", "messages", "size", "refused", "privacy of"),
        rows=rows,
        total=(*total, f"{left['num_refusals']:,}", ""),
        note="Sizes are of the numbers in the messages.",
        is_words=True,
    )


def _days(run: Mapping[str, Any]) -> str:
    first, last = (plain(run[name][:10]) for name in ("first_at", "last_at"))
    return first if first == last else f"{first} to {last}"


def _sizes(run: Mapping[str, Any]) -> dict[str, int]:
    names = ("size_bytes", "num_of_unknown_size")
    return {name: sum(kind[name] for kind in run["kinds"]) for name in names}


def _study(run: Mapping[str, Any]) -> str:
    return f"{plain(run['study'])} {plain(run['study_hash'])[:8]}".strip() or "none"


def _run(run: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [Heading(text=f"Run {name_of(run)}")]
    if run["kinds"]:
        blocks.append(
            Table(
                caption="What was sent, by kind",
                head=("kind", "messages", "numbers", "size", "largest norm"),
                rows=[_kind(kind) for kind in run["kinds"]],
                is_words=True,
            )
        )
        held = [f"{kind_of(kind['kind']).capitalize()}: {_held(kind)}." for kind in run["kinds"]]
        blocks.append(Items(items=[plain(text, most=5000) for text in held]))
    if run["withheld"]:
        names = [f"{plain(name)} ({count} ×)" for name, count in run["withheld"].items()]
        text = f"Kept back or rounded by this hospital's policy: {listed(names, most=30)}."
        blocks.append(Paragraph(text=text))
    blocks.append(_messages(run["messages"]))
    return blocks


def _kind(kind: Mapping[str, Any]) -> tuple[str, ...]:
    norm = kind["largest_norm"]
    return (
        plain(kind_of(kind["kind"])),
        f"{kind['num_messages']:,}",
        f"{kind['num_elements']:,} each" if kind["num_elements"] else "–",
        size_text(kind),
        "–" if norm is None else f"{norm:.4g}",
    )


def _held(kind: Mapping[str, Any]) -> str:
    parts = ["one array of numbers"] if kind["num_elements"] else []
    for name in ("counts", "statistics"):
        if kind[name]:
            parts.append(f"{name} {listed([plain(n) for n in kind[name]], most=40)}")
    if kind["num_receipts"]:
        parts.append(several(kind["num_receipts"], "receipt") + " of the ledger")
    return "; ".join(parts) or "nothing but that it was done"


def _messages(messages: Sequence[Mapping[str, Any]]) -> Table:
    num, half = len(messages), _MOST_MESSAGES // 2
    shown = messages if num <= _MOST_MESSAGES else [*messages[:half], *messages[-half:]]
    note = "" if len(shown) == num else f"The first and the last {half} of {num:,}; dossier.json "
    return Table(
        summary=f"Each message: {num:,}",
        caption="Each answer, oldest first",
        head=("time, UTC", "round", "kind", "answer", "size", "norm", "SHA-256", "ledger entry"),
        rows=[_message(message) for message in shown],
        note=note + ("has all of them." if note else ""),
    )


def _message(message: Mapping[str, Any]) -> tuple[str, ...]:
    size, norm, entry = message["size_bytes"], message["norm"], message["ledger_entry"]
    return (
        plain(message["at"][:19].replace("T", " ")),
        str(message["round"]),
        plain(kind_of(message["kind"])),
        plain(message["status"]),
        "–" if size is None else bytes_text(size),
        "–" if norm is None else f"{norm:.4g}",
        "–" if message["sha256"] is None else f"{plain(message['sha256'])[:16]}…",
        "–" if entry is None else str(entry),
    )

"""The dossier as one HTML page: a function of its JSON and nothing else."""

from collections.abc import Mapping
from typing import Any

from client.dossier.contents import faults_of
from client.dossier.page_attacks import attacks
from client.dossier.page_privacy import cost, refused
from client.dossier.page_runs import size_text, what_left
from client.dossier.runs import Protection
from client.ledger.view import epsilon_text
from client.plain_text import plain
from common.page.document import (
    Block,
    Details,
    Figure,
    Figures,
    Heading,
    Items,
    Page,
    Paragraph,
    Section,
    Table,
    html_of,
)
from common.page.words import several
from common.site_keys import fingerprint

_MOST_FAULTS = 10
_DOOR = "The door lets no patient's record through."
_NOT_TOLD = (
    "What a person took out of this hospital by any other way: it tells of what passed "
    "Wardround's door.",
    "What Wardround's own process wrote to disks here, which did not leave.",
    "Bytes of names, signatures and encryption around the numbers, which say nothing of patients.",
)


def page_of(dossier: Mapping[str, Any], signature: str | None) -> str:
    """The page of a dossier.

    Guarantees:
        - Equal dossiers give equal pages.
        - What a coordinator wrote (ids, names) is shown on one line, and as text alone.
        - Where a chain is broken, it says so first, and shows no bound.
    """
    site = plain(dossier["site"])
    scope = "all runs" if dossier["only_run"] is None else f"run {plain(dossier['only_run'])} alone"
    page = Page(
        title=f"What left hospital {site}",
        subtitle=[
            f"Egress dossier of the data set “{plain(dossier['dataset_id'])}”, {scope}. Written "
            f"{when_text(dossier['made_at'])} UTC by Wardround {plain(dossier['release'])}, from "
            "this hospital's own audit log and ledger."
        ],
        sections=[
            _in_short(dossier),
            what_left(dossier),
            cost(dossier),
            refused(dossier),
            attacks(dossier),
            _rests_on(dossier, signature),
        ],
        footer="Not a medical device; not for decisions about patients.",
    )
    return html_of(page)


def when_text(at: str) -> str:
    """A time of the books as people read it.

    >>> when_text("2026-03-01T09:00:07.123+00:00")
    '2026-03-01 09:00'
    """
    return plain(at[:16].replace("T", " "))


def _in_short(dossier: Mapping[str, Any]) -> Section:
    left, faults = dossier["left"], faults_of(dossier)
    blocks: list[Block] = [Paragraph(text=_lead(dossier), look="lead")]
    if faults:
        text = (
            "The books are NOT what was written. This page tells of what can still be read of "
            "them, up to the first fault, and claims no bound."
        )
        blocks += [Paragraph(text=text, look="fault"), Items(items=_first(faults))]
    if dossier["is_simulation"]:
        text = "This is a simulation on one machine: nothing of it left a real hospital."
        blocks.append(Paragraph(text=text, look="note"))
    figures = [
        Figure(
            name="Left this hospital",
            value=("at least " if faults else "") + size_text(left),
            more=several(left["num_messages"], "message"),
        ),
        Figure(name="Refused", value=f"{left['num_refusals']:,}", more="by a code, nothing else"),
        *_privacy_figures(dossier),
    ]
    blocks += [
        Figures(figures=figures),
        Heading(text="What this page does not tell"),
        Items(items=_NOT_TOLD),
    ]
    return Section(key="in-short", title="In short", blocks=blocks)


def _first(faults: list[str]) -> list[str]:
    shown = [f"{plain(fault, most=500)}." for fault in faults[:_MOST_FAULTS]]
    rest = len(faults) - len(shown)
    return [*shown, *([f"And {rest:,} more, in dossier.json."] if rest else [])]


def _lead(dossier: Mapping[str, Any]) -> str:
    runs = dossier["runs"]
    if not runs:
        return "Nothing was ever asked of this hospital, and nothing left it."
    studies = {run["study_hash"] for run in runs}
    first = when_text(min(r["first_at"] for r in runs))
    last = when_text(max(r["last_at"] for r in runs))
    when = f"On {first}" if first == last else f"From {first} to {last}"
    of = "study" if len(studies) == 1 else "studies"
    return (
        f"{when} (UTC) this hospital was asked by "
        f"{several(len(runs), 'run')} of {len(studies)} {of}. It sent "
        f"{several(dossier['left']['num_messages'], 'message')} of numbers and refused "
        f"{dossier['left']['num_refusals']:,}. "
        + ("More is not known." if faults_of(dossier) else _DOOR)
    )


def _privacy_figures(dossier: Mapping[str, Any]) -> list[Figure]:
    privacy = dossier["privacy"]
    bare = [r for r in dossier["runs"] if r["privacy"]["protection"] == Protection.NONE]
    figures = []
    if privacy is not None:
        spent = "unbounded" if privacy["epsilon"] is None else epsilon_text(privacy["epsilon"])
        at_least = "at least " if privacy["is_at_least"] else ""
        budget = privacy["budget"]
        of = "no budget in the policy" if budget is None else f"of {epsilon_text(budget)} allowed"
        figures.append(
            Figure(
                name="Epsilon spent, all runs",
                value=at_least + spent,
                more=f"{of}; delta {privacy['delta']:g}",
            )
        )
    if bare or privacy is None:
        more = "what they sent has no bound" if bare else "nothing of patients was sent"
        figures.append(Figure(name="Runs without privacy", value=str(len(bare)), more=more))
    return figures


def _rests_on(dossier: Mapping[str, Any], signature: str | None) -> Section:
    audit, ledger = dossier["chains"]["audit"], dossier["chains"]["ledger"]
    rows = [_chain_row("audit log", audit, audit["num_lines"])]
    if ledger is not None:
        rows.append(_chain_row("ledger", ledger, ledger["num_entries"]))
    blocks: list[Block] = [
        Paragraph(
            text="Both books are chains: each line holds the digest of the one before, so that "
            "the last digest stands for all. They were verified before this page was written."
        ),
        Table(
            caption="Chains, and the heads that this page rests on",
            head=("book", "lines", "last line", "its digest", "verified"),
            rows=rows,
        ),
        Items(items=[f"Not shown by this: {plain(x, most=500)}." for x in audit["limits"]]),
        *_countersigned(ledger),
        Heading(text="Signature"),
        *_signature(dossier, signature),
    ]
    return Section(key="rests-on", title="What this rests on", blocks=blocks)


def _chain_row(name: str, chain: Mapping[str, Any], num_lines: int) -> tuple[str, ...]:
    head = chain["head"]
    where = ("–", "–") if head is None else (f"{head['seq']}", f"{plain(head['digest'])[:32]}…")
    return (name, f"{num_lines:,}", *where, "NOT whole" if chain["faults"] else "whole")


def _countersigned(ledger: Mapping[str, Any] | None) -> list[Block]:
    if ledger is None:
        return []
    newest = ledger["newest_countersigned"]
    if newest is None:
        text = "No head of the ledger was ever countersigned by the coordinator."
    else:
        text = (
            f"The coordinator has countersigned entry {newest['seq']} of the ledger (digest "
            f"{newest['digest'][:32]}…) with the key {_key_text(newest['key'])}: entries up to "
            "that one cannot be changed or lost unseen, by either side."
        )
    return [Paragraph(text=text)]


def _signature(dossier: Mapping[str, Any], signature: str | None) -> list[Block]:
    if signature is None or dossier["public_key"] is None:
        text = (
            "None: this simulated hospital has no key. Who can write this file can write another."
        )
        return [Paragraph(text=text, look="warn")]
    return [
        Paragraph(
            text="The dossier (dossier.json, beside this page) is signed by this hospital's key, "
            f"whose fingerprint is {_key_text(dossier['public_key'])}. Have it read to you on the "
            "phone, at a number that did not come with this page. Then “wardround dossier --verify "
            "dossier.json --fingerprint "
            f"'{fingerprint(bytes.fromhex(dossier['public_key']))}'” tells whether the dossier, "
            "and this page with it, is what the hospital has written."
        ),
        Details(summary="The signature (Ed25519)", text=signature),
    ]


def _key_text(key: str) -> str:
    return fingerprint(bytes.fromhex(key))

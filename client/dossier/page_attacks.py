"""The part of the page that tells what somebody could do with what left: limits, in plain words.

Under privacy of patients they follow from epsilon and delta alone, whatever an attack knows or will
ever be able to do. Without it there is none, and what is told is which attacks are known to work.
"""

from collections.abc import Mapping
from typing import Any

from client.dossier.page_runs import name_of
from client.dossier.runs import Protection
from client.ledger.view import epsilon_text
from client.plain_text import plain
from common.messages import TaskKind
from common.page.document import Block, Heading, Items, Paragraph, Section, Table
from common.page.words import listed
from common.privacy.meaning import A_LIMIT, HOW_STRONG, meaning_of, percent_text

_KNOWN_ATTACKS = {
    TaskKind.TRAIN: (
        "From an update: a receiver can try to compute patients back. From updates that few "
        "patients made, pictures and rows of tables were recovered almost exactly; a receiver who "
        "chooses the model to be trained can make this work for many patients at once.",
        "From the model, which all updates made: whoever has it can try to tell whether a patient "
        "was trained on (membership inference), the better the more the model was overfitted.",
    ),
    TaskKind.EVALUATE: (
        "From exact sums: two statistics over groups that differ in one patient tell of that "
        "patient. Groups below the policy's smallest group were kept back, which makes this harder "
        "and does not rule it out.",
    ),
    TaskKind.ENROL: (
        "From counts, sums and sums of squares at enrolment: the same, of each measured quantity.",
    ),
}


def attacks(dossier: Mapping[str, Any]) -> Section:
    """What no attack can pass, and for runs without privacy which attacks are known to work."""
    protections = {run["privacy"]["protection"] for run in dossier["runs"]}
    blocks: list[Block] = []
    if Protection.UNKNOWN in protections:
        text = (
            "The books are not whole, so no limit is told here: it would rest on what is missing."
        )
        blocks.append(Paragraph(text=text, look="fault"))
    limits = _limits(dossier)
    blocks += limits
    if limits and dossier["is_simulation"]:
        text = "A simulation's noise follows from its seed: these hold with a hospital's own noise."
        blocks.append(Paragraph(text=text, look="warn"))
    blocks += _unprotected(dossier)
    if not blocks:
        blocks.append(Paragraph(text="Nothing of patients left, so there is nothing to attack."))
    return Section(key="attacks", title="What could be done with it", blocks=blocks)


def _limits(dossier: Mapping[str, Any]) -> list[Block]:
    bounds = dossier["bounds"]
    if not any(bound["epsilon"] for bound in bounds):
        return []
    last = bounds[-1]
    told = "all runs together" if last["run_id"] is None else f"run {name_of(last)}"
    meaning = meaning_of(last["epsilon"], last["delta"], shown=epsilon_text(last["epsilon"]))
    rows = [
        (
            "all runs together" if bound["run_id"] is None else name_of(bound),
            epsilon_text(bound["epsilon"]),
            percent_text(bound["guess_right_at_most"]),
            percent_text(bound["recognised_at_most"]),
            percent_text(bound["value_found_at_most"]),
        )
        for bound in bounds
    ]
    return [
        Heading(text="Limits that hold against every attack"),
        Paragraph(text=f"Of {told}: {meaning} {A_LIMIT}. {HOW_STRONG}"),
        Table(
            caption="What an attack on one patient reaches at most",
            head=("what left for", "epsilon", "took part? right", "recognised", "value found"),
            rows=rows,
            note=(
                f"At delta {last['delta']:g}. Took part? right: a guess whether the patient took "
                "part, by chance right in 50 %. Recognised: by a rule that takes 1 of 100 others "
                "for a patient. Value found: one that a guess finds once in 1,000 times if the "
                "patient took no part. A patient of several hospitals pays at each."
            ),
        ),
        Paragraph(
            look="note",
            text="What is true of people like a patient, whether or not the patient took part, can "
            "still be learned: that is what a study is for.",
        ),
    ]


def _unprotected(dossier: Mapping[str, Any]) -> list[Block]:
    bare = [r for r in dossier["runs"] if r["privacy"]["protection"] == Protection.NONE]
    if not bare:
        return []
    kinds = {kind["kind"] for run in bare for kind in run["kinds"]}
    known = [text for kind, texts in _KNOWN_ATTACKS.items() if kind in kinds for text in texts]
    names = listed([name_of(run) for run in bare])
    return [
        Heading(text="Without privacy of patients"),
        Paragraph(
            look="warn",
            text=f"No limit holds for {plain(names, most=1000)}: exact numbers left, without "
            "noise. No record of a patient is among them, but nothing rules out by mathematics "
            "that something of one patient can be computed from them.",
        ),
        *([Items(items=known)] if known else []),
        Paragraph(
            text="How far such attacks get on Wardround's own models, with and without privacy, is "
            "measured in docs/attacks.md, which is shipped with it."
        ),
    ]

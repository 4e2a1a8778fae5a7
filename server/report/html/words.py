"""Plain words: what a metric means, why a hospital was absent, how many and how much."""

from common.errors import RefusalCode

_REASONS = {
    "late": "did not answer in time",
    "error": "its process failed",
    "malformed": "sent something that is not a reply",
    "another node has enrolled under this name": "another node had enrolled under its name",
    "not in the roster": "is not in the consortium's roster",
    RefusalCode.MESSAGE_MALFORMED: "refused: the task was malformed",
    RefusalCode.TASK_NOT_SIGNED: "refused: the task was not signed by the coordinator it knows",
    RefusalCode.TASK_FOR_ANOTHER_SITE: "refused: the task was meant for another hospital",
    RefusalCode.TASK_REPLAYED: "refused: the task had been sent before",
    RefusalCode.CODE_MISMATCH: "refused: it runs another version of the code",
    RefusalCode.STUDY_NOT_ACCEPTED: "refused: nobody there has accepted this study",
    RefusalCode.PRIVACY_REQUIRED: "refused: its policy asks for privacy of its patients",
    RefusalCode.PRIVACY_TOO_WEAK: "refused: the study's privacy is weaker than its policy",
    RefusalCode.BUDGET_EXCEEDED: "refused: its privacy budget does not suffice",
    RefusalCode.LEDGER_BEHIND: "refused: its ledger is an older copy than the one it had signed",
    RefusalCode.ROUND_REPEATED: "refused: it had answered this round before, for another model",
    RefusalCode.ROUND_LIMIT: "refused: more rounds than its policy allows",
    RefusalCode.STEP_LIMIT: "refused: more training steps than its policy allows",
    RefusalCode.ARRAYS_MISMATCH: "refused: the model is not the one of the study",
    RefusalCode.ARRAYS_NOT_FINITE: "refused: the model has values that are not numbers",
    RefusalCode.TOO_FEW_PATIENTS: "refused: it has fewer patients than its policy asks for",
    RefusalCode.UPDATE_NOT_FINITE: "refused: its training diverged",
    RefusalCode.EGRESS_BLOCKED: "refused: its own door held back what was to leave",
    RefusalCode.DISK_FULL: "its disk was full",
    RefusalCode.OUT_OF_MEMORY: "its process ran out of memory",
    RefusalCode.INTERNAL_ERROR: "an error in its process, told in its own log",
}


def reason_of(reason: str) -> str:
    """Why a site was absent, in words; a reason without words is shown as it is.

    >>> reason_of("late"), reason_of("rejected: an update that is too long")
    ('did not answer in time', 'the coordinator dropped its reply: an update that is too long')
    """
    if reason.startswith("rejected: "):
        return f"the coordinator dropped its reply: {reason.removeprefix('rejected: ')}"
    return _REASONS.get(reason, reason)


def meaning_of(metric: str, value: float, *, unit: str, outcome: str) -> str:
    """What a metric's value says, in one sentence; empty where no short one would be true.

    >>> meaning_of("auroc", 0.732, unit="", outcome="event")[:60]
    'Of two patients of whom one has the outcome “event” and one '
    """
    if metric == "auroc":
        return (
            f"Of two patients of whom one has the outcome “{outcome}” and one has not, the model "
            f"gives the higher risk to the right one in about {100 * value:.0f} of 100 cases; "
            "guessing would be right in 50."
        )
    if metric == "c_index":
        return (
            "Of two patients of whom it is known who had the event first, the model gives the "
            f"higher risk to the right one in about {100 * value:.0f} of 100 cases; guessing would "
            "be right in 50."
        )
    if metric == "mae":
        return f"Predictions of “{outcome}” are off by {value:,.4g} {unit} on average."
    return ""


def bytes_text(count: float) -> str:
    """A size that people can read.

    >>> bytes_text(812), bytes_text(2_153), bytes_text(4_200_000)
    ('812 B', '2.2 kB', '4.2 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def several(count: int, noun: str) -> str:
    """A count with its noun.

    >>> several(1, "round"), several(3, "hospital")
    ('1 round', '3 hospitals')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: list[str], *, most: int = 8) -> str:
    """Names in a sentence, not more than `most` of them.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=2)
    ('a, b and c', 'a, b and 1 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def rounds_text(rounds: list[int]) -> str:
    """Round numbers with runs of neighbours joined.

    >>> rounds_text([4, 1, 2, 3, 7, 7])
    '1–4, 7'
    """
    spans: list[list[int]] = []
    for number in sorted(set(rounds)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans)

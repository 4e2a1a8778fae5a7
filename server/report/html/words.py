"""Plain words of a run: what a metric means, and why a hospital was absent."""

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
    RefusalCode.ROUND_REPEATED: "refused: it had answered this round before, for other models",
    RefusalCode.ROUND_LIMIT: "refused: more rounds than its policy allows",
    RefusalCode.RUN_LIMIT: "refused: its policy allows no further run without privacy",
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

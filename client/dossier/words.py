"""Plain words for what a hospital's log tells: kinds of messages, and why a task was refused."""

from common.errors import RefusalCode
from common.messages import TaskKind

_KINDS: dict[str, str] = {
    TaskKind.ENROL: "enrolment",
    TaskKind.TRAIN: "training",
    TaskKind.EVALUATE: "evaluation",
}

_REASONS: dict[str, str] = {
    RefusalCode.MESSAGE_MALFORMED: "the message was not one of Wardround's",
    RefusalCode.TASK_NOT_SIGNED: "the coordinator that this hospital knows had not signed it",
    RefusalCode.TASK_FOR_ANOTHER_SITE: "it was meant for another hospital",
    RefusalCode.TASK_REPLAYED: "it had been sent before",
    RefusalCode.CODE_MISMATCH: "the coordinator runs another version of the software",
    RefusalCode.STUDY_NOT_ACCEPTED: "nobody here has accepted this study",
    RefusalCode.PRIVACY_REQUIRED: "the study protects no patient, and the policy asks for that",
    RefusalCode.PRIVACY_TOO_WEAK: "the study's privacy is weaker than the policy allows",
    RefusalCode.BUDGET_EXCEEDED: "it would have cost more privacy than the policy's budget",
    RefusalCode.LEDGER_BEHIND: "the ledger here was an older copy than the one both sides signed",
    RefusalCode.ROUND_REPEATED: "the round had been answered before: for another model, or several",
    RefusalCode.ROUND_LIMIT: "it asked for more rounds or tasks than the policy allows",
    RefusalCode.RUN_LIMIT: "the policy allows these data no further run without privacy",
    RefusalCode.STEP_LIMIT: "it asked for more training steps than the policy allows",
    RefusalCode.ARRAYS_MISMATCH: "the model was not the one of the study",
    RefusalCode.ARRAYS_NOT_FINITE: "the model held values that are not numbers",
    RefusalCode.TOO_FEW_PATIENTS: "there are fewer patients here than the policy asks for",
    RefusalCode.UPDATE_NOT_FINITE: "training here diverged; nothing of it left",
    RefusalCode.EGRESS_BLOCKED: "the door held back what was to leave",
    RefusalCode.DISK_FULL: "the disk was full",
    RefusalCode.OUT_OF_MEMORY: "there was not enough memory",
    RefusalCode.INTERNAL_ERROR: "something failed here; the site's own log tells where",
}


def kind_of(kind: str) -> str:
    """The kind of a message in words; one without words is shown as it is.

    >>> kind_of("query"), kind_of("train")
    ('enrolment', 'training')
    """
    return _KINDS.get(kind, kind)


def reason_of(code: str) -> str:
    """Why a task was refused, in words.

    >>> reason_of("task_replayed")
    'it had been sent before'
    """
    return _REASONS.get(code, "for a reason that this version has no words for")

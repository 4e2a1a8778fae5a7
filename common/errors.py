"""Every error of Wardround, and the closed list of codes that may leave a hospital.

    WardroundError
    ├── StudyError          the study file is malformed, or does not fit what it is used with
    ├── SiteConfigError     site.toml or its policy is missing or malformed
    ├── DataError           a site folder's data cannot be used as they are
    ├── MessageError        bytes from the other side do not follow the contract
    ├── CheckpointError     a checkpoint is missing, damaged, or of another study
    ├── CohortError         too few hospitals take part to aggregate a round
    ├── RunError            a run folder cannot be used (occupied, unfinished, not a run)
    ├── SiteProcessError    the site process did not answer its connector
    ├── ProvisionError      keys, certificates or a roster cannot be made or trusted
    └── Refusal             a site declines a task; its `RefusalCode` is all that is sent

A text says what was expected, what was found, where, and what to do. At a site it holds counts
and never a value. No text crosses the hospital's boundary: only a `RefusalCode` does.
"""

from enum import StrEnum


class WardroundError(Exception):
    """Base of all errors that a user can act on; the command line prints it and exits with 1."""

    code = "error"


class StudyError(WardroundError):
    """The study file is malformed, or does not fit the data or the model it is used with."""

    code = "study"


class SiteConfigError(WardroundError):
    """`site.toml` is missing or malformed, or has no policy: the site must not start."""

    code = "site_config"


class DataError(WardroundError):
    """The data of a site folder cannot be used as they are."""

    code = "data"


class MessageError(WardroundError):
    """A message does not follow the wire contract."""

    code = "message"


class CheckpointError(WardroundError):
    """A checkpoint is missing, damaged, or belongs to another study."""

    code = "checkpoint"


class CohortError(WardroundError):
    """Fewer hospitals than the study's minimum answered, so nothing was aggregated."""

    code = "cohort"


class RunError(WardroundError):
    """A run folder cannot be used: it is occupied, holds no run, or lacks what was asked of it."""

    code = "run"


class SiteProcessError(WardroundError):
    """The site process did not answer.

    Attributes:
        may_retry: whether the same call may be answered later (it starts, restarts or is busy).
    """

    code = "site_process"

    def __init__(self, text: str, *, may_retry: bool) -> None:
        super().__init__(text)
        self.may_retry = may_retry


class ProvisionError(WardroundError):
    """Keys, certificates or the roster of a consortium cannot be made, trusted or used as asked."""

    code = "provision"


class RefusalCode(StrEnum):
    """The only words in which a site says that it did not do a task."""

    MESSAGE_MALFORMED = "message_malformed"
    TASK_NOT_SIGNED = "task_not_signed"
    TASK_FOR_ANOTHER_SITE = "task_for_another_site"
    TASK_REPLAYED = "task_replayed"
    CODE_MISMATCH = "code_mismatch"
    STUDY_NOT_ACCEPTED = "study_not_accepted"
    PRIVACY_REQUIRED = "privacy_required"
    PRIVACY_TOO_WEAK = "privacy_too_weak"
    BUDGET_EXCEEDED = "budget_exceeded"
    LEDGER_BEHIND = "ledger_behind"
    ROUND_REPEATED = "round_repeated"
    ROUND_LIMIT = "round_limit"
    RUN_LIMIT = "run_limit"
    STEP_LIMIT = "step_limit"
    ARRAYS_MISMATCH = "arrays_mismatch"
    ARRAYS_NOT_FINITE = "arrays_not_finite"
    TOO_FEW_PATIENTS = "too_few_patients"
    UPDATE_NOT_FINITE = "update_not_finite"
    EGRESS_BLOCKED = "egress_blocked"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    INTERNAL_ERROR = "internal_error"


class Refusal(WardroundError):  # noqa: N818  # an answer, not a failure
    """A site declines a task. The code is sent; the text stays in the site's own log."""

    code = "refusal"

    def __init__(self, refusal_code: RefusalCode, text: str) -> None:
        super().__init__(text)
        self.refusal_code = refusal_code

"""Tasks and replies: everything that crosses a hospital's boundary is a field of one of them.

Plain values, without Flower; their one form on the wire is in `common.wire`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from common.arrays import Arrays
from common.receipts import Countersigned, Receipt

OK = "ok"


class TaskKind(StrEnum):
    """What a site is asked for. The values are Flower's message types."""

    ENROL = "query"
    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the coordinator asks of one site. All else is in the study, which the site has accepted.

    Attributes:
        kind: enrol, train or evaluate.
        run_id: our own id of the run; it survives a resume.
        round: how many aggregations the model in `arrays` has seen, 0…R.
        nonce: differs between any two tasks of a run.
        study_hash: of the effective study, every setting included; 64 hex digits.
        code: fingerprint of the sender's common and client code.
        site: the name of the site that is asked; "" where nobody is addressed, in simulation.
        arrays: the model (parameters and normalisation), float32; None when enrolling.
        ledger: the newest head of the site's ledger that both sides have signed.
        signature: the coordinator's, over all of the above (`common.envelope`); 128 hex digits.
    """

    kind: TaskKind
    run_id: str
    round: int
    nonce: str
    study_hash: str
    code: str
    site: str = ""
    arrays: Arrays | None = None
    ledger: Countersigned | None = None
    signature: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a site answers: an update, counts and metric sums, or a refusal code and nothing else.

    Attributes:
        kind, run_id, round, nonce: of the task that is answered.
        site: the name of the hospital in the roster.
        status: "ok", or the value of a `RefusalCode`.
        arrays: the update (train, float32), the moments (enrol, float64), or None.
        counts: patients by granularity, and "patients" for all of them.
        metrics: the sums of `common.metrics`, flat; without privacy also seconds of work by phase.
        receipt: of a site with a ledger, its head.
        signature: the site's, over all of the above (`common.envelope`); 128 hex digits.
    """

    kind: TaskKind
    run_id: str
    round: int
    nonce: str
    site: str
    status: str = OK
    arrays: Arrays | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    receipt: Receipt | None = None
    signature: str | None = None

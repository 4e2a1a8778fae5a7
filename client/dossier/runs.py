"""What left a hospital, folded by run: names, sizes, norms and digests, message by message.

Of counts the names alone are told: their numbers left for the coordinator, and not for whoever is
shown a dossier. Must not import torch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from math import isfinite
from typing import Any

from client.audit_view import Answer, AuditView
from client.ledger.view import LedgerView, RunSpending
from common.messages import OK

# A run's id and the hash of its study, as the ledger tells runs apart.
Run = tuple[str, str]


class Protection(StrEnum):
    """What bounds what can be learned of a patient from a run."""

    PATIENT = "patient"
    NONE = "none"
    NOTHING_LEFT = "nothing_left"
    UNKNOWN = "unknown"


def runs_of(
    audit: AuditView, ledger: LedgerView | None, studies: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every run that asked something of this hospital, in the order in which they came.

    Args:
        studies: names by hash, where they are known from elsewhere than the ledger.
    """
    answers: dict[Run, list[Answer]] = {}
    for answer in audit.answers:
        answers.setdefault((answer.run_id, answer.study_hash), []).append(answer)
    spent = {} if ledger is None else {(r.run_id, r.study_hash): r for r in ledger.runs}
    is_known = not audit.faults and not (ledger and ledger.faults)
    return [
        _run(run, answers.get(run, []), spent.get(run), studies, is_known=is_known)
        for run in dict.fromkeys([*answers, *spent])
    ]


def totals_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The runs summed up: messages and bytes, by kind and in all."""
    kinds: dict[str, Counter[str]] = {}
    for run in runs:
        for kind in run["kinds"]:
            numbers = {n: kind[n] for n in ("num_messages", "size_bytes", "num_of_unknown_size")}
            kinds.setdefault(kind["kind"], Counter()).update(numbers)
    refusals: Counter[str] = Counter()
    for run in runs:
        refusals.update(run["refusals"])
    whole = sum(kinds.values(), Counter())
    return {
        "num_messages": whole["num_messages"],
        "size_bytes": whole["size_bytes"],
        "num_of_unknown_size": whole["num_of_unknown_size"],
        "by_kind": {kind: dict(numbers) for kind, numbers in sorted(kinds.items())},
        "num_refusals": sum(refusals.values()),
        "refusals": dict(sorted(refusals.items())),
    }


def _run(
    run: Run,
    answers: Sequence[Answer],
    spent: RunSpending | None,
    studies: Mapping[str, str],
    *,
    is_known: bool,
) -> dict[str, Any]:
    run_id, study_hash = run
    times = [a.at for a in answers] + ([] if spent is None else [spent.first_at, spent.last_at])
    left = [a for a in answers if a.status == OK]
    return {
        "run_id": run_id,
        "study": spent.study if spent is not None else studies.get(study_hash, ""),
        "study_hash": study_hash,
        "first_at": min(times),
        "last_at": max(times),
        "rounds": sorted({a.round for a in left}),
        "kinds": [_kind(kind, left) for kind in sorted({a.kind for a in left})],
        "withheld": _counted(name for a in left for name in a.withheld),
        "refusals": _counted(a.status for a in answers if a.status != OK),
        "privacy": _privacy(left, spent, is_known=is_known),
        "messages": [_message(a) for a in answers],
    }


def _kind(kind: str, left: Sequence[Answer]) -> dict[str, Any]:
    """The messages of one kind: how many, how large, and what they held by name."""
    of_kind = [a for a in left if a.kind == kind]
    norms = [a.norm for a in of_kind if a.norm is not None]
    return {
        "kind": kind,
        "num_messages": len(of_kind),
        "size_bytes": sum(a.size_bytes or 0 for a in of_kind),
        "num_of_unknown_size": sum(a.size_bytes is None for a in of_kind),
        "num_elements": max(a.num_elements for a in of_kind),
        "largest_norm": max(norms, default=None),
        "counts": sorted({name for a in of_kind for name in a.counts}),
        "statistics": sorted({name for a in of_kind for name in a.statistics}),
        "num_receipts": sum(a.receipt is not None for a in of_kind),
    }


def _privacy(
    left: Sequence[Answer], spent: RunSpending | None, *, is_known: bool
) -> dict[str, Any]:
    if not is_known:
        return {"protection": Protection.UNKNOWN}
    if spent is None or not spent.events:
        told = Protection.NONE if any(_is_of_patients(a) for a in left) else Protection.NOTHING_LEFT
        return {"protection": told}
    if not isfinite(spent.epsilon):
        return {"protection": Protection.NONE}
    return {
        "protection": Protection.PATIENT,
        "epsilon": spent.epsilon,
        "events": [asdict(event) for event in spent.events],
        "noise": list(spent.noise),
        "reserved_and_never_released": spent.over_counts,
        "sent_again": spent.resent,
    }


def _is_of_patients(answer: Answer) -> bool:
    return bool(answer.num_elements or answer.counts or answer.statistics)


def _message(answer: Answer) -> dict[str, Any]:
    return {
        "at": answer.at,
        "round": answer.round,
        "kind": answer.kind,
        "status": answer.status,
        "num_elements": answer.num_elements,
        "size_bytes": answer.size_bytes,
        "norm": answer.norm,
        "sha256": answer.sha256,
        "counts": sorted(answer.counts),
        "statistics": list(answer.statistics),
        "withheld": list(answer.withheld),
        "ledger_entry": None if answer.receipt is None else answer.receipt[0],
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))

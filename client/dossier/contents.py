"""The dossier as plain values: a function of the audit log, the ledger and a clock.

For people outside of the hospital, too: it holds names, sizes, norms, digests and what was spent,
never a value or a number of patients. Must not import torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from math import isfinite
from typing import Any

from client.audit_view import AuditView
from client.dossier.runs import Protection, runs_of, totals_of
from client.ledger.view import LedgerView
from common.errors import SiteConfigError
from common.privacy.meaning import most_likely, most_right

FORMAT = 1
# What would happen without the patient's data: recognised by a rule that is wrong about one in a
# hundred others; a value found that is guessed once in a thousand times.
RECOGNISED, FOUND = 0.01, 0.001


@dataclass(frozen=True, kw_only=True)
class About:
    """Of whom a dossier tells, and what it needs beside the books.

    Attributes:
        public_key: of the site, which signs; None for a simulation without a key.
        coordinator_key: of the consortium that the site has joined; None if it has not.
        studies: names of studies by hash.
        only_run: the id of the run that is told of alone; None for all.
    """

    site: str
    dataset_id: str
    release: str
    is_simulation: bool
    public_key: str | None
    coordinator_key: str | None
    studies: Mapping[str, str]
    only_run: str | None = None


def dossier_of(
    about: About, audit: AuditView, ledger: LedgerView | None, *, made_at: datetime
) -> dict[str, Any]:
    """What left a hospital, to whom, what it cost, what was refused, and what it rests on.

    Guarantees:
        - A function of its arguments: equal books and an equal clock give an equal dossier.
        - Each message of the log is in it; sums are over all of them.
        - It holds the names of counts and not their numbers.
        - Where a chain is broken it claims no bound on what can be learned.

    Args:
        audit, ledger: of the whole history, whatever run is asked for; no ledger where a
            simulation without privacy has kept none.

    Raises:
        SiteConfigError: neither book knows the run that is asked for.
    """
    runs = runs_of(audit, ledger, about.studies)
    shown = [run for run in runs if about.only_run in (None, run["run_id"])]
    if about.only_run is not None and not shown:
        raise SiteConfigError(
            f"Expected a run of this hospital's books, found none by the id {about.only_run!r}, "
            "nor a folder of a simulated run with this hospital in it. Without --run all runs are "
            "told of."
        )
    privacy = None if ledger is None else _privacy(ledger)
    return {
        "format": FORMAT,
        "made_at": made_at.isoformat(timespec="seconds"),
        "release": about.release,
        "site": about.site,
        "dataset_id": about.dataset_id,
        "is_simulation": about.is_simulation,
        "public_key": about.public_key,
        "coordinator_key": about.coordinator_key,
        "only_run": about.only_run,
        "left": totals_of(shown),
        "runs": shown,
        "privacy": privacy,
        "bounds": _bounds(shown, privacy, runs),
        "chains": {"audit": _audit_chain(audit), "ledger": _ledger_chain(ledger)},
    }


def faults_of(dossier: Mapping[str, Any]) -> list[str]:
    """What is wrong with the books that a dossier rests on, in sentences."""
    names = {"audit": "audit log", "ledger": "ledger"}
    return [
        f"{names[name]}: {fault}"
        for name, chain in dossier["chains"].items()
        for fault in ([] if chain is None else chain["faults"])
    ]


def _privacy(ledger: LedgerView) -> dict[str, Any]:
    """What all runs and studies have cost together; an epsilon that is unbounded is None."""
    return {
        "epsilon": ledger.spent if isfinite(ledger.spent) else None,
        "is_at_least": bool(ledger.faults),
        "delta": ledger.delta,
        "budget": ledger.budget,
        "left": ledger.left,
        "no_bound_since": ledger.no_bound_since,
        "runs_without_privacy": ledger.runs_without_privacy,
        "reserved_and_never_released": ledger.over_counts,
        "data_changes": list(ledger.data_changes),
        "opened_at": ledger.opened_at,
        "num_countersigned": ledger.num_countersigned,
    }


def _bounds(
    shown: Sequence[Mapping[str, Any]],
    privacy: Mapping[str, Any] | None,
    runs: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What no attack on a run, or on all of them together, can pass; only where a bound holds."""
    if privacy is None or any(r["privacy"]["protection"] is Protection.UNKNOWN for r in runs):
        return []
    bounds = [
        _bound(run["run_id"], run["privacy"]["epsilon"], privacy["delta"])
        for run in shown
        if run["privacy"]["protection"] is Protection.PATIENT
    ]
    is_all_protected = all(r["privacy"]["protection"] is not Protection.NONE for r in runs)
    if is_all_protected and privacy["epsilon"] is not None:
        bounds.append(_bound(None, privacy["epsilon"], privacy["delta"]))
    return bounds


def _bound(run_id: str | None, epsilon: float, delta: float) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "epsilon": epsilon,
        "delta": delta,
        "guess_right_at_most": most_right(epsilon, delta),
        "recognised_at_most": most_likely(RECOGNISED, epsilon, delta),
        "value_found_at_most": most_likely(FOUND, epsilon, delta),
    }


def _audit_chain(audit: AuditView) -> dict[str, Any]:
    return {
        "num_lines": audit.num_lines,
        "head": _head(audit.head),
        "is_signed": audit.is_signed,
        "num_torn": audit.num_repairs,
        "faults": list(audit.faults),
        "limits": list(audit.limits()),
    }


def _ledger_chain(ledger: LedgerView | None) -> dict[str, Any] | None:
    if ledger is None:
        return None
    newest = ledger.countersigned
    return {
        "num_entries": ledger.num_entries,
        "head": _head(ledger.head),
        "newest_countersigned": None if newest is None else asdict(newest),
        "faults": list(ledger.faults),
    }


def _head(head: tuple[int, str] | None) -> dict[str, Any] | None:
    return None if head is None else {"seq": head[0], "digest": head[1]}

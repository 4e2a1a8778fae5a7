"""A hospital with books for the tests of its dossier: a site.toml, an audit log, a ledger."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from client.audit import AuditLog, audit_line, audit_path
from client.dossier.making import make_dossier
from client.dossier.signed import Signed
from client.ledger.ledger import Ledger
from common.arrays import Arrays
from common.errors import RefusalCode
from common.messages import OK, Reply, TaskKind
from common.privacy.events import Charge, Unprotected
from common.receipts import Receipt
from common.signing import SigningKey
from tests.unit.builders import study_of, task_of
from tests.unit.ledger_cases import (
    DATASET,
    STUDY_HASH,
    countersigned,
    do_round,
    open_ledger,
    request_of,
    reserve,
    ticking,
)

CLOCK = datetime(2026, 4, 1, 12, 30, tzinfo=UTC)
POLICY = {"allow_without_privacy": True, "epsilon_budget": 100.0, "delta_budget": 1e-5}
# No other number of a dossier.
NUM_PATIENTS = 734_519
UPDATE = Arrays.pack({"w": np.arange(10, dtype=np.float32)})


class Hospital:
    """A hospital "alpha" below a folder; `simulated` keeps its books in the folder of a run."""

    def __init__(self, place: Path, *, simulated: bool = False, has_key: bool = True) -> None:
        self.folder = place / "alpha"
        self.run = place / "run" if simulated else None
        self.state = place / "run" / "sites" / "alpha" if simulated else place / "state"
        self.folder.mkdir(parents=True)
        site = {"name": "alpha", "dataset_id": DATASET, "state_dir": "../state"}
        (self.folder / "site.toml").write_text(tomli_w.dumps({"site": site, "policy": POLICY}))
        self.key = SigningKey.generate()
        if has_key:
            self.key = SigningKey.create(self.state / "keys" / "site.pem")
        self.coordinator = SigningKey.generate()
        self._log = AuditLog(
            audit_path(self.state),
            durable=False,
            clock=ticking(),
            key=None if simulated else self.key,
        )

    def log(self, **changes: Any) -> None:
        """One line of the audit log."""
        fields: dict[str, Any] = {
            "kind": TaskKind.TRAIN,
            "run_id": "run-a",
            "round": 0,
            "nonce": "n",
            "site": "alpha",
            "status": OK,
        }
        withheld = changes.pop("withheld", [])
        without = changes.pop("without", [])
        study_hash = changes.pop("study_hash", STUDY_HASH)
        line = audit_line(task_of(study_of()), Reply(**fields | changes), withheld)
        line |= {"study_hash": study_hash}
        self._log.append(**{name: value for name, value in line.items() if name not in without})

    def update(self, round_number: int, receipt: Receipt | None, **changes: Any) -> None:
        """An update of ten numbers, a count, and a statistic of three."""
        self.log(
            round=round_number,
            receipt=receipt,
            arrays=UPDATE,
            counts={"patients": NUM_PATIENTS},
            metrics={"event.confusion": (1.0, 2.0, 3.0)},
            **changes,
        )

    def live(self, num_rounds: int = 3) -> None:
        """A private run of some rounds, countersigned, and a second run that is refused."""
        with open_ledger(self.state, self.key) as ledger:
            for number in range(num_rounds):
                do_round(ledger, request_of(number), bytes([number]))
                self.update(number, ledger.receipt(), withheld=["counts.labs"])
                ledger.accept(countersigned(ledger, self.coordinator))
            ledger.refuse(request_of(9, run="run-b"), RefusalCode.BUDGET_EXCEEDED)
        self.log(run_id="run-b", round=9, status=RefusalCode.BUDGET_EXCEEDED.value)

    def release_unprotected(self, ledger: Ledger, run: str = "run-bare") -> None:
        """An update without any mechanism, charged as such."""
        reserve(ledger, request_of(0, run=run), [Charge(event=Unprotected())])
        self.update(0, None, run_id=run)

    def signed(self, run: str | None = None) -> Signed:
        """The dossier as the command makes it."""
        return make_dossier(
            self.folder, str(self.run) if run is None and self.run else run, made_at=CLOCK
        )

    def dossier(self, run: str | None = None) -> dict[str, Any]:
        return dict(self.signed(run).dossier)

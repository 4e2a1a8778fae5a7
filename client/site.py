"""The door of a hospital: every task comes in here, and every reply leaves here.

What comes in is checked before torch sees it; what goes out passes `client.egress` and is written
to the audit log first. No text of an exception leaves: a closed list of codes does.
"""

import logging
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch

from client.acceptance import accepted_studies
from client.admission import admitted
from client.audit import AuditLog, audit_line, audit_path
from client.charging import Charging, Ledgered, TakingTurns, Unledgered
from client.config import SiteConfig, load_site_config
from client.device import device_of
from client.disk import Room
from client.egress import release, withheld
from client.ledger.fingerprint import data_fingerprint
from client.ledger.ledger import Ledger
from client.personal import Personal, PersonalStore, personal_folder
from client.prepared import prepare
from client.trust import NOT_ASKED, Joined, Simulated, Trust
from client.work import PlainWork, PredictionObserver, PrivateWork, Sources, Work
from common.arrays import size_of
from common.errors import DataError, Refusal, RefusalCode
from common.messages import Reply, Task, TaskKind
from common.models.patient_model import load_state
from common.privacy.mechanisms import NoiseSource
from common.seeds import seed_of
from common.signing import SigningKey
from common.study import Study

logger = logging.getLogger(__name__)

# Of a task, beside its model: ids, the names and shapes of a manifest, the head of a ledger.
_BESIDE_BYTES = 8 << 20


class Site:
    """One hospital: its patients, its model, its policy, its door.

    Guarantees:
        - `answer` never raises, and never does work for a task that the policy refuses.
        - A task is refused unless the coordinator has signed it for this site, which is looked at
          first, and its study, its round, its arrays and its code are accepted.
        - Every answer is in the audit log before it is returned.
        - Every answer of a hospital is signed, refusals too; in a simulation, none is.
    """

    def __init__(
        self,
        *,
        config: SiteConfig,
        works: Mapping[str, Work],
        charging: Charging,
        audit: AuditLog,
        trust: Trust,
    ) -> None:
        self.name = config.name
        self._config = config
        self._works = works
        self._charging = charging
        self._audit = audit
        self._trust = trust

    @classmethod
    def open(cls, site_dir: Path) -> Self:
        """The site of a folder, for the studies that its policy has accepted.

        Raises:
            SiteConfigError: `site.toml` is missing or malformed, an accepted study is not there, or
                the hospital has joined no consortium.
            ProvisionError: the roster that it has joined by is damaged, or it is not in it.
            DataError: the data cannot be used; every reason is told.
        """
        config = load_site_config(site_dir)
        trust = Joined.of(config)
        studies = accepted_studies(config)
        key = trust.key
        audit = AuditLog(audit_path(config.state_dir), key=key)
        audit.check_end()
        fingerprint = data_fingerprint(config.data_paths, key=key)
        # A key for each task: a copy of this process (a snapshot of its machine that is started
        # again) repeats no noise for another task.
        works = _works(config, studies.values(), sources=lambda _, __: NoiseSource.secure())
        if data_fingerprint(config.data_paths, key=key) != fingerprint:
            raise DataError(
                f"Expected data that stay as they are while they are read, found files of "
                f"{config.folder} that changed. Start again when nothing writes to them."
            )
        ledger = Ledger.open(
            config.state_dir,
            dataset_id=config.dataset_id,
            cohort_size=config.policy.cohort_size,
            simulation=False,
            key=key,
        )
        return cls(
            config=config,
            works=works,
            charging=Ledgered(
                ledger,
                fingerprint=fingerprint,
                source_kind="secure",
                room=Room(state_dir=config.state_dir),
            ),
            audit=audit,
            trust=trust,
        )

    @classmethod
    def simulated(
        cls,
        site_dir: Path,
        study: Study,
        *,
        state_dir: Path,
        durable: bool = False,
        takes_turns: bool = False,
        observer: PredictionObserver | None = None,
    ) -> Self:
        """The site of a folder in a simulation: it accepts `study`, and keeps its books in the run.

        Its noise follows from the study's seed, so that a run can be repeated, and protects nobody:
        the ledger, which is of this run alone, says so.

        Args:
            takes_turns: other processes have this site open as well, and answer other tasks.

        Raises `SiteConfigError`, `DataError` and `StudyError` as `open` does.
        """
        config = replace(load_site_config(site_dir), state_dir=state_dir)

        def sources(round_number: int, kind: str) -> NoiseSource:
            seed = seed_of(study.training.seed, config.name, round_number, kind, "noise")
            return NoiseSource.seeded(seed)

        works = _works(config, [study], sources=sources, observer=observer, is_simulated=True)
        charging: Charging = Unledgered()
        if study.privacy.mode == "patient":
            key = SigningKey.load_or_create(state_dir / "keys" / "site.pem")
            fingerprint = data_fingerprint(config.data_paths, key=key, is_simulation=True)

            def books() -> Ledgered:
                ledger = Ledger.open(
                    state_dir,
                    dataset_id=config.dataset_id,
                    cohort_size=works[study.hash].prepared.cohort_size,
                    simulation=True,
                    key=key,
                    durable=durable,
                )
                return Ledgered(ledger, fingerprint=fingerprint, source_kind="seeded")

            charging = TakingTurns(books) if takes_turns else books()
        audit = AuditLog(audit_path(state_dir), durable=durable)
        return cls(config=config, works=works, charging=charging, audit=audit, trust=Simulated())

    @property
    def most_task_bytes(self) -> int:
        """The size of the largest task that this site may work on."""
        sizes = [size_of(work.prepared.manifest) for work in self._works.values()]
        return 4 * max(sizes, default=0) + _BESIDE_BYTES

    def close(self) -> None:
        """Lets another process open this site's books."""
        self._charging.close()

    def answer(self, task: Task) -> Reply:
        """The reply to a task: what was asked for, or a refusal code."""
        reply = Reply(
            kind=task.kind,
            run_id=task.run_id,
            round=task.round,
            nonce=task.nonce,
            site=self.name,
        )
        kept_back: list[str] = []
        try:
            self._trust.check(task)
            work = self._admit(task)

            def released() -> Reply:
                worked = self._work(task, reply, work)
                checked = release(worked, work.prepared.policy, work.prepared.declared)
                kept_back.extend(withheld(worked, checked))
                return checked

            answer = self._charging.answer(task, work.prepared, released)
            self._charging.sent(task, work.prepared)
        except Refusal as refusal:
            logger.warning("site %s refuses: %s", self.name, refusal)
            answer = self._refuse(task, reply, refusal.refusal_code)
        except torch.OutOfMemoryError:
            logger.error("site %s ran out of memory", self.name)
            answer = self._refuse(task, reply, RefusalCode.OUT_OF_MEMORY)
        except Exception as fault:  # noqa: BLE001  # the one broad except: no text may leave, whatever happened
            logger.error("site %s failed: %s", self.name, _place_of(fault))
            answer = self._refuse(task, reply, RefusalCode.INTERNAL_ERROR)
        return self._record(task, answer, kept_back)

    def refuse_malformed(self, kind: TaskKind) -> Reply:
        """The refusal of a message that is not a task; it is in the audit log like any answer."""
        task = Task(kind=kind, run_id="", round=0, nonce="", study_hash="", code="")
        reply = Reply(kind=kind, run_id="", round=0, nonce="", site=self.name)
        reply = replace(reply, status=RefusalCode.MESSAGE_MALFORMED.value)
        return self._record(task, reply, [])

    def _admit(self, task: Task) -> Work:
        """The work that is asked for. Raises `Refusal` before any of it is done."""
        return admitted(task, self._works)

    def _work(self, task: Task, reply: Reply, work: Work) -> Reply:
        if task.kind is TaskKind.ENROL:
            return work.enrol(reply)
        assert task.arrays is not None  # checked by client.admission
        load_state(work.prepared.model, task.arrays)
        personal = self._personal(task, work.prepared.study)
        personal.put_local(work.prepared.model, task.round)
        if task.kind is TaskKind.EVALUATE:
            return work.evaluate(reply, personal)
        return work.train(reply, personal)

    def _personal(self, task: Task, study: Study) -> Personal:
        folder = personal_folder(self._config.state_dir, task.run_id)
        return Personal(study, PersonalStore(folder), site=self.name)

    def _refuse(self, task: Task, reply: Reply, code: RefusalCode) -> Reply:
        """The bare refusal, which the books hold as well, if it was the coordinator that asked."""
        try:
            if code in NOT_ASKED:
                return replace(reply, status=code.value)
            work = self._works.get(task.study_hash)
            self._charging.refused(task, None if work is None else work.prepared, code)
        except Exception as fault:  # noqa: BLE001  # still the door: `answer` never raises
            logger.error("site %s cannot write its ledger: %s", self.name, _place_of(fault))
        return replace(reply, status=code.value)

    def _record(self, task: Task, reply: Reply, kept_back: list[str]) -> Reply:
        """A reply leaves once the audit log holds it; where that cannot be, a bare refusal leaves.

        Threat: I-2. Refuses: INTERNAL_ERROR.
        """
        try:
            self._audit.append(**audit_line(task, reply, kept_back))
        except Exception as fault:  # noqa: BLE001  # still the door: `answer` never raises
            logger.error("site %s cannot write its audit log: %s", self.name, _place_of(fault))
            status = RefusalCode.INTERNAL_ERROR.value
            bare = replace(reply, status=status, arrays=None, counts={}, metrics={}, receipt=None)
            return self._trust.sign(bare)
        logger.info(
            "site %s answered %s of round %d: %s", self.name, reply.kind, reply.round, reply.status
        )
        return self._trust.sign(reply)


def _works(
    config: SiteConfig,
    studies: Iterable[Study],
    *,
    sources: Sources,
    observer: PredictionObserver | None = None,
    is_simulated: bool = False,
) -> dict[str, Work]:
    """The work of every study, by its hash."""
    device = device_of(config.device)
    works: dict[str, Work] = {}
    for study in studies:
        prepared = prepare(config, study, device=device, is_simulated=is_simulated)
        if prepared.plan.mode == "none":
            work: Work = PlainWork(prepared, site=config.name, observer=observer)
        else:
            work = PrivateWork(prepared, site=config.name, observer=observer, sources=sources)
        works[study.hash] = work
    return works


def _place_of(fault: BaseException) -> str:
    """Class and line of an exception: its text may quote data, these do not."""
    frames = traceback.extract_tb(fault.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown place"
    return f"{type(fault).__name__} at {place}"

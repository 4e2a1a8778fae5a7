"""The door of a hospital: every task comes in here, and every reply leaves here.

What comes in is checked before torch sees it; what goes out passes `client.egress` and is written
to the audit log first. No text of an exception leaves: a closed list of codes does.
"""

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from client.audit import AuditLog, audit_line
from client.config import SiteConfig, load_site_config
from client.data import read_cohort, usable_cohort
from client.device import device_of
from client.egress import Declared, release, withheld
from client.evaluation import (
    Outcomes,
    Predictions,
    evaluate,
    fit_intercepts,
    outcomes_of,
    predict,
    with_intercepts,
)
from client.normalise import moments_of
from client.personal import Personal, PersonalStore, named_parameters_of, personal_folder
from client.training import Patients, to_device, train
from common.arrays import Arrays, Manifest
from common.code_version import code_fingerprint
from common.errors import Refusal, RefusalCode, SiteConfigError
from common.metrics.evaluation import PERSONAL, to_flat
from common.models.patient_model import (
    PatientModel,
    load_state,
    parameters_of,
    state_manifest,
    trainable_manifest,
)
from common.normalisation import moments_manifest
from common.seeds import seed_of
from common.study import Study
from common.study_file import load_study
from common.wire import Reply, Task, TaskKind

logger = logging.getLogger(__name__)

# (round, model, predictions and outcomes of the held-out patients): for the simulation's oracle.
# The model is "" for the shared one, or `PERSONAL`.
PredictionObserver = Callable[[int, str, Predictions, Outcomes], None]


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """One accepted study, ready to train: data on the device, model, and what may leave."""

    study: Study
    model: PatientModel
    manifest: Manifest
    train: Patients
    test: Patients
    counts: Mapping[str, int]
    moments: Arrays
    declared: Declared


class Site:
    """One hospital: its patients, its model, its policy, its door.

    Guarantees:
        - `answer` never raises, and never does work for a task that the policy refuses.
        - A task is refused unless its study, its round, its arrays and its code are accepted.
        - Every answer is in the audit log before it is returned.
    """

    def __init__(
        self,
        *,
        config: SiteConfig,
        studies: Mapping[str, Study],
        audit: AuditLog,
        observer: PredictionObserver | None = None,
    ) -> None:
        self.name = config.name
        self._config = config
        self._audit = audit
        self._observer = observer
        self._device = device_of(config.device)
        self._prepared = {key: self._prepare(study) for key, study in studies.items()}

    @classmethod
    def open(cls, site_dir: Path) -> Self:
        """The site of a folder, for the studies that its policy has accepted.

        Raises:
            SiteConfigError: `site.toml` is missing or malformed, or an accepted study is not there.
            DataError: the data cannot be used; every reason is told.
        """
        config = load_site_config(site_dir)
        studies = {}
        for study_hash in config.policy.accepted_studies:
            study = load_study(config.state_dir / "studies" / f"{study_hash}.toml")
            if study.hash != study_hash:
                raise SiteConfigError(
                    f"Expected the accepted study {study_hash[:12]}… in state_dir/studies, found "
                    "another under its name. Accept the study again."
                )
            studies[study_hash] = study
        return cls(config=config, studies=studies, audit=AuditLog(config.state_dir / "audit.jsonl"))

    @classmethod
    def simulated(
        cls,
        site_dir: Path,
        study: Study,
        *,
        state_dir: Path,
        durable: bool = False,
        observer: PredictionObserver | None = None,
    ) -> Self:
        """The site of a folder in a simulation: it accepts `study`, and keeps its books in the run.

        Raises `SiteConfigError` and `DataError` as `open` does.
        """
        config = replace(load_site_config(site_dir), state_dir=state_dir)
        audit = AuditLog(state_dir / "audit.jsonl", durable=durable)
        return cls(config=config, studies={study.hash: study}, audit=audit, observer=observer)

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
            prepared = self._admit(task)
            worked = self._work(task, reply, prepared)
            reply = release(worked, self._config.policy, prepared.declared)
            kept_back = withheld(worked, reply)
        except Refusal as refusal:
            logger.warning("site %s refuses: %s", self.name, refusal)
            reply = replace(reply, status=refusal.refusal_code.value)
        except torch.OutOfMemoryError:
            logger.error("site %s ran out of memory on %s", self.name, self._device)
            reply = replace(reply, status=RefusalCode.OUT_OF_MEMORY.value)
        except Exception as fault:  # noqa: BLE001  # the one broad except: no text may leave, whatever happened
            logger.error("site %s failed: %s", self.name, _place_of(fault))
            reply = replace(reply, status=RefusalCode.INTERNAL_ERROR.value)
        return self._record(task, reply, kept_back)

    def refuse_malformed(self, kind: TaskKind) -> Reply:
        """The refusal of a message that is not a task; it is in the audit log like any answer."""
        task = Task(kind=kind, run_id="", round=0, nonce="", study_hash="", code="")
        reply = Reply(kind=kind, run_id="", round=0, nonce="", site=self.name)
        reply = replace(reply, status=RefusalCode.MESSAGE_MALFORMED.value)
        return self._record(task, reply, [])

    def _prepare(self, study: Study) -> _Prepared:
        cohort = usable_cohort(*read_cohort(self._config, study))
        model = PatientModel(study).to(self._device)
        manifests = {"update": trainable_manifest(model), "moments": moments_manifest(study)}
        return _Prepared(
            study=study,
            model=model,
            manifest=state_manifest(model),
            train=to_device(cohort.train, self._device),
            test=to_device(cohort.test, self._device),
            counts=cohort.train.counts(),
            moments=moments_of(cohort.train, study),
            declared=Declared.of(study, **manifests),
        )

    def _admit(self, task: Task) -> _Prepared:
        """The study to work on. Raises `Refusal` before any work is done."""
        if task.code != code_fingerprint():
            raise Refusal(
                RefusalCode.CODE_MISMATCH,
                "Expected a task from the same version of Wardround, found another. Update.",
            )
        prepared = self._prepared.get(task.study_hash)
        if prepared is None:
            raise Refusal(
                RefusalCode.STUDY_NOT_ACCEPTED,
                f"Expected an accepted study, found {task.study_hash[:12]}….",
            )
        self._config.policy.check_round(task.round)
        self._config.policy.check_study(prepared.study, prepared.counts["patients"])
        if task.kind is TaskKind.ENROL:
            if task.arrays is not None:
                raise Refusal(
                    RefusalCode.ARRAYS_MISMATCH, "Expected an enrolment without arrays, found some."
                )
            return prepared
        if task.arrays is None or task.arrays.manifest != prepared.manifest:
            raise Refusal(
                RefusalCode.ARRAYS_MISMATCH,
                "Expected the arrays of the study's model, found others.",
            )
        if task.arrays.flat.dtype != np.float32 or not task.arrays.is_finite():
            raise Refusal(
                RefusalCode.ARRAYS_NOT_FINITE, "Expected finite float32 arrays, found others."
            )
        return prepared

    def _work(self, task: Task, reply: Reply, prepared: _Prepared) -> Reply:
        if task.kind is TaskKind.ENROL:
            is_federated = prepared.study.normalisation.method == "federated"
            moments = prepared.moments if is_federated else None
            return replace(reply, arrays=moments, counts=prepared.counts)
        assert task.arrays is not None  # checked by _admit
        load_state(prepared.model, task.arrays)
        personal = self._personal(task, prepared.study)
        personal.put_local(prepared.model, task.round)
        started = time.perf_counter()
        metrics = self._evaluate(task, prepared, personal)
        evaluated = time.perf_counter()
        metrics["seconds_evaluation"] = (evaluated - started,)
        if task.kind is TaskKind.EVALUATE:
            if prepared.study.personal.has_model:
                personal.make_own(prepared.model, prepared.train, task.round)
                metrics |= self._evaluate(task, prepared, personal, model=PERSONAL)
            return replace(reply, metrics=metrics)
        update = self._train(task.round, prepared, personal)
        metrics["seconds_training"] = (time.perf_counter() - evaluated,)
        return replace(reply, arrays=update, counts=prepared.counts, metrics=metrics)

    def _personal(self, task: Task, study: Study) -> Personal:
        try:
            folder = personal_folder(self._config.state_dir, task.run_id)
        except ValueError:
            code = RefusalCode.MESSAGE_MALFORMED
            raise Refusal(code, "Expected a run id that is a word, found another.") from None
        return Personal(study, PersonalStore(folder), site=self.name)

    def _train(self, round_number: int, prepared: _Prepared, personal: Personal) -> Arrays:
        """The update of the shared model; what is personal is trained as well, and stays here."""
        model = prepared.model
        start = named_parameters_of(model) if prepared.study.personal.ditto_lambda > 0 else {}
        before = parameters_of(model)
        seed = seed_of(prepared.study.training.seed, self.name, round_number)
        train(model, prepared.train, prepared.study, seed=seed)
        after = parameters_of(model)
        personal.after_training(model, start, prepared.train, round_number)
        return Arrays(manifest=before.manifest, flat=after.flat - before.flat)

    def _evaluate(
        self, task: Task, prepared: _Prepared, personal: Personal, *, model: str = ""
    ) -> dict[str, tuple[float, ...]]:
        intercepts = fit_intercepts(prepared.model, prepared.train, prepared.study)
        if task.kind is TaskKind.EVALUATE:
            personal.keep_intercepts(task.round, intercepts, model=model)
        if len(prepared.test) == 0:
            return {}
        predictions = with_intercepts(predict(prepared.model, prepared.test), intercepts)
        outcomes = outcomes_of(prepared.test)
        if self._observer is not None:
            self._observer(task.round, model, predictions, outcomes)
        return to_flat(evaluate(predictions, outcomes, prepared.study), model=model)

    def _record(self, task: Task, reply: Reply, kept_back: list[str]) -> Reply:
        """The reply, once the audit log holds it; a bare refusal where it cannot be written."""
        try:
            self._audit.append(**audit_line(task, reply, kept_back))
        except Exception as fault:  # noqa: BLE001  # still the door: `answer` never raises
            logger.error("site %s cannot write its audit log: %s", self.name, _place_of(fault))
            status = RefusalCode.INTERNAL_ERROR.value
            return replace(reply, status=status, arrays=None, counts={}, metrics={})
        logger.info(
            "site %s answered %s of round %d: %s", self.name, reply.kind, reply.round, reply.status
        )
        return reply


def _place_of(fault: BaseException) -> str:
    """Class and line of an exception: its text may quote data, these do not."""
    frames = traceback.extract_tb(fault.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown place"
    return f"{type(fault).__name__} at {place}"

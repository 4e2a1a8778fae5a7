"""A run attacked: trained once more from its recorded study, with canaries and shadow models.

What was released in the run itself is not looked at. The audit asks whether this study, by this
code, on these patients, keeps the promise that the run made.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from client.config import load_site_config
from client.data import Cohort, read_cohort, usable_cohort
from client.training import to_device
from common.errors import RunError
from common.privacy.plan import PrivacyPlan
from common.run_folder import site_folders
from common.seeds import seed_of
from common.study import Study
from server.journal import read_journal
from server.report.results import results_of
from simulations.attacks import gaussian_audit, one_run_audit
from simulations.attacks.canary_training import canary_scores
from simulations.attacks.finding import Finding, finding_to_json
from simulations.attacks.membership import attack_membership
from simulations.attacks.retraining import check_retrainable
from simulations.attacks.study_audit import CONFIDENCE
from simulations.cohort import varied_sites, write_cohort

NUM_SHADOWS = 16
_QUICK_SHADOWS = 4
_AUDITS = (gaussian_audit.ATTACK, one_run_audit.ATTACK)

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What is attacked: a finished run's study, its hospitals' patients, their plans of privacy.

    Attributes:
        hospitals: training patients by the name of their hospital.
        plans: what each hospital's policy makes of the study.
        is_simulated: whether the patients were made for the audit, because those of the run are not
            on this machine.
    """

    run_id: str
    study: Study
    hospitals: Mapping[str, Cohort]
    plans: Mapping[str, PrivacyPlan]
    is_simulated: bool


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What attacks on a run reached, and what follows.

    Attributes:
        verdict: "broken" (a lower bound lies above the claim), "unclear" (the traces of canaries
            are not what the bound assumes), "held", or "no claim" (a run without privacy).
        hospital: whose training the canaries were in.
    """

    run_id: str
    verdict: str
    confidence: float
    seed: int
    num_shadows: int
    is_quick: bool
    is_simulated: bool
    hospital: str
    findings: Sequence[Finding]


def recorded(run: Path, sites: Path | None) -> Recorded:
    """The study of a finished run, and the training patients of its hospitals.

    Args:
        sites: the folder of their site folders; None: the simulated hospitals in the run's folder,
            or where there are none, patients simulated for this study.

    Raises:
        RunError: there is no finished run, or `sites` lacks a hospital that took part.
        StudyError: the study cannot be trained anew.
        DataError: a hospital's data cannot be used.
    """
    results = results_of(events := list(read_journal(run / "journal.jsonl")))
    if results["status"] != "finished":
        raise RunError(
            f"Expected a finished run in {run}, found one that is {results['status']}. Go on with "
            "it by --resume, then audit it."
        )
    starts = [e for e in events if e["event"] in ("run_started", "run_resumed")]
    study = Study.model_validate(starts[-1]["study"])
    check_retrainable(study)
    names = sorted(results["sites"])
    own = run / "hospitals"
    folder = sites or (own if own.is_dir() else None)
    if folder is not None:
        return _read(results["run_id"], study, folder, names, is_simulated=False)
    with tempfile.TemporaryDirectory(prefix="wardround-audit-") as scratch:
        seed = seed_of(study.training.seed, "audit")
        effects = [
            replace(effects, name=name)
            for effects, name in zip(
                varied_sites(study, num_sites=len(names), seed=seed), names, strict=True
            )
        ]
        write_cohort(study, effects, Path(scratch), seed=seed)
        return _read(results["run_id"], study, Path(scratch), names, is_simulated=True)


def _read(
    run_id: str, study: Study, folder: Path, names: Sequence[str], *, is_simulated: bool
) -> Recorded:
    configs = {c.name: c for c in map(load_site_config, site_folders(folder)) if c.name in names}
    if missing := sorted(set(names) - set(configs)):
        raise RunError(
            f"Expected the folders of all {len(names)} hospitals of the run below {folder}, found "
            f"none of {', '.join(missing)}. Name the right folder by --sites."
        )
    hospitals = {
        name: usable_cohort(*read_cohort(config, study)).train for name, config in configs.items()
    }
    return Recorded(
        run_id=run_id,
        study=study,
        hospitals=dict(sorted(hospitals.items())),
        plans={
            name: config.policy.plan_of(
                study, config.policy.cohort_size or max(len(hospitals[name]), 1)
            )
            for name, config in configs.items()
        },
        is_simulated=is_simulated,
    )


def audit_run(
    attacked: Recorded,
    *,
    num_shadows: int | None,
    jobs: int,
    is_quick: bool,
    tell: Tell = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
) -> Audit:
    """What canaries and shadow models reach.

    Canaries train among the patients of the hospital with most of them, with the study's own model;
    in a quick audit they are alone, with a small model and the same plan.

    Guarantees:
        - The same arguments give the same findings, whatever the number of processes.
        - Nothing of a patient is in an audit: figures about attacks alone.

    Threat: R-1.

    Args:
        num_shadows: shadow models of each target; None: 16, of a quick audit 4.
        tell: told the name of each piece of work that is finished; there are `num_pieces`.
    """
    models = models_of(num_shadows, is_quick=is_quick)
    seed = seed_of(attacked.study.training.seed, "audit")
    hospital = max(attacked.hospitals, key=lambda name: len(attacked.hospitals[name]))
    on_wait()
    findings = _with_canaries(attacked, hospital, seed=seed, is_quick=is_quick)
    tell("canaries")
    findings += attack_membership(
        attacked.study,
        attacked.hospitals,
        num_models=models,
        seed=seed,
        jobs=jobs,
        target=f"the shared model of {len(attacked.hospitals)} hospitals, half of their patients",
        on_done=tell,
        on_wait=on_wait,
    )
    return Audit(
        run_id=attacked.run_id,
        verdict=verdict_of(findings, is_private=attacked.study.privacy.mode == "patient"),
        confidence=CONFIDENCE,
        seed=seed,
        num_shadows=models - 1,
        is_quick=is_quick,
        is_simulated=attacked.is_simulated,
        hospital=hospital,
        findings=findings,
    )


def models_of(num_shadows: int | None, *, is_quick: bool) -> int:
    """How many models are trained: one more than there are shadows of each."""
    return (num_shadows or (_QUICK_SHADOWS if is_quick else NUM_SHADOWS)) + 1


def num_pieces(num_shadows: int | None, *, is_quick: bool) -> int:
    """How many pieces of work an audit has: every model, and the canaries."""
    return models_of(num_shadows, is_quick=is_quick) + 1


def _with_canaries(
    attacked: Recorded, hospital: str, *, seed: int, is_quick: bool
) -> list[Finding]:
    plan, cohort = attacked.plans[hospital], attacked.hospitals[hospital]
    among = None if is_quick else to_device(cohort, torch.device("cpu"))
    scores = canary_scores(
        attacked.study,
        plan,
        num_canaries=gaussian_audit.NUM_CANARIES,
        seed=seed,
        patients=among,
    )
    where = "a small model, canaries alone" if is_quick else "the study's model, among patients"
    target = f"training at {hospital}: {where}"
    return [
        audit.finding_of(scores, plan, target=target, confidence=CONFIDENCE)
        for audit in (gaussian_audit, one_run_audit)
    ]


def verdict_of(findings: Sequence[Finding], *, is_private: bool) -> str:
    """What follows from the audits among the findings; membership alone refutes no claim.

    Guarantees:
        - "broken" if and only if a lower bound of a private run lies above its claim.
    """
    if not is_private:
        return "no claim"
    if any(finding.breaks_claim for finding in findings):
        return "broken"
    audits = [finding for finding in findings if finding.attack in _AUDITS]
    return "unclear" if any(f.epsilon_lower_bound is None for f in audits) else "held"


def audit_to_json(audit: Audit, *, seconds: float) -> dict[str, Any]:
    """The audit as the journal and `audit.json` hold it."""
    return {
        "run_id": audit.run_id,
        "verdict": audit.verdict,
        "confidence": audit.confidence,
        "seed": audit.seed,
        "num_shadows": audit.num_shadows,
        "quick": audit.is_quick,
        "simulated_patients": audit.is_simulated,
        "hospital": audit.hospital,
        "seconds": round(seconds, 1),
        "findings": [finding_to_json(finding) for finding in audit.findings],
    }

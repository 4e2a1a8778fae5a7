"""Whether a learned treatment effect is right: a run's predictions against the true effects.

No real study can do this, because nobody is seen both treated and untreated. Here the hospitals are
simulated again from the seed in `truth.json`: the true effects live in memory alone, and of single
patients nothing is written.

Letters of shapes: B patients.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.config import load_site_config
from client.data import Cohort, pseudonym, read_cohort, usable_cohort
from client.evaluation import predict_at_site
from client.training import to_device
from common.errors import DataError, RunError, StudyError
from common.model_file import load_model, study_of_model
from common.models.patient_model import PatientModel
from common.study import Study
from simulations.cohort import SimulatedSite, SiteEffects, simulate_site
from simulations.disease import Floats

_NORMAL_975 = 1.96


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95% confidence interval, by the normal approximation."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class EffectScores:
    """How near predicted effects are to the true ones.

    Attributes:
        correlation: Pearson's, with the true effect; None where one of both does not vary.
        rmse: root of the mean squared distance from the true effect.
        gain: the mean true effect of the treated part by these predictions, less the mean of all.
    """

    correlation: float | None
    rmse: float
    gain: float


@dataclass(frozen=True, kw_only=True)
class EffectReport:
    """A run's predicted treatment effects of held-out patients, against the truth.

    Attributes:
        unit: of the effect and of every number here but correlations.
        true_mean, true_sd: of the true effects. The sd is the rmse of whoever knows the mean alone.
        treated_part: who would be treated: this part, those with the highest predicted effects.
        true_treated: the mean true effect on them.
        trial_mean, trial_treated: what the trial alone says of both means, without the truth: from
            the transformed responses.
        model, best: of the model, and of the best predictions that the granularities which each
            patient has allow.
    """

    num_patients: int
    unit: str
    true_mean: float
    true_sd: float
    predicted_mean: float
    trial_mean: Estimate
    trial_treated: Estimate
    true_treated: float
    treated_part: float
    model: EffectScores
    best: EffectScores


def effect_report(run: Path, sites: Path, *, treated_part: float = 0.25) -> EffectReport:
    """The report of a finished run over simulated hospitals, on their held-out patients.

    Args:
        run: the run's folder (`model.safetensors`, `study.toml`).
        sites: the hospitals that it ran over, as `write_cohort` wrote them (`truth.json`).

    Raises:
        StudyError: the study is of no treatment.
        RunError: `run` holds no model with its study.
        DataError: `sites` is not what was simulated, or has no held-out patients.
    """
    study = study_of_model(run)
    if study is None:
        raise RunError(f"Expected study.toml beside the model in {run}, found none. Name a run.")
    model = load_model(study, run)
    parts = []
    for site in _simulated(study, sites):
        config = load_site_config(sites / site.effects.name)
        cohort = usable_cohort(*read_cohort(config, study))
        parts.append(_held_out(model, study, site, cohort))
    predicted_B, best_B, true_B, target_B = (np.concatenate(p) for p in zip(*parts, strict=True))
    if len(true_B) < 2:
        raise DataError(
            f"Expected two held-out patients or more below {sites}, found {len(true_B)}. "
            "Simulate more."
        )
    unit = getattr(study.primary, "unit", "")
    return effect_scores(
        predicted_B, best_B, true_B, target_B, unit=unit, treated_part=treated_part
    )


def effect_scores(
    predicted_B: Floats,
    best_B: Floats,
    true_B: Floats,
    target_B: Floats,
    *,
    unit: str,
    treated_part: float,
) -> EffectReport:
    """The report of these patients.

    Args:
        predicted_B: the effect by the model; `best_B`, by the best predictor; `true_B`, in truth.
        target_B: the transformed response, whose mean is the effect.
    """
    treated_B = highest(predicted_B, treated_part)
    return EffectReport(
        num_patients=len(true_B),
        unit=unit,
        true_mean=float(true_B.mean()),
        true_sd=float(true_B.std()),
        predicted_mean=float(predicted_B.mean()),
        trial_mean=_estimate(target_B),
        trial_treated=_estimate(target_B[treated_B]),
        true_treated=float(true_B[treated_B].mean()),
        treated_part=treated_part,
        model=_scores(predicted_B, true_B, treated_part),
        best=_scores(best_B, true_B, treated_part),
    )


def highest(predicted_B: Floats, part: float) -> NDArray[np.bool_]:
    """Those with the highest predictions, bool; of equal ones, who stands first.

    >>> highest(np.array([3.0, 1.0, 2.0, 2.0]), 0.5).tolist()
    [True, False, True, False]
    """
    chosen_B = np.zeros(len(predicted_B), dtype=np.bool_)
    num_chosen = max(1, round(part * len(predicted_B)))
    chosen_B[np.argsort(-predicted_B, kind="stable")[:num_chosen]] = True
    return chosen_B


def _scores(predicted_B: Floats, true_B: Floats, treated_part: float) -> EffectScores:
    varies = np.ptp(predicted_B) > 0 and np.ptp(true_B) > 0
    gain = true_B[highest(predicted_B, treated_part)].mean() - true_B.mean()
    return EffectScores(
        correlation=float(np.corrcoef(predicted_B, true_B)[0, 1]) if varies else None,
        rmse=float(np.sqrt(((predicted_B - true_B) ** 2).mean())),
        gain=float(gain),
    )


def _estimate(target_B: Floats) -> Estimate:
    mean = float(target_B.mean())
    error = float(target_B.std(ddof=1)) / len(target_B) ** 0.5 if len(target_B) > 1 else np.inf
    return Estimate(mean=mean, low=mean - _NORMAL_975 * error, high=mean + _NORMAL_975 * error)


def _simulated(study: Study, sites: Path) -> Sequence[SimulatedSite]:
    """The hospitals as `truth.json` says that they were simulated."""
    truth = _truth(sites)
    if truth.get("study") != study.name:
        raise DataError(
            f"Expected hospitals simulated for the study {study.name}, found others in "
            f"{sites / 'truth.json'}. Name the folder that the run was trained on."
        )
    fields = SiteEffects.__dataclass_fields__
    simulated = []
    for name, known in truth["hospitals"].items():
        settings: dict[str, Any] = {k: v for k, v in known.items() if k in fields}
        effects = SiteEffects(name=name, **settings | {"lacks": tuple(settings["lacks"])})
        simulated.append(simulate_site(study, effects, seed=truth["seed"]))
    if not simulated or simulated[0].effect_B is None:
        raise StudyError(
            f"Expected a study of a treatment, found none in {study.name}. Only demo-treatment has "
            "true effects of patients."
        )
    return simulated


def _truth(sites: Path) -> Mapping[str, Any]:
    path = sites / "truth.json"
    try:
        truth: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"Expected the truth of simulated hospitals at {path}, found none that can be read. "
            "Name the folder that `wardround simulate` wrote."
        ) from None
    return truth


def _held_out(
    model: PatientModel, study: Study, site: SimulatedSite, cohort: Cohort
) -> tuple[Floats, Floats, Floats, Floats]:
    """Of the held-out patients: effect by the model, by the best predictor, in truth; target."""
    target = next(iter(study.outcomes))
    place_of = {pseudonym(i): place for place, i in enumerate(site.patients["patient_id"])}
    test = cohort.test
    places = [place_of.get(p) for p in test.pseudonym_B]
    place_B = np.array([p for p in places if p is not None], dtype=np.int64)
    drawn_B = site.patients[study.outcomes[target].columns[0]].to_numpy(dtype=np.float64)[place_B]
    target_B = np.asarray(test.outcomes[target]["value_B"], dtype=np.float64)
    if len(drawn_B) != len(target_B) or not np.allclose(drawn_B, target_B, atol=1e-3):
        raise DataError(
            f"Expected the patients of {site.effects.name} as they were simulated, found others. "
            "Simulate the hospitals again with this release."
        )
    cpu = torch.device("cpu")
    held_out, trained_on = to_device(test, cpu), to_device(cohort.train, cpu)
    predicted_B = predict_at_site(model, held_out, study, trained_on=trained_on)[target][:, 0]
    best_B = site.best_predictions(target)[place_B, 0]
    return predicted_B, best_B, site.drivers[target][place_B], target_B


def effect_table(report: EffectReport) -> str:
    """The report as Markdown."""
    trial, treated = report.trial_mean, report.trial_treated
    lines = [
        f"{report.num_patients} held-out patients; effects in {report.unit}.",
        "",
        "| predicted effect against the true one | model | best from the same granularities |",
        "|---|---:|---:|",
        f"| correlation | {_number(report.model.correlation)} "
        f"| {_number(report.best.correlation)} |",
        f"| RMSE (of the mean effect for everybody: {report.true_sd:.2f}) "
        f"| {report.model.rmse:.2f} | {report.best.rmse:.2f} |",
        f"| gain from treating the {report.treated_part:.0%} with the highest | "
        f"{report.model.gain:+.2f} | {report.best.gain:+.2f} |",
        "",
        "| mean effect | truth | model | the trial alone, 95% interval |",
        "|---|---:|---:|---:|",
        f"| of all | {report.true_mean:.2f} | {report.predicted_mean:.2f} "
        f"| {trial.mean:.2f} ({trial.low:.2f} to {trial.high:.2f}) |",
        f"| of those whom the model would treat | {report.true_treated:.2f} | "
        f"| {treated.mean:.2f} ({treated.low:.2f} to {treated.high:.2f}) |",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

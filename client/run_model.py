"""The model of a finished run as one hospital uses it: the shared part, and its own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.config import SiteConfig
from client.evaluation import Intercepts
from client.personal import PersonalStore, load_personal, personal_folder
from common.errors import RunError
from common.metrics.evaluation import PERSONAL
from common.model_file import load_model
from common.models.patient_model import PatientModel
from common.outcomes import ClassOutcome
from common.study import Study


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """A model to predict with.

    Attributes:
        intercepts: the site's own, by outcome; as they were when the run ended, never fitted anew.
        notes: sentences that whoever predicts should read.
    """

    model: PatientModel
    intercepts: Intercepts
    notes: tuple[str, ...] = ()


def has_intercepts(study: Study) -> Mapping[str, bool]:
    """Whether sites have an intercept of their own, by outcome."""
    is_planned = study.model.site_intercept_sd > 0
    return {n: is_planned and isinstance(o, ClassOutcome) for n, o in study.outcomes.items()}


def load_run_model(config: SiteConfig, study: Study, run: Path, *, shared: bool) -> RunModel:
    """The model of the run, with what the site keeps for itself where it took part.

    What it keeps is looked for in its `state_dir`, and then where a simulation of hospitals puts
    it: in the run's folder.

    Args:
        shared: the shared model also where the site has one of its own.

    Raises:
        RunError: `run` holds no such model; or the study has personal models or blocks, and this
            site none that can be read.
    """
    model = load_model(study, run)
    plan = study.personal
    is_personal = not shared and (plan.has_model or bool(plan.local_blocks))
    if not is_personal and not any(has_intercepts(study).values()):
        return RunModel(model=model, intercepts={})
    store = PersonalStore(_kept_in(config, run))
    if is_personal:
        _load_personal(model, store, study, config, run)
    if shared and plan.local_blocks:
        # They were fitted to a model with trained blocks, which this one is not.
        intercepts: Intercepts = {}
    else:
        kind = PERSONAL if is_personal and plan.has_model else ""
        intercepts = store.load_intercepts(study.training.rounds, model=kind)
    return RunModel(model=model, intercepts=intercepts, notes=_notes(study, intercepts))


def _kept_in(config: SiteConfig, run: Path) -> Path:
    """The first folder that holds something of the site's own; the first of all if none does."""
    run_id = _run_id(run)
    places = [config.state_dir, run / "sites" / config.name, run / "sites" / config.folder.name]
    try:
        folders = [personal_folder(place, run_id) for place in places]
    except ValueError:
        raise RunError(
            f"Expected a run id that is a word in {run / 'results.json'}, found another. Copy it."
        ) from None
    return next((f for f in folders if any(f.glob("*.safetensors"))), folders[0])


def _run_id(run: Path) -> str:
    try:
        return str(json.loads((run / "results.json").read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"Expected results.json of the run in {run}, found none that can be read. Copy it."
        ) from None


def _load_personal(
    model: PatientModel, store: PersonalStore, study: Study, config: SiteConfig, run: Path
) -> None:
    plan = study.personal
    needed = {"own"} if plan.has_model else {"local"}
    try:
        found = load_personal(model, store, study.training.rounds)
    except (ValueError, TypeError, RuntimeError):  # arrays of another model
        found = frozenset()
    if not needed <= found:
        what = "its own model" if plan.has_model else "its own blocks (personal.local_blocks)"
        instead = "with untrained blocks" if plan.local_blocks else "with the shared model"
        raise RunError(
            f"Expected {what} of this hospital in {config.state_dir}, found none that can be read: "
            f"it took no part in the run {run} to its end, or kept it elsewhere. Name the right "
            f"site.state_dir, or predict {instead} by --shared."
        )


def _notes(study: Study, intercepts: Intercepts) -> tuple[str, ...]:
    lacking = [name for name, is_there in has_intercepts(study).items() if is_there]
    lacking = [name for name in lacking if name not in intercepts]
    if not lacking:
        return ()
    return (
        "This hospital has no intercept of its own from this run (it took no part to the end): "
        f"{', '.join(lacking)} is predicted without one, and may be too high or too low for all "
        "patients alike.",
    )

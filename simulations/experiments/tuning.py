"""`wardround tune`: a search for the structure and the settings that predict best.

Every choice is made by inner validation on training patients. The held-out ones take no part in any
training or number of it, so that the best study can be judged on them once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import StudyError
from common.files import write_atomically
from common.privacy.plan import check_private
from common.study import Study
from common.study_file import study_to_toml
from simulations.experiments.changes import changed
from simulations.experiments.folder import described, experiment_folder
from simulations.experiments.pieces import OnProgress
from simulations.experiments.runs import is_better_higher
from simulations.experiments.search import (
    Search,
    new_storage,
    optuna_or_error,
    run_search,
)
from simulations.experiments.space import Space
from simulations.experiments.tuning_report import Tried, Tuned, to_csv, to_markdown
from simulations.experiments.validation import Inner, Validated, validated
from simulations.read_sites import read_cohorts
from simulations.results.measure import primary_metric

if TYPE_CHECKING:
    import optuna

_STORAGE = "optuna.db"
# Asked for before any of them is told; fewer would keep processors idle, more would learn less.
_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What is searched, and how each trial is judged.

    Attributes:
        num_trials: beside the study as it stands, which is always the first.
    """

    study: Study
    space: Space
    num_trials: int
    inner: Inner


def tune_study(
    tuning: Tuning,
    *,
    sites: Path | None,
    out: Path,
    jobs: int,
    timeout_s: float,
    simulate_hospitals: Callable[[], None],
    on_progress: OnProgress,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Writes `best.toml`, `trials.csv` and `report.md` (whose path it returns) to `out`.

    Guarantees:
        - Held-out patients change nothing.
        - Interrupted and begun again, it goes on, and its files have the same bytes; but for a
          timeout, which counts from each start.
        - The number of processes changes nothing.
        - The best study is not worse, in inner validation, than the study as it stands.

    Raises:
        StudyError: the study cannot be private, or Optuna is missing.
        DataError: a hospital's data cannot be used for the study; every reason is told.
        RunError: the folder holds another experiment, or every training failed.
    """
    optuna_or_error()
    check_private(tuning.study)
    tuning.inner.check(tuning.study)
    identity = {
        "kind": "tune",
        "study": described(tuning.study),
        "space": tuning.space.described(),
        "trials": tuning.num_trials,
        "folds": tuning.inner.num_folds,
        "seeds": tuning.inner.num_seeds,
    }
    started = clock()
    with experiment_folder(
        out, identity=identity, sites=sites, simulate_hospitals=simulate_hospitals
    ) as hospitals:
        # What no run could mend is no result of a run.
        read_cohorts(tuning.study, hospitals)
        tuned = _search(
            tuning,
            lambda studies: validated(
                studies,
                tuning.inner,
                sites=hospitals,
                out=out,
                jobs=jobs,
                phase="trials",
                on_progress=on_progress,
                keeps_runs=False,
            ),
            storage=new_storage(out / _STORAGE),
            goes_on=lambda: clock() - started < timeout_s,
        )
        for name, text in (
            ("best.toml", study_to_toml(tuned.best.study)),
            ("trials.csv", to_csv(tuned)),
            ("report.md", to_markdown(tuned)),
        ):
            write_atomically(out / name, text.encode(), durable=False)
    return out / "report.md"


def _search(
    tuning: Tuning,
    validate: Callable[[Sequence[Study]], list[Validated]],
    *,
    storage: "optuna.storages.BaseStorage",
    goes_on: Callable[[], bool],
) -> Tuned:
    tool = optuna_or_error()
    _, metric = primary_metric(tuning.study)
    own = Tried(number=None, values={}, study=tuning.study, validated=validate([tuning.study])[0])
    tried = [own]

    def evaluate(asked: Sequence[Mapping[str, Any]]) -> list[tuple[float] | None]:
        studies = [_study(tuning.study, values) for values in asked]
        told = iter(validate([study for study in studies if study is not None]))
        batch = [
            Tried(
                number=len(tried) + n,
                values=values,
                study=study or tuning.study,
                validated=next(told) if study is not None else _IMPOSSIBLE,
            )
            for n, (values, study) in enumerate(zip(asked, studies, strict=True))
        ]
        tried.extend(batch)
        return [None if (mean := t.validated.mean) is None else (mean,) for t in batch]

    search = Search(
        name=tuning.study.name,
        sampler=tool.samplers.TPESampler(seed=0),
        suggest=tuning.space.suggested,
        directions=("maximize" if is_better_higher(metric) else "minimize",),
        num_trials=tuning.num_trials,
        batch=_BATCH,
    )
    study = run_search(search, storage, evaluate, goes_on=goes_on)
    return Tuned(
        study=tuning.study,
        metric=metric,
        inner=tuning.inner,
        tried=tried,
        importances=_importances(study),
    )


_IMPOSSIBLE = Validated(values=[None], failed=["study"], epsilon=None, charges=[])


def _study(study: Study, values: Mapping[str, Any]) -> Study | None:
    """The study of a trial; None where its values do not go together, or cannot be private."""
    try:
        whole = changed(study, values)
        check_private(whole)
    except StudyError:
        return None
    return whole


def _importances(study: Any) -> dict[str, float]:
    """How much of the spread of results each parameter explains; empty with too few trials.

    Source: Hutter, Hoos and Leyton-Brown 2014, fANOVA; as implemented by Optuna.
    """
    tool = optuna_or_error()
    complete = [t for t in study.trials if t.state == tool.trial.TrialState.COMPLETE]
    if len({t.value for t in complete}) < _FEWEST_FOR_IMPORTANCE:
        return {}
    evaluator = tool.importance.FanovaImportanceEvaluator(seed=0)
    found: dict[str, float] = tool.importance.get_param_importances(study, evaluator=evaluator)
    return found


_FEWEST_FOR_IMPORTANCE = 4

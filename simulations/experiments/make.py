"""From a command to files: an experiment in its folder, which goes on where it was interrupted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import StudyError
from common.files import write_atomically
from common.page.curves import svg_file
from common.page.document import html_of
from common.privacy.plan import split_of
from common.privacy.sections import PatientPrivacy
from common.study import Study
from common.study_file import load_study, shipped_studies
from simulations.arms import MEAN
from simulations.experiments.attacks import Attacks
from simulations.experiments.experiment import Experiment, Sweep
from simulations.experiments.figures import chart_of_scope
from simulations.experiments.folder import described, experiment_folder
from simulations.experiments.page import experiment_page
from simulations.experiments.pareto import pareto_of
from simulations.experiments.pieces import OnProgress
from simulations.experiments.privacy import check_sweep, run_sweep
from simulations.experiments.rows import to_csv, trials_to_csv
from simulations.experiments.search import optuna_or_error
from simulations.experiments.settings import Axes, Bases, clip_of, questions_of
from simulations.experiments.validation import Inner
from simulations.page_markdown import markdown_of
from simulations.read_sites import read_cohorts

_DELTA = 1e-4
_TWIN = "-private"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a command asks for.

    Attributes:
        epsilons: finite ones; the study without privacy is always made beside them.
        num_trials: of a search for a front; None: the grid of the axes.
        charges_tuning: whether trials are part of the reported epsilon.
    """

    bases: Bases
    epsilons: Sequence[float]
    noise_multipliers: Sequence[float] = ()
    axes: Axes
    num_seeds: int
    num_folds: int = 2
    num_trials: int | None = None
    charges_tuning: bool = False
    attacks: Attacks = "audit"


@dataclass(frozen=True, kw_only=True)
class Written:
    """The files of an experiment.

    Attributes:
        failures: why there is no private result at all, as codes; none where there is one.
    """

    report: Path
    page: Path
    rows: Path
    trials: Path
    failures: Sequence[str] = ()


def bases_of(name: str, *, private_name: str | None, delta: float | None) -> Bases:
    """The studies with and without privacy that a name stands for.

    Without a name for the private one it is the study itself if it is private; else the shipped
    study of the same name and "-private", whose settings were chosen for private steps; else the
    study itself with privacy asked of it.

    Raises:
        StudyError: there is no such study.
    """
    reference = load_study(name)
    is_private = isinstance(reference.privacy, PatientPrivacy)
    twin = f"{reference.name}{_TWIN}"
    private = reference
    if private_name is not None:
        private = load_study(private_name)
    elif not is_private and reference == _shipped(reference.name) and twin in shipped_studies():
        private = load_study(twin)
    if _judged_by(private) != _judged_by(reference):
        raise StudyError(
            f"Expected studies of the same outcomes and the same held-out patients, found "
            f"'{reference.name}' and '{private.name}' to differ in them. Name another one by "
            "--private-study."
        )
    own = private.privacy.delta if isinstance(private.privacy, PatientPrivacy) else _DELTA
    return Bases(private=private, reference=reference, delta=own if delta is None else delta)


def make_experiment(
    wanted: Wanted,
    *,
    sites: Path | None,
    out: Path,
    jobs: int,
    simulate_hospitals: Callable[[], None],
    on_progress: OnProgress,
    figure: Path | None = None,
) -> Written:
    """The files of an experiment, all of whose parts are made, or were made before.

    Guarantees:
        - Interrupted, even by SIGKILL, and begun again in the same folder, it goes on, and its
          files have the bytes that they would have had.
        - A folder with another experiment is refused.

    Args:
        figure: where the curve over the mean of hospitals is also written, as SVG.

    Raises:
        StudyError: the study cannot be private, or Optuna is missing.
        DataError: a hospital's data cannot be used for the study; every reason is told.
        RunError: the folder holds another experiment, or another command works in it.
    """
    optuna_or_error()
    sweep = _sweep(wanted)
    check_sweep(sweep)
    with experiment_folder(
        out, identity=_identity(wanted), sites=sites, simulate_hospitals=simulate_hospitals
    ) as hospitals:
        # What no run could mend is no result of a run.
        read_cohorts(wanted.bases.reference, hospitals)
        experiment = run_sweep(sweep, sites=hospitals, out=out, jobs=jobs, on_progress=on_progress)
        written = _write(experiment, out)
        if figure is not None:
            _write_figure(experiment, figure)
    return written


def _sweep(wanted: Wanted) -> Sweep:
    bases = wanted.bases
    pareto = None
    if wanted.num_trials is not None:
        pareto = pareto_of(
            wanted.epsilons,
            wanted.axes,
            bases.private.training,
            clip_of(bases.private) or 1.0,
            num_trials=wanted.num_trials,
        )
    return Sweep(
        bases=bases,
        questions=questions_of(wanted.epsilons, wanted.noise_multipliers, wanted.axes),
        num_seeds=wanted.num_seeds,
        inner=Inner(num_folds=wanted.num_folds),
        pareto=pareto,
        charges_tuning=wanted.charges_tuning,
        attacks=wanted.attacks,
    )


def _identity(wanted: Wanted) -> dict[str, object]:
    bases = wanted.bases
    return {
        "kind": "privacy",
        "study": described(bases.reference),
        "private study": described(bases.private),
        "delta": bases.delta,
        "epsilons": list(wanted.epsilons),
        "noise multipliers": list(wanted.noise_multipliers),
        "settings": {name: list(values) for name, values in vars(wanted.axes).items()},
        "seeds": wanted.num_seeds,
        "folds": wanted.num_folds,
        "trials": wanted.num_trials,
        "tuning cost": wanted.charges_tuning,
        "attacks": wanted.attacks,
    }


def _write(experiment: Experiment, out: Path) -> Written:
    page = experiment_page(experiment)
    written = Written(
        report=out / "report.md",
        page=out / "curve.html",
        rows=out / "experiment.csv",
        trials=out / "trials.csv",
        failures=_failures(experiment),
    )
    for path, text in (
        (written.report, markdown_of(page)),
        (written.page, html_of(page)),
        (written.rows, to_csv(experiment)),
        (written.trials, trials_to_csv(experiment)),
    ):
        write_atomically(path, text.encode(), durable=False)
    return written


def _failures(experiment: Experiment) -> list[str]:
    """The codes of all failures where no private run came to its end; else none."""
    by_point = [point.failures for point in experiment.points]
    return sorted({code for codes in by_point for code in codes}) if all(by_point) else []


def _write_figure(experiment: Experiment, path: Path) -> None:
    study = experiment.sweep.bases.reference
    title = f"{study.name}: utility and privacy, mean of hospitals"
    chart = chart_of_scope(experiment, MEAN, title)
    if chart is not None:
        write_atomically(path, svg_file(chart).encode(), durable=False)


def _judged_by(study: Study) -> object:
    """What two studies must share to be compared: outcomes, and who is held out."""
    kinds = [(name, outcome.kind, outcome.columns) for name, outcome in study.outcomes.items()]
    return kinds, split_of(study.evaluation)


def _shipped(name: str) -> Study | None:
    return load_study(name) if name in shipped_studies() else None

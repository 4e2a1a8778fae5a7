"""The statistics of a whole study: those of each outcome under its name, and of personal models.

On the wire and in the journal a statistic is called OUTCOME.STATISTIC, or
personal.OUTCOME.STATISTIC where it is about the hospitals' own models; those of groups of patients
stand in `common.metrics.subgroups`, those of attributions in `common.metrics.attributions`.
"""

from collections.abc import Mapping, Sequence
from math import prod

from common.metrics.attributions import attribution_sizes
from common.metrics.classification import ClassStatistics
from common.metrics.noised import NoisedStatistics
from common.metrics.noised_classes import NoisedClasses
from common.metrics.noised_regression import NoisedRegression
from common.metrics.noised_survival import NoisedSurvival
from common.metrics.regression import RegressionStatistics
from common.metrics.statistics import EvaluationSums, Statistics
from common.metrics.subgroups import group_sizes
from common.metrics.survival import SurvivalStatistics
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.privacy.sections import PatientPrivacy
from common.study import Study

# Seconds of work at the site by phase: sent beside the statistics, and not merged.
SECONDS = ("seconds_training", "seconds_evaluation")
PERSONAL = "personal"

Flat = Mapping[str, Sequence[float]]


def statistics_of(study: Study) -> dict[str, Statistics]:
    """The statistics of each outcome, by its name; noised ones where patients are protected."""
    if isinstance(study.privacy, PatientPrivacy):
        return dict(noised_statistics_of(study))
    return {
        name: _of_outcome(outcome, study.evaluation.score_bins)
        for name, outcome in study.outcomes.items()
    }


def noised_statistics_of(study: Study) -> dict[str, NoisedStatistics]:
    """The statistics that the one evaluation of a private study releases, by outcome.

    Raises:
        ValueError: the study does not protect its patients.
    """
    if not isinstance(study.privacy, PatientPrivacy):
        raise ValueError(f"expected privacy.mode = 'patient', found '{study.privacy.mode}'")
    num_bins = study.privacy.evaluation_bins
    return {name: _noised(outcome, num_bins) for name, outcome in study.outcomes.items()}


def _noised(outcome: AnyOutcome, num_bins: int) -> NoisedStatistics:
    if isinstance(outcome, ClassOutcome):
        # An even number of bins has an edge at .5, where classes are told apart.
        even = num_bins + num_bins % 2
        return NoisedClasses(num_classes=len(outcome.classes), score_bins=even)
    if isinstance(outcome, RegressionOutcome):
        return NoisedRegression(range=outcome.range)
    has_likelihood = outcome.loss == "discrete_time"
    return NoisedSurvival(
        cut_points=outcome.cut_points, has_likelihood=has_likelihood, num_bins=num_bins
    )


def _models_of(study: Study) -> tuple[str, ...]:
    """The models that are evaluated: of a private study the shared one alone."""
    has_own = study.personal.has_model and not isinstance(study.privacy, PatientPrivacy)
    return ("", PERSONAL) if has_own else ("",)


def _of_outcome(outcome: AnyOutcome, score_bins: int) -> Statistics:
    if isinstance(outcome, ClassOutcome):
        return ClassStatistics(num_classes=len(outcome.classes), score_bins=score_bins)
    if isinstance(outcome, RegressionOutcome):
        return RegressionStatistics(range=outcome.range)
    return SurvivalStatistics(
        cut_points=outcome.cut_points, has_likelihood=outcome.loss == "discrete_time"
    )


def declared_sizes(study: Study) -> dict[str, int]:
    """The name and number of elements of everything that an evaluation may release.

    No seconds of a private study: how long a site works depends on its patients.
    """
    is_private = isinstance(study.privacy, PatientPrivacy)
    sizes = {} if is_private else dict.fromkeys(SECONDS, 1)
    for model in _models_of(study):
        for outcome, statistics in statistics_of(study).items():
            for name, shape in statistics.shapes().items():
                sizes[_full_name(model, outcome, name)] = prod(shape)
    return sizes | group_sizes(study) | attribution_sizes(study)


def to_flat(sums: Mapping[str, EvaluationSums], *, model: str = "") -> dict[str, tuple[float, ...]]:
    """The sums of each outcome as flat tuples: the form on the wire and in the journal.

    Args:
        model: "" for the shared model, `PERSONAL` for the site's own, or the key of a group.
    """
    return {
        _full_name(model, outcome, name): tuple(value.reshape(-1).tolist())
        for outcome, evaluation in sums.items()
        for name, value in evaluation.sums.items()
    }


def from_flat(study: Study, flat: Flat, *, model: str = "") -> dict[str, EvaluationSums]:
    """The inverse of `to_flat`; an outcome of which nothing was sent is missing.

    Raises:
        ValueError: an outcome's statistics are malformed (`Statistics.read`).
    """
    sums = {}
    for outcome, statistics in statistics_of(study).items():
        prefix = _full_name(model, outcome, "")
        sent = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
        if sent:
            sums[outcome] = statistics.read(sent)
    return sums


def groups_of(study: Study) -> list[str]:
    """The prefixes under which the statistics of one outcome and model stand together."""
    return [
        _full_name(model, outcome, "") for model in _models_of(study) for outcome in study.outcomes
    ]


def statistic_of(full_name: str) -> str:
    """The plain name of a statistic, as policies list it.

    >>> statistic_of("personal.event.confusion")
    'confusion'
    """
    return full_name.rpartition(".")[2]


def _full_name(model: str, outcome: str, name: str) -> str:
    return ".".join(part for part in (model, outcome) if part) + "." + name

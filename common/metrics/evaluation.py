"""The statistics of a whole study: those of each outcome under its name, and of personal models.

On the wire and in the journal a statistic is called OUTCOME.STATISTIC, or
personal.OUTCOME.STATISTIC where it is about the hospitals' own models.
"""

from collections.abc import Mapping, Sequence
from math import prod

from common.metrics.classification import ClassStatistics
from common.metrics.regression import RegressionStatistics
from common.metrics.statistics import EvaluationSums, Statistics
from common.metrics.survival import SurvivalStatistics
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.study import Study

# Seconds of work at the site by phase: sent beside the statistics, and not merged.
SECONDS = ("seconds_training", "seconds_evaluation")
PERSONAL = "personal"

Flat = Mapping[str, Sequence[float]]


def statistics_of(study: Study) -> dict[str, Statistics]:
    """The statistics of each outcome, by its name."""
    return {
        name: _of_outcome(outcome, study.evaluation.score_bins)
        for name, outcome in study.outcomes.items()
    }


def _of_outcome(outcome: AnyOutcome, score_bins: int) -> Statistics:
    if isinstance(outcome, ClassOutcome):
        return ClassStatistics(num_classes=len(outcome.classes), score_bins=score_bins)
    if isinstance(outcome, RegressionOutcome):
        return RegressionStatistics(range=outcome.range)
    return SurvivalStatistics(
        cut_points=outcome.cut_points, has_likelihood=outcome.loss == "discrete_time"
    )


def declared_sizes(study: Study) -> dict[str, int]:
    """The name and number of elements of everything that an evaluation may release."""
    sizes = dict.fromkeys(SECONDS, 1)
    models = ("", PERSONAL) if study.personal.has_model else ("",)
    for model in models:
        for outcome, statistics in statistics_of(study).items():
            for name, shape in statistics.shapes().items():
                sizes[_full_name(model, outcome, name)] = prod(shape)
    return sizes


def to_flat(sums: Mapping[str, EvaluationSums], *, model: str = "") -> dict[str, tuple[float, ...]]:
    """The sums of each outcome as flat tuples: the form on the wire and in the journal.

    Args:
        model: "" for the shared model, `PERSONAL` for the site's own.
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
    models = ("", PERSONAL) if study.personal.has_model else ("",)
    return [_full_name(model, outcome, "") for model in models for outcome in study.outcomes]


def statistic_of(full_name: str) -> str:
    """The plain name of a statistic, as policies list it.

    >>> statistic_of("personal.event.confusion")
    'confusion'
    """
    return full_name.rpartition(".")[2]


def _full_name(model: str, outcome: str, name: str) -> str:
    return ".".join(part for part in (model, outcome) if part) + "." + name

"""What predictions rest on, as sums that hospitals may tell: which there are, and what they give.

A hospital attributes each held-out patient's score to the patient's features (integrated
gradients, `client.attributions`) and tells sums over patients, one for each column: a granularity,
or a feature of one. Here is what such sums can be, so that both sides refuse any others. A private
study has none.

On the wire a statistic is called attributions.OUTCOME.STATISTIC, an element for each column.

Letters of shapes: F columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.granularities import AnyGranularity, TabularGranularity
from common.metrics.statistics import EvaluationSums, Floats
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.privacy.sections import PatientPrivacy
from common.study import Study

KEY = "attributions"
PATIENTS = "attributed_patients"
ABSOLUTE = "absolute_attribution_sum"
SIGNED = "attribution_sum"
DIRECTED = "directed_attribution_sum"
STATISTICS = (PATIENTS, ABSOLUTE, SIGNED, DIRECTED)

# A granularity with more features (markers of a genome) is told as a whole alone.
MOST_FEATURES = 200
# Sums are rounded to this part of the largest power of two within the sum of sizes.
ROUNDING = 1 / 128
# Log odds: beyond, a patient's attribution counts as this much.
_MOST_LOG_ODDS = 8.0
_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True)
class Column:
    """What attributions are summed of.

    Attributes:
        feature: None for the granularity as a whole, the sum over its features.
        has_direction: whether it is a number, so that scores can rise or fall with it.
    """

    granularity: str
    feature: str | None
    has_direction: bool = False


def columns_of(study: Study) -> tuple[Column, ...]:
    """The columns, in the order of the study: each granularity, and its features behind it."""
    return tuple(c for name, part in study.granularities.items() for c in _columns(name, part))


def _columns(name: str, part: AnyGranularity) -> list[Column]:
    categorical = part.categorical if isinstance(part, TabularGranularity) else {}
    features = [Column(granularity=name, feature=f, has_direction=True) for f in part.numeric]
    features += [Column(granularity=name, feature=f) for f in categorical]
    whole = Column(granularity=name, feature=None)
    return [whole, *features] if len(features) <= MOST_FEATURES else [whole]


def is_attribution(name: str) -> bool:
    """Whether a statistic is one of attributions.

    >>> is_attribution("attributions.event.attribution_sum"), is_attribution("event.confusion")
    (True, False)
    """
    return name.startswith(f"{KEY}.") and name.rpartition(".")[2] in STATISTICS


def prefixes_of(study: Study) -> dict[str, str]:
    """The prefix of the statistics of each outcome, by its name; none where nothing is told."""
    if not study.evaluation.attributions or isinstance(study.privacy, PatientPrivacy):
        return {}
    return {outcome: f"{KEY}.{outcome}." for outcome in study.outcomes}


def attribution_sizes(study: Study) -> dict[str, int]:
    """The name and number of elements of every statistic of attributions that may be released."""
    size = len(columns_of(study))
    return {
        f"{prefix}{name}": size for prefix in prefixes_of(study).values() for name in STATISTICS
    }


def bound_of(outcome: AnyOutcome) -> float:
    """The most that one patient's attribution of one column counts, on the scale of the score.

    That of a class is in log odds, of a quantity its range, of survival the probability 1.
    """
    if isinstance(outcome, ClassOutcome):
        return _MOST_LOG_ODDS
    if isinstance(outcome, RegressionOutcome):
        return outcome.range[1] - outcome.range[0]
    return 1.0


def score_name(outcome: AnyOutcome) -> str:
    """What is attributed to features, in words: the score of a patient."""
    if isinstance(outcome, RegressionOutcome):
        return f"predicted value, in {outcome.unit}"
    if not isinstance(outcome, ClassOutcome):
        if outcome.loss == "cox":
            return "rank of the predicted risk, from 0 to 1"
        return (
            f"mean predicted probability of the event by {outcome.cut_points[-1]:g} {outcome.unit}"
        )
    if outcome.kind == "binary":
        return f"log odds of '{outcome.classes[1]}'"
    return "log odds of the predicted class"


def raise_if_impossible(sums: EvaluationSums, bound: float) -> None:
    """Nothing. Raises ValueError unless some patients could have these sums.

    Args:
        bound: as `bound_of`.
    """
    if not sums.sums:
        return
    if not sums.has(PATIENTS):
        raise ValueError("expected numbers of patients beside other sums, found none")
    patients_F = sums.sums[PATIENTS]
    if (patients_F < 0).any() or (patients_F != np.round(patients_F)).any():
        raise ValueError("expected whole numbers of patients of 0 or more")
    most_F = patients_F * bound
    if sums.has(ABSOLUTE):
        absolute_F = sums.sums[ABSOLUTE]
        if (absolute_F < 0).any() or (absolute_F > most_F * (1 + _SLACK)).any():
            raise ValueError("expected sums of sizes from 0 to what so many patients can have")
        most_F = absolute_F
    for name in (SIGNED, DIRECTED):
        if sums.has(name) and (np.abs(sums.sums[name]) > most_F * (1 + _SLACK)).any():
            raise ValueError(f"expected {name} within the sum of sizes")


def attributions_from_flat(
    study: Study, flat: Mapping[str, Sequence[float]], whole: Mapping[str, EvaluationSums]
) -> dict[str, EvaluationSums]:
    """The sums of each outcome of which some were sent; a policy may have withheld others.

    Args:
        whole: of all patients of the same reply, by outcome.

    Raises:
        ValueError: sums are malformed or impossible, or over more patients than there are.
    """
    found = {}
    for outcome, prefix in prefixes_of(study).items():
        sent = {
            name: np.asarray(tuple(flat[prefix + name]), dtype=np.float64)
            for name in STATISTICS
            if prefix + name in flat
        }
        if not sent:
            continue
        size = len(columns_of(study))
        if any(value.size != size for value in sent.values()):
            raise ValueError(f"expected {size} elements of each statistic of attributions")
        if not all(np.isfinite(value).all() for value in sent.values()):
            raise ValueError("expected finite attributions")
        sums = EvaluationSums(sums=sent)
        raise_if_impossible(sums, bound_of(study.outcomes[outcome]))
        if outcome not in whole or (sent[PATIENTS] > whole[outcome].num_patients).any():
            raise ValueError("expected attributions of no more patients than were evaluated")
        found[outcome] = sums
    return found


def attributions_to_flat(sums: Mapping[str, EvaluationSums]) -> dict[str, tuple[float, ...]]:
    """The inverse of `attributions_from_flat`."""
    return {
        f"{KEY}.{outcome}.{name}": tuple(value.tolist())
        for outcome, told in sums.items()
        for name, value in told.sums.items()
    }


def means_of(sums: EvaluationSums) -> dict[str, Floats]:
    """What each column adds on average; NaN where nobody was told of, or a sum was withheld.

    Returns:
        "patients", (F,); "mean_absolute" and "mean", (F,), on the scale of the score; "direction",
        (F,), in [-1, 1]: how much of the size raises the score with values above the baseline
        and lowers it with values below, less how much does the opposite.
    """
    patients_F = sums.sums[PATIENTS]

    def ratio(name: str, below: str) -> Floats:
        ratio_F = np.full(patients_F.shape, np.nan)
        if not sums.has(name, below):
            return ratio_F
        below_F = sums.sums[below]
        np.divide(sums.sums[name], below_F, out=ratio_F, where=below_F > 0)
        return ratio_F

    return {
        "patients": patients_F,
        "mean_absolute": ratio(ABSOLUTE, PATIENTS),
        "mean": ratio(SIGNED, PATIENTS),
        "direction": ratio(DIRECTED, ABSOLUTE),
    }

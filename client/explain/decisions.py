"""Decisions by a threshold on a probability, and what they get right among held-out patients.

A threshold is chosen on training patients alone; held-out patients judge it.

Letters of shapes: B patients, R resamples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.explain.subject import Subject
from common.metrics.intervals import proportion
from common.metrics.resampling import Estimate, Floats, draws, estimate, share
from common.outcomes import ClassOutcome

GRID = tuple(k / 10 for k in range(1, 10))
MEASURES = ("sensitivity", "specificity", "PPV", "NPV", "F1")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One way to decide who has a class, judged on held-out patients.

    Attributes:
        name: of the rule.
        threshold: of the probability, from which on a patient counts as having the class; None
            where the most probable class is decided for.
        num_flagged: the patients that are decided to have it.
        measures: by each of `MEASURES`.
    """

    name: str
    threshold: float | None
    num_patients: int
    num_flagged: int
    measures: dict[str, Estimate]


def decisions_of(subject: Subject, name: str, sensitivity: float | None) -> list[Decision]:
    """The decisions of an outcome: at chosen thresholds and a grid, or by class.

    Guarantees:
        - Chosen thresholds depend on training patients alone.

    Args:
        sensitivity: asked for among training patients, in (0, 1]; None: no such threshold.
    """
    outcome = subject.study.outcomes[name]
    if not isinstance(outcome, ClassOutcome):
        raise ValueError("expected an outcome of classes")
    test, known_B = subject.test, subject.test.known(name)
    scores_BC = test.predictions[name][known_B]
    label_B = test.cohort.outcomes[name]["label_B"][known_B]
    drawn_RB = draws(len(label_B))
    if outcome.kind == "multiclass":
        decided_B = scores_BC.argmax(axis=1)
        return [
            judged(label, None, decided_B == c, label_B == c, drawn_RB)
            for c, label in enumerate(outcome.classes)
        ]
    rules = _chosen(subject, name, sensitivity) | {f"{t:g}": t for t in GRID}
    return [
        judged(rule, threshold, scores_BC[:, 1] >= threshold, label_B == 1, drawn_RB)
        for rule, threshold in rules.items()
    ]


def _chosen(subject: Subject, name: str, sensitivity: float | None) -> dict[str, float]:
    """The thresholds that training patients choose, by rule; none where they have one class."""
    train, known_B = subject.train, subject.train.known(name)
    score_B = train.predictions[name][known_B][:, 1]
    is_positive_B = train.cohort.outcomes[name]["label_B"][known_B] == 1
    if is_positive_B.all() or not is_positive_B.any():
        return {}
    chosen = {"Youden": youden_threshold(score_B, is_positive_B)}
    if sensitivity is not None:
        rule = f"sensitivity {sensitivity:g}"
        chosen[rule] = sensitivity_threshold(score_B, is_positive_B, sensitivity)
    return chosen


def youden_threshold(score_B: Floats, is_positive_B: NDArray[np.bool_]) -> float:
    """The score with the largest sensitivity + specificity; the lowest of equally good ones.

    Source: Youden 1950, Cancer 3:32.

    >>> youden_threshold(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.35
    """
    candidates = np.unique(score_B)
    negatives = np.sort(score_B[~is_positive_B])
    positives = np.sort(score_B[is_positive_B])
    missed = np.searchsorted(positives, candidates, side="left") / len(positives)
    cleared = np.searchsorted(negatives, candidates, side="left") / len(negatives)
    return float(candidates[int(np.argmax(cleared - missed))])


def sensitivity_threshold(
    score_B: Floats, is_positive_B: NDArray[np.bool_], sensitivity: float
) -> float:
    """The highest score that at least this part of the positive patients reach.

    >>> sensitivity_threshold(np.array([0.9, 0.5, 0.2]), np.array([True, True, True]), 0.6)
    0.5
    """
    falling = np.sort(score_B[is_positive_B])[::-1]
    # 0.9 of 10 patients is 9, and not the 10 that rounding of floats would make of it.
    num_needed = max(int(np.ceil(sensitivity * len(falling) - 1e-9)), 1)
    return float(falling[num_needed - 1])


def judged(
    name: str,
    threshold: float | None,
    flagged_B: NDArray[np.bool_],
    is_positive_B: NDArray[np.bool_],
    drawn_RB: Floats,
) -> Decision:
    """What a decision gets right, with bootstrap intervals over the patients."""
    hits_R = drawn_RB @ (flagged_B & is_positive_B)
    cleared_R = drawn_RB @ (~flagged_B & ~is_positive_B)
    flagged_R, positive_R = drawn_RB @ flagged_B, drawn_RB @ is_positive_B
    num_R = drawn_RB.sum(axis=1)
    frequencies = (
        _frequency(hits_R, positive_R),
        _frequency(cleared_R, num_R - positive_R),
        _frequency(hits_R, flagged_R),
        _frequency(cleared_R, num_R - flagged_R),
    )
    f1 = estimate(share(2 * hits_R, flagged_R + positive_R))
    return Decision(
        name=name,
        threshold=threshold,
        num_patients=len(flagged_B),
        num_flagged=int(flagged_B.sum()),
        measures=dict(zip(MEASURES, (*frequencies, f1), strict=True)),
    )


def _frequency(part_R: Floats, whole_R: Floats) -> Estimate:
    """By bootstrap; by Wilson where all or none are, which every resample repeats."""
    found = estimate(share(part_R, whole_R))
    if found.value not in (0.0, 1.0):
        return found
    low, high = proportion(part_R[0], whole_R[0] - part_R[0]).interval
    return Estimate(value=found.value, low=low, high=high)

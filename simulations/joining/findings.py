"""What is told of joining: levels by arm and hospital, and differences, as values.

A difference is always a gain: above 0 is better, whether the metric is a share of pairs or an
error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from common.study import Study
from simulations.joining.intervals import Estimate
from simulations.joining.resample import People
from simulations.joining.training import ALONE, JOINED, JOINED_PERSONAL, POOLED

# The others' model at a hospital that has not joined, as it is.
NOT_JOINED = "the others' model"
# The unweighted means over all hospitals with enough patients, and over those that are there.
MEAN = "mean of hospitals"
OTHERS = "mean of the others"
LEVEL_ARMS = (ALONE, JOINED, JOINED_PERSONAL, POOLED, NOT_JOINED)

Question = Literal[
    "joining",
    "personal",
    "fine-tuning",
    "pooling",
    "receiving",
    "taking part",
    "hospital",
    "granularity",
]


@dataclass(frozen=True, kw_only=True)
class Level:
    """The main metric of one arm at one hospital, or as the mean of those with enough patients."""

    arm: str
    scope: str
    estimate: Estimate


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better an arm is than another at one hospital, or as the mean of several.

    Attributes:
        absent: the hospital or granularity whose worth is asked for.
        before, after: the metric in the arm `against`, and in `arm`.
        gain: what `arm` gains; its interval is stated where `reason` is empty.
        sites: the hospitals that it is of: one, or those that a mean is over.
        p_holm: adjusted for all `num_compared` that are judged together; None where this one is
            not among them.
        reason: why there is no interval.
    """

    question: Question
    scope: str
    arm: str
    against: str
    absent: str = ""
    before: float | None
    after: float | None
    gain: Estimate
    sites: tuple[str, ...] = ()
    p_holm: float | None = None
    num_compared: int = 0
    reason: str = ""

    @property
    def verdict(self) -> Literal["better", "worse", "unclear", "untold"]:
        """What its own interval says."""
        if self.gain.low is None or self.gain.high is None:
            return "untold"
        if self.gain.low > 0:
            return "better"
        return "worse" if self.gain.high < 0 else "unclear"

    @property
    def stands(self) -> bool:
        """Whether it says so also when all that are compared are judged together."""
        return self.p_holm is not None and self.p_holm < 0.05 and self.verdict != "unclear"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that is told of what joining brings.

    Attributes:
        metric: the main one, of the primary outcome.
        people: by hospital.
        failures: sentences of arms that came to nothing in some of the seeds.
    """

    study: Study
    outcome: str
    metric: str
    seeds: tuple[int, ...]
    num_resamples: int
    people: Mapping[str, People]
    levels: Sequence[Level]
    differences: Sequence[Difference]
    failures: Sequence[str]

    def of(self, question: Question, *, scope: str | None = None) -> list[Difference]:
        """The differences of a question, in their order; of one scope, if it is named."""
        return [
            d
            for d in self.differences
            if d.question == question and (scope is None or d.scope == scope)
        ]

    def level(self, arm: str, scope: str) -> Level | None:
        """The level of an arm; None where the arm was not made."""
        found = [level for level in self.levels if (level.arm, level.scope) == (arm, scope)]
        return found[0] if found else None

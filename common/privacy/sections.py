"""The `[privacy]` of a study: which promise it makes to whom, in one of three modes.

Adjacency is *add or remove one patient* (mode "patient") or *add or remove one site* (mode "site"),
always. What a site really does follows from this section, its own number of patients and its policy
(`common.privacy.plan`).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.contract import SITE_NAME_PATTERN, Section
from common.fields import Count, Positive

SiteName = Annotated[str, Field(pattern=SITE_NAME_PATTERN)]
Epsilon = Annotated[float, Field(gt=0.0, le=1000.0)]
Delta = Annotated[float, Field(gt=0.0, le=0.01)]
# What clipping can be exact for in 32 bits; a norm that it refuses would fail only where a sample
# has patients, and so tell whether there are some.
Clip = Annotated[float, Field(ge=1e-6, le=1e6)]


class NoPrivacy(Section):
    """The plan "none": a plan with a name, and a site's policy must allow it."""

    mode: Literal["none"] = "none"


class PatientPrivacy(Section):
    """Every patient of every site is protected, from the coordinator and from everyone else.

    Exactly one of `epsilon` and `noise_multiplier` is given.

    Attributes:
        epsilon, delta: what one run of the study may cost a patient, with all that is released:
            updates of all rounds, normalisation, the last evaluation.
        noise_multiplier: of training, in place of a target; epsilon then follows from it.
        max_grad_norm: L2 norm to which each patient's gradient is clipped.
        statistics_share: the part of epsilon that the moments of federated normalisation may take.
        evaluation_bins: in how many bins the scores of held-out patients are counted: fewer bins
            are less exact and less noisy.
        spare_rounds: how many rounds may be trained once more (after a crash); they are paid for in
            advance, by a little more noise.
        enrolment: a public number of patients of each site, by which its updates are weighted; all
            sites count alike where there is none. Never the exact number of patients.
    """

    mode: Literal["patient"]
    epsilon: Epsilon | None = None
    delta: Delta
    noise_multiplier: Positive | None = None
    max_grad_norm: Clip = 1.0
    statistics_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    evaluation_bins: Annotated[int, Field(strict=True, ge=2, le=1000)] = 10
    spare_rounds: Annotated[int, Field(strict=True, ge=0, le=1000)] = 1
    enrolment: dict[SiteName, Count] = Field(default_factory=dict)

    def weight_of(self, site: str) -> int:
        """The public weight of a site's updates."""
        return self.enrolment.get(site, 1)

    @model_validator(mode="after")
    def _one_measure_of_noise(self) -> Self:
        _check_one_measure(self.epsilon, self.noise_multiplier)
        return self


class SitePrivacy(Section):
    """The participation of each site is hidden in the model, by noise of a trusted coordinator.

    No patient is protected from the coordinator, and nothing of it is credited to patients. Updates
    are clipped to `max_update_norm`, every site counts alike, and the sum gets noise in each round.
    Exactly one of `epsilon` and `noise_multiplier` is given.
    """

    mode: Literal["site"]
    epsilon: Epsilon | None = None
    delta: Delta
    noise_multiplier: Positive | None = None
    max_update_norm: Positive = 1.0

    @model_validator(mode="after")
    def _one_measure_of_noise(self) -> Self:
        _check_one_measure(self.epsilon, self.noise_multiplier)
        return self


def _check_one_measure(epsilon: float | None, noise_multiplier: float | None) -> None:
    if (epsilon is None) == (noise_multiplier is None):
        raise ValueError("expected exactly one of epsilon and noise_multiplier")


AnyPrivacy = Annotated[NoPrivacy | PatientPrivacy | SitePrivacy, Field(discriminator="mode")]

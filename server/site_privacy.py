"""Privacy of sites: whole updates are clipped, and a trusted coordinator adds noise to their sum.

The unit is the hospital. The roster of a run (who is enrolled, and which granularities each one
offers) is public; what a hospital contributes is not. Neighbouring runs have the same roster, and
in one of them one hospital contributes nothing: add or remove all updates of one site, in all
rounds. The guarantee is about the *model*, after every round. It is not about what the coordinator
itself sees (each site's update, counts and metrics in its journal, the names of the clipped sites),
nor about whether a round had the quorum to be aggregated at all; and nothing of it is credited to
patients: the ledgers of the hospitals stay empty of it.

For the model to be covered, everything in it must come from here: a study of mode "site" needs
`normalisation.method = "public_range"`, because exact moments of the sites are part of the model
otherwise, and `strategy.combine = "mean"`, because no other combination has this sensitivity.

What must not depend on one site's answer:

- *which blocks move*: those that enough enrolled sites offer, fixed at the start of the run, in
  every round. One that nobody trained in this round gets noise alone: left as it was, it would tell
  that the only sites that have it were away.
- *by what the sum is divided*: the number of enrolled sites that offer the block. Divided by those
  that answered, the step would be longer by a known factor where one is missing.
- *the noise*: it is the coordinator's, so that it does not shrink when sites drop out.

Source: McMahan et al. 2018, arXiv:1710.06963, algorithm 1 with the fixed-denominator estimator,
flat clipping and every site in every round (q = 1, hence no amplification). A site is to us what a
user is there.

Letters of shapes: P parameters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.arrays import Arrays, Manifest, l2_norm, size_of, slices_of
from common.errors import RunError
from common.models.patient_model import block_owner
from common.privacy.accounting import epsilon_of
from common.privacy.calibration import LEAST_NOISE, with_least_noise
from common.privacy.events import Charge, Gaussian
from common.privacy.mechanisms import NoiseSource, add_gaussian
from common.privacy.sections import SitePrivacy
from server.aggregation import Combined, SiteUpdate

Floats = NDArray[np.float64]

# Names of the events in the journal; `site_history` reads what the strategy writes under them.
STARTED, DRAWN = "site_privacy_started", "noise_drawn"

# Clipped a little below the bound, so that it holds after the rounding of norm and product.
_MARGIN = 1e-9


@dataclass(frozen=True, kw_only=True)
class SitePlan:
    """How much noise every round of one run gets, and what that costs a site.

    Attributes:
        noise_multiplier: standard deviation of the noise on the sum, in units of `max_update_norm`.
        max_update_norm: L2 norm to which the whole update of a site is clipped.
        max_draws: how often noise may be drawn: once a round, and the spare rounds.
    """

    noise_multiplier: float
    max_update_norm: float
    delta: float
    max_draws: int

    def charges_after(self, num_draws: int) -> tuple[Charge, ...]:
        """What a site is charged once noise was drawn so many times."""
        return (Charge(event=Gaussian(noise_multiplier=self.noise_multiplier, count=num_draws)),)

    def epsilon_after(self, num_draws: int) -> float:
        """Epsilon of a site, at `delta`, once noise was drawn so many times."""
        return epsilon_of(self.charges_after(num_draws), self.delta) if num_draws else 0.0

    @property
    def epsilon(self) -> float:
        """Epsilon of all that the run may do."""
        return self.epsilon_after(self.max_draws)


def site_plan_of(privacy: SitePrivacy, *, num_rounds: int, spare_rounds: int = 1) -> SitePlan:
    """The plan of a run.

    Guarantees:
        - The whole run, spare rounds included, costs at most the epsilon that was asked for, and
          at least .98 of it.

    Args:
        spare_rounds: how many rounds may be aggregated once more, after a crash.

    Raises:
        StudyError: no sane noise is enough.
    """
    max_draws = num_rounds + spare_rounds
    noise_multiplier = privacy.noise_multiplier
    if noise_multiplier is None:
        assert privacy.epsilon is not None  # noqa: S101  # by the section's validator
        whole_run = Gaussian(noise_multiplier=LEAST_NOISE, count=max_draws)
        noise_multiplier = with_least_noise(
            whole_run, privacy.epsilon, privacy.delta
        ).noise_multiplier
    return SitePlan(
        noise_multiplier=noise_multiplier,
        max_update_norm=privacy.max_update_norm,
        delta=privacy.delta,
        max_draws=max_draws,
    )


@dataclass(frozen=True, kw_only=True)
class SiteHistory:
    """What a run has done so far, by its journal.

    Attributes:
        num_draws: how often noise was drawn, or was about to be.
        offered: as it was when the run started; empty for a run that has not.
    """

    num_draws: int
    offered: Mapping[str, int]


def site_history(events: Iterable[Mapping[str, object]]) -> SiteHistory:
    """What the journal says of a run, also of one that was killed and resumed.

    The journal alone is asked: a checkpoint may fall back to the one before it, and would forget.
    """
    num_draws = 0
    offered: dict[str, int] = {}
    for event in events:
        if event["event"] == DRAWN:
            num_draws += 1
        if event["event"] == STARTED and not offered:
            told = event["offered"]
            assert isinstance(told, Mapping)  # noqa: S101  # written by ourselves
            offered = dict(told)
    return SiteHistory(num_draws=num_draws, offered=offered)


def offered_by(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """How many enrolled sites offer each granularity and outcome, and "patients" for all of them.

    >>> offered_by([{"patients": 9, "labs": 4}, {"patients": 7, "labs": 0}])
    {'patients': 2, 'labs': 1}
    """
    offered: dict[str, int] = {}
    for of_site in counts:
        for owner, count in of_site.items():
            offered[owner] = offered.get(owner, 0) + (count > 0)
    return offered


@dataclass(frozen=True, kw_only=True)
class PrivateRound:
    """The combined update of a round, and what the coordinator alone may know of it.

    Attributes:
        clipped: sites whose update was longer than the bound.
        dropped: sites whose update was not finite; they count as zero.
    """

    combined: Combined
    clipped: tuple[str, ...]
    dropped: tuple[str, ...]


class SiteMechanism:
    """Aggregation under site-level privacy, and the count of how often it was done.

    Guarantees:
        - Adding, removing or replacing the update of one site moves the sum, before the noise, by
          at most the clip (by twice the clip for a replacement), whatever is in it.
        - The noise on the sum has a standard deviation of noise_multiplier times max_update_norm in
          each parameter that moves, however many sites answer, none included.
        - Which parameters move, and by what the sum is divided, does not depend on who answers.
        - Every site counts alike, whatever its size.
        - The result does not depend on the order of `updates`: sites are taken by name.
        - A draw is recorded before it is made, and one that the plan does not hold is not made.

    A round that is aggregated again, after a crash between the aggregation and its checkpoint, gets
    another draw, and is charged again. The same noise on the sum of other answers would give away
    their difference, so that a draw can be neither stored nor repeated from a seed.

    Args:
        manifest: the trainable parameters of the study's model.
        offered: `offered_by` of the roster at the start of the run.
        min_sites_per_block: a block that fewer enrolled sites offer never moves.
        num_draws: those before a resume, by `site_history`.
        record: makes durable that noise is about to be drawn for the n-th time, n = 1, 2, …
    """

    def __init__(
        self,
        plan: SitePlan,
        *,
        manifest: Manifest,
        offered: Mapping[str, int],
        min_sites_per_block: int,
        source: NoiseSource,
        num_draws: int,
        record: Callable[[int], None],
    ) -> None:
        self.plan = plan
        self.num_draws = num_draws
        self._manifest = manifest
        self._source = source
        self._record = record
        self._divisor_P = np.zeros(size_of(manifest))
        for block, place in slices_of(manifest):
            num_offering = offered.get(block_owner(block.name), 0)
            if num_offering >= max(min_sites_per_block, 1):
                self._divisor_P[place] = num_offering

    @property
    def epsilon(self) -> float:
        """What a site was charged so far, at the plan's delta."""
        return self.plan.epsilon_after(self.num_draws)

    @property
    def is_spent(self) -> bool:
        """Whether the plan holds no further draw: the run must end with the model that it has."""
        return self.num_draws >= self.plan.max_draws

    def combine(self, updates: Sequence[SiteUpdate]) -> PrivateRound:
        """The noised mean of a round.

        Edge cases:
            | updates                              | effect                                    |
            | none at all                          | noise alone                               |
            | one is not finite                    | its site counts as zero, and is `dropped` |
            | one of a site without a granularity  | zero in its blocks, before the clipping   |
            | one of a block that does not move    | zero in it, before the clipping           |

        Raises:
            RunError: the plan holds no further draw.
            ValueError: a site comes twice, or its update is of another manifest.
        """
        names = [update.site for update in updates]
        if len(set(names)) < len(names):
            raise ValueError("expected one update of each site, found two of one")
        if any(update.update.manifest != self._manifest for update in updates):
            raise ValueError("expected updates of the model's manifest, found another")
        if self.is_spent:
            raise RunError(
                f"Expected at most {self.plan.max_draws} draws of noise in this run, found one "
                "more asked for: it would cost the sites more than was planned. The model of the "
                "last round stands; plan spare rounds in another run."
            )
        self._record(self.num_draws + 1)
        self.num_draws += 1
        ordered = sorted(updates, key=lambda u: u.site)
        kept = [(u.site, self._moving_part_of(u)) for u in ordered]
        finite = [(site, part_P) for site, part_P in kept if np.isfinite(part_P).all()]
        clip = self.plan.max_update_norm
        sum_P = clipped_sum([part_P for _, part_P in finite], clip, len(self._divisor_P))
        return PrivateRound(
            combined=self._noised_mean(sum_P),
            clipped=tuple(site for site, part_P in finite if l2_norm(part_P) > clip),
            dropped=tuple(sorted({*names} - {site for site, _ in finite})),
        )

    def _moving_part_of(self, update: SiteUpdate) -> Floats:
        """The update in the blocks that move and that its site has patients for; zero elsewhere."""
        part_P = np.zeros(len(self._divisor_P))
        for block, place in slices_of(self._manifest):
            if update.counts.get(block_owner(block.name), 0) > 0 and self._divisor_P[place].any():
                part_P[place] = update.update.flat[place]
        return part_P

    def _noised_mean(self, sum_P: Floats) -> Combined:
        moves_P = self._divisor_P > 0
        noised = add_gaussian(
            sum_P[moves_P],
            sensitivity=self.plan.max_update_norm,
            noise_multiplier=self.plan.noise_multiplier,
            source=self._source,
        )
        flat = np.zeros(len(sum_P), dtype=np.float32)
        flat[moves_P] = noised / self._divisor_P[moves_P]
        return Combined(update=Arrays(manifest=self._manifest, flat=flat), trained_P=moves_P)


def clipped_sum(parts: Sequence[Floats], max_norm: float, num_parameters: int) -> Floats:
    """The sum of vectors (P), each clipped to an L2 norm of `max_norm`, added one after the other.

    >>> clipped_sum([np.array([3.0, 4.0]), np.array([0.0, 0.5])], 1.0, 2).round(6)
    array([0.6, 1.3])
    """
    sum_P = np.zeros(num_parameters)
    bound = max_norm * (1 - _MARGIN)
    for part_P in parts:
        norm = l2_norm(part_P)
        sum_P += part_P if norm <= bound else part_P * (bound / norm)
    return sum_P

"""How the updates of one round become one: as they are, or under the privacy of sites.

Both ways have the same shape, so that the strategy does not ask which one it has.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from common.arrays import Manifest
from common.privacy.mechanisms import NoiseSource
from common.privacy.sections import SitePrivacy
from common.study import Study
from server.aggregation import Combined, SiteUpdate, aggregate, combine_of
from server.journal import Event, Journal
from server.site_privacy import (
    DRAWN,
    STARTED,
    SiteMechanism,
    offered_by,
    site_history,
    site_plan_of,
)


class Combining(ABC):
    """One way to combine the updates of a round."""

    @abstractmethod
    def start(self, counts: Iterable[Mapping[str, int]]) -> None:
        """Takes note of what the enrolled sites have, once, before the first round."""

    @abstractmethod
    def combine(self, updates: Sequence[SiteUpdate], *, round_number: int) -> Combined:
        """The combined update of the round, from updates that were all accepted."""


class PlainCombining(Combining):
    """Block by block, by the study's strategy, without noise."""

    def __init__(self, study: Study) -> None:
        self._plan = study.strategy
        self._combine = combine_of(self._plan.combine, self._plan.trimmed_fraction)

    def start(self, counts: Iterable[Mapping[str, int]]) -> None:
        """Nothing: each round is combined over the sites that answer it."""

    def combine(self, updates: Sequence[SiteUpdate], *, round_number: int) -> Combined:
        """The combined update of the round."""
        return aggregate(
            updates,
            self._combine,
            equal_weights=self._plan.weights == "equal",
            min_sites=self._plan.min_sites_per_block,
        )


class SitePrivateCombining(Combining):
    """Clipped, summed with equal weights, and noised: the mechanism of `server.site_privacy`.

    Args:
        history: the journal of the run so far; a run that goes on has drawn noise before.
    """

    def __init__(
        self,
        study: Study,
        privacy: SitePrivacy,
        *,
        manifest: Manifest,
        journal: Journal,
        history: Iterable[Event],
        source: NoiseSource,
    ) -> None:
        self._plan = site_plan_of(privacy, num_rounds=study.training.rounds)
        self._min_sites_per_block = study.strategy.min_sites_per_block
        self._manifest = manifest
        self._journal = journal
        self._history = site_history(history)
        self._source = source
        self._mechanism: SiteMechanism | None = None

    def start(self, counts: Iterable[Mapping[str, int]]) -> None:
        """Fixes what every round is divided by: what the enrolled sites have."""
        offered = self._history.offered or offered_by(counts)
        self._journal.write(STARTED, offered=dict(offered))
        self._mechanism = SiteMechanism(
            self._plan,
            manifest=self._manifest,
            offered=offered,
            min_sites_per_block=self._min_sites_per_block,
            source=self._source,
            num_draws=self._history.num_draws,
            record=lambda draw: self._journal.write(DRAWN, draw=draw),
        )

    def combine(self, updates: Sequence[SiteUpdate], *, round_number: int) -> Combined:
        """The noised mean of the round. Raises `RunError` where the plan holds no further draw."""
        if self._mechanism is None:
            raise ValueError("expected a start before the first round, found none")
        result = self._mechanism.combine(updates)
        self._journal.write(
            "site_privacy",
            round=round_number,
            epsilon=self._mechanism.epsilon,
            delta=self._plan.delta,
            noise_multiplier=self._plan.noise_multiplier,
            clipped=list(result.clipped),
            dropped=list(result.dropped),
        )
        return result.combined


def combining_of(
    study: Study,
    *,
    manifest: Manifest,
    journal: Journal,
    history: Iterable[Event],
    source: NoiseSource | None,
) -> Combining:
    """The way of combining that the study's privacy asks for.

    Args:
        history: the journal's events so far.
        source: of noise, injected by a simulation; without it, a new secret one.
    """
    if isinstance(study.privacy, SitePrivacy):
        return SitePrivateCombining(
            study,
            study.privacy,
            manifest=manifest,
            journal=journal,
            history=history,
            source=source or NoiseSource.secure(),
        )
    return PlainCombining(study)

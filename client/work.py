"""What a site does for each kind of task, under one privacy plan.

Two kinds of work, of the same shape: `PlainWork` tells exact counts and sums, `PrivateWork` nothing
but what went through a mechanism that the plan has charged.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from client.attribution_sums import attribution_sums
from client.attributions import Judge
from client.dp_training import train_privately
from client.evaluation import (
    Intercepts,
    Outcomes,
    Predictions,
    evaluate,
    fit_intercepts,
    outcomes_of,
    predict,
    with_intercepts,
)
from client.personal import Personal, named_parameters_of
from client.prepared import Prepared
from client.private_statistics import private_evaluation, private_moments
from client.subgroups import group_sums, members_of
from client.training import train
from common.arrays import Arrays
from common.messages import Reply
from common.metrics.attributions import attributions_to_flat
from common.metrics.evaluation import PERSONAL, to_flat
from common.models.patient_model import parameters_of
from common.privacy.mechanisms import NoiseSource
from common.seeds import seed_of

# (round, model, predictions and outcomes of the held-out patients): for the simulation's oracle.
# The model is "" for the shared one, or `PERSONAL`.
PredictionObserver = Callable[[int, str, Predictions, Outcomes], None]
# The noise of one task: of round number and kind.
Sources = Callable[[int, str], NoiseSource]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a model makes of the held-out patients, whose outcomes are known here."""

    predictions: Predictions
    outcomes: Outcomes
    intercepts: Intercepts


class Work(ABC):
    """The work of one site in one study. The model holds what the task brought.

    Args:
        site: its name, which seeds its training.
        observer: told of each evaluation; in simulation alone.
    """

    def __init__(
        self, prepared: Prepared, *, site: str, observer: PredictionObserver | None
    ) -> None:
        self.prepared = prepared
        self._study = prepared.study
        self._site = site
        self._observer = observer

    @abstractmethod
    def enrol(self, reply: Reply) -> Reply:
        """The reply with counts, and moments where the study's normalisation is federated."""

    @abstractmethod
    def train(self, reply: Reply, personal: Personal) -> Reply:
        """The reply with the update of this round."""

    @abstractmethod
    def evaluate(self, reply: Reply, personal: Personal) -> Reply:
        """The reply with statistics of the held-out patients."""

    @property
    def _is_federated(self) -> bool:
        return self._study.normalisation.method == "federated"

    def _trained(
        self, round_number: int, personal: Personal, *, train_shared: Callable[[int], int]
    ) -> Arrays:
        """The update of the shared model; what is personal is trained as well, and stays here.

        Args:
            train_shared: trains the shared model in place with this seed.
        """
        prepared = self.prepared
        model = prepared.model
        start = named_parameters_of(model) if self._study.personal.ditto_lambda > 0 else {}
        before = parameters_of(model)
        train_shared(seed_of(self._study.training.seed, self._site, round_number))
        after = parameters_of(model)
        personal.after_training(model, start, prepared.train, round_number)
        return Arrays(manifest=before.manifest, flat=after.flat - before.flat)

    def _judged(
        self, round_number: int, personal: Personal, *, is_last: bool, model: str = ""
    ) -> Judged:
        """Predictions and outcomes of the held-out patients, which the observer is told."""
        prepared = self.prepared
        intercepts = fit_intercepts(prepared.model, prepared.train, self._study)
        if is_last:
            personal.keep_intercepts(round_number, intercepts, model=model)
        predictions = with_intercepts(predict(prepared.model, prepared.test), intercepts)
        outcomes = outcomes_of(prepared.test)
        if self._observer is not None and len(prepared.test):
            self._observer(round_number, model, predictions, outcomes)
        return Judged(predictions=predictions, outcomes=outcomes, intercepts=intercepts)


class PlainWork(Work):
    """Work under the plan "none": a training task is also asked for exact sums over patients."""

    def enrol(self, reply: Reply) -> Reply:
        """The reply with counts, and moments where the study's normalisation is federated."""
        moments = self.prepared.moments if self._is_federated else None
        return replace(reply, arrays=moments, counts=self.prepared.counts)

    def train(self, reply: Reply, personal: Personal) -> Reply:
        """The reply with the update of this round, and statistics of the model that came."""
        metrics = self._timed_sums(reply.round, personal, is_last=False)
        started = time.perf_counter()
        update = self._trained(reply.round, personal, train_shared=self._train_shared)
        metrics["seconds_training"] = (time.perf_counter() - started,)
        return replace(reply, arrays=update, counts=self.prepared.counts, metrics=metrics)

    def evaluate(self, reply: Reply, personal: Personal) -> Reply:
        """The reply with statistics of the model, and of the site's own where there is one."""
        metrics = self._timed_sums(reply.round, personal, is_last=True)
        if self._study.personal.has_model:
            personal.make_own(self.prepared.model, self.prepared.train, reply.round)
            metrics |= self._sums(reply.round, personal, is_last=True, model=PERSONAL)
        return replace(reply, metrics=metrics)

    def _train_shared(self, seed: int) -> int:
        return train(self.prepared.model, self.prepared.train, self._study, seed=seed)

    def _timed_sums(
        self, round_number: int, personal: Personal, *, is_last: bool
    ) -> dict[str, tuple[float, ...]]:
        started = time.perf_counter()
        metrics = self._sums(round_number, personal, is_last=is_last)
        metrics["seconds_evaluation"] = (time.perf_counter() - started,)
        return metrics

    def _sums(
        self, round_number: int, personal: Personal, *, is_last: bool, model: str = ""
    ) -> dict[str, tuple[float, ...]]:
        judged = self._judged(round_number, personal, is_last=is_last, model=model)
        if len(self.prepared.test) == 0:
            return {}
        metrics = to_flat(evaluate(judged.predictions, judged.outcomes, self._study), model=model)
        if is_last and not model:
            # Of the last model alone: of several, what changes would tell of few patients.
            metrics |= self._sums_of_the_last(judged)
        return metrics

    def _sums_of_the_last(self, judged: Judged) -> dict[str, tuple[float, ...]]:
        """Of groups of patients, and of what the predictions rest on, where the study asks."""
        prepared, smallest = self.prepared, self.prepared.policy.smallest_group
        members = members_of(prepared.test, self._study)
        groups = group_sums(judged.predictions, judged.outcomes, members, self._study, smallest)
        metrics: dict[str, tuple[float, ...]] = {}
        for key, sums in groups.items():
            metrics |= to_flat(sums, model=key)
        judge = Judge(
            study=self._study,
            model=prepared.model,
            trained_on=prepared.train,
            patients=prepared.test,
            predictions=judged.predictions,
            intercepts=judged.intercepts,
        )
        attributed = attribution_sums(
            judge, judged.outcomes, members=members, told=groups, policy=prepared.policy
        )
        return metrics | attributions_to_flat(attributed)


class PrivateWork(Work):
    """Work under patient-level privacy: every number in a reply went through a mechanism.

    Guarantees:
        - Training releases the update alone, and enrolment noised moments or nothing.
        - The one evaluation releases noised statistics of the shared model, never of the site's
          own, which was trained without noise.
        - What is not released may depend on the patients as it likes: the site's own model, and
          what a simulation's observer is told.

    Args:
        sources: the noise of one task.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        site: str,
        observer: PredictionObserver | None,
        sources: Sources,
    ) -> None:
        super().__init__(prepared, site=site, observer=observer)
        self._plan = prepared.plan
        self._sources = sources

    def enrol(self, reply: Reply) -> Reply:
        """The reply with public weights, and noised moments where normalisation is federated."""
        reply = replace(reply, counts=self.prepared.counts)
        if self._plan.moments_noise_multiplier is None:
            return reply
        moments = private_moments(
            self.prepared.moments,
            self._study,
            self._plan.moments_noise_multiplier,
            self._sources(reply.round, reply.kind),
        )
        return replace(reply, arrays=moments)

    def train(self, reply: Reply, personal: Personal) -> Reply:
        """The reply with the update of this round, and no statistic."""
        if self._observer is not None:
            self._judged(reply.round, personal, is_last=False)
        source = self._sources(reply.round, reply.kind)

        def train_shared(seed: int) -> int:
            prepared = self.prepared
            return train_privately(
                prepared.model, prepared.train, self._study, self._plan, source=source, seed=seed
            )

        update = self._trained(reply.round, personal, train_shared=train_shared)
        return replace(reply, arrays=update, counts=self.prepared.counts)

    def evaluate(self, reply: Reply, personal: Personal) -> Reply:
        """The reply with noised statistics of the shared model."""
        judged = self._judged(reply.round, personal, is_last=True)
        metrics = private_evaluation(
            judged.predictions,
            judged.outcomes,
            self._study,
            self._plan.evaluation_noise_multiplier,
            self._sources(reply.round, reply.kind),
        )
        if self._study.personal.has_model:
            personal.make_own(self.prepared.model, self.prepared.train, reply.round)
            if self._observer is not None:
                self._judged(reply.round, personal, is_last=True, model=PERSONAL)
        return replace(reply, metrics=metrics)

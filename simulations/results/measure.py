"""From held-out predictions to numbers: the metrics of each arm, by run, group and hospital.

Everything here is a function of values. Metrics are exact, from pooled predictions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.metrics.evaluation import statistics_of
from common.metrics.statistics import Metrics
from common.study import Study
from simulations.arms import MEAN, POOLED
from simulations.results.held_out import HeldOut, one_after_the_other, with_all_arms
from simulations.results.methods import FEDERATED, LOCAL_ONLY
from simulations.results.page import (
    EVERYBODY,
    Group,
    Page,
    Split,
    everybody,
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The metrics of one arm for one outcome, group and scope in one run.

    Attributes:
        scope: a site's name, `POOLED`, or `MEAN`: the unweighted mean over sites.
        run: the name of a split, or of a repeat: "out of fold, repeat 0".
        is_repeat: whether it is over all folds of a repeat.
    """

    arm: str
    outcome: str
    group: str
    scope: str
    run: str
    is_repeat: bool
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class Share:
    """In how many of the cases (site × split) an arm served a site better than its own model."""

    arm: str
    outcome: str
    metric: str
    num_better: int
    num_cases: int


def measure(
    held: Mapping[Split, Sequence[HeldOut]], page: Page, study: Study
) -> tuple[list[Measured], dict[int, HeldOut]]:
    """The metrics of every arm in every split and repeat; and the patients of each repeat."""
    whole = {split: with_all_arms(parts) for split, parts in held.items() if parts}
    measured = [
        m
        for split, one in whole.items()
        for m in _measured(one, page, study, run=split.name, is_repeat=False)
    ]
    repeats: dict[int, HeldOut] = {}
    for repeat in sorted({split.repeat for split in whole}):
        repeats[repeat] = one_after_the_other([o for s, o in whole.items() if s.repeat == repeat])
        run = f"out of fold, repeat {repeat}"
        measured += _measured(repeats[repeat], page, study, run=run, is_repeat=True)
    return measured, repeats


def groups_of(page: Page, outcome: str, study: Study) -> list[Group]:
    """The groups of an outcome: everybody, and for the primary one those of the page."""
    groups = [Group(name=EVERYBODY, chosen=everybody)]
    is_primary = outcome == next(iter(study.outcomes))
    return groups + (list(page.groups) if is_primary else [])


def primary_metric(study: Study) -> tuple[str, str]:
    """The primary outcome, and the most telling metric of it."""
    outcome, statistics = next(iter(statistics_of(study).items()))
    return outcome, statistics.columns[0]


def _measured(
    held: HeldOut, page: Page, study: Study, *, run: str, is_repeat: bool
) -> Iterator[Measured]:
    for outcome in study.outcomes:
        for group in groups_of(page, outcome, study):
            chosen = held.take(group.chosen(held))
            for arm in held.predictions:
                if not len(chosen) or not chosen.scores_all(arm, outcome):
                    continue
                for scope, metrics in _scopes(chosen, arm, outcome, study):
                    yield Measured(
                        arm=arm,
                        outcome=outcome,
                        group=group.name,
                        scope=scope,
                        run=run,
                        is_repeat=is_repeat,
                        metrics=metrics,
                    )


def _scopes(held: HeldOut, arm: str, outcome: str, study: Study) -> Iterator[tuple[str, Metrics]]:
    whole = _metrics(held, arm, outcome, study)
    yield POOLED, whole
    by_site = {
        site: _metrics(held.take(held.site_B == site), arm, outcome, study) for site in held.sites()
    }
    yield from by_site.items()
    mean: Metrics = {}
    for metric in whole:
        known = [v for m in by_site.values() if (v := m.get(metric)) is not None]
        mean[metric] = float(np.mean(known)) if known else None
    yield MEAN, mean


def _metrics(held: HeldOut, arm: str, outcome: str, study: Study) -> Metrics:
    statistics = statistics_of(study)[outcome]
    if not held.outcomes[outcome]["known_B"].any():
        return statistics.undefined()
    return statistics.exact_metrics(held.predictions[arm][outcome], held.outcomes[outcome])


def shares(measured: Sequence[Measured]) -> list[Share]:
    """How often federated arms beat the hospital's own model, by outcome, over site × split.

    By the loss where it is a likelihood or an error; else by the C-index.
    """
    found = []
    sites = {m.scope for m in measured} - {POOLED, MEAN}
    rows = [m for m in measured if m.group == EVERYBODY and not m.is_repeat and m.scope in sites]
    for outcome in dict.fromkeys(m.outcome for m in rows):
        mine = [m for m in rows if m.outcome == outcome]
        is_order = all(m.metrics.get("loss") is None for m in mine)
        metric, sign = ("c_index", -1) if is_order else ("loss", 1)
        value = {(m.arm, m.run, m.scope): m.metrics.get(metric) for m in mine}
        for arm in dict.fromkeys(m.arm for m in mine if m.arm.startswith(FEDERATED)):
            pairs = [
                (ours, value.get((LOCAL_ONLY, run, site)))
                for (its, run, site), ours in value.items()
                if its == arm
            ]
            known = [(o, alone) for o, alone in pairs if o is not None and alone is not None]
            num_better = sum(sign * ours < sign * alone for ours, alone in known)
            share = Share(
                arm=arm, outcome=outcome, metric=metric, num_better=num_better, num_cases=len(known)
            )
            found.append(share)
    return found

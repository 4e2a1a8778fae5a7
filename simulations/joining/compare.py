"""From the numbers of all pieces to findings: every arm beside another, on the same patients.

Everything here is a function of values.

Letters of shapes: S seeds, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from common.metrics.statistics import Floats
from common.study import Study
from simulations.joining.findings import (
    LEVEL_ARMS,
    MEAN,
    NOT_JOINED,
    OTHERS,
    Difference,
    Findings,
    Level,
    Question,
)
from simulations.joining.intervals import Estimate, estimate, holm
from simulations.joining.resample import People, is_higher_better, num_resamples_of
from simulations.joining.training import (
    ALONE,
    JOINED,
    JOINED_PERSONAL,
    POOLED,
    Kind,
    Measured,
    Piece,
)
from simulations.results.measure import primary_metric

# By question, the arm and what it is compared with, hospital by hospital.
_BY_HOSPITAL: Mapping[Question, tuple[str, str]] = {
    "joining": (JOINED, ALONE),
    "personal": (JOINED_PERSONAL, ALONE),
    "fine-tuning": (JOINED_PERSONAL, JOINED),
    "pooling": (POOLED, JOINED),
    "receiving": (NOT_JOINED, ALONE),
    "taking part": (JOINED, NOT_JOINED),
}

# By arm, then by hospital: (S, R), NaN where there is nothing.
Values = Mapping[str, Mapping[str, Floats]]


def findings_of(pieces: Mapping[Piece, Measured], study: Study) -> Findings:
    """What the pieces say, of the study that they were trained for.

    Guarantees:
        - Arms are compared on the same patients, resamples and seeds.
        - A hospital with too few patients, or where an arm failed, stays with its reason; means
          over hospitals are of those with enough patients.
        - Where hospitals are judged together, each p value is adjusted by Holm's method.
    """
    seeds = tuple(sorted({piece.seed for piece in pieces}))
    people = next(iter(pieces.values())).people
    values, reasons = _stacked(pieces, seeds, list(people))
    outcome, metric = primary_metric(study)
    # A share of pairs is 1 at most; an error knows no bound above.
    most = 1.0 if is_higher_better(study) else inf
    findings = Findings(
        study=study,
        outcome=outcome,
        metric=metric,
        seeds=seeds,
        num_resamples=num_resamples_of(len(people)),
        people=people,
        levels=_levels(values, people, upper=most),
        differences=[],
        failures=_failures(values, reasons, people),
    )
    sign = 1.0 if is_higher_better(study) else -1.0
    compare = _Compare(values=values, reasons=reasons, people=people, sign=sign, most=most)
    differences: list[Difference] = []
    for question, (arm, against) in _BY_HOSPITAL.items():
        if arm in values and against in values:
            differences += compare.by_hospital(question, arm, against)
    for kind, question in _LEFT_OUT.items():
        absents = dict.fromkeys(p.absent for p in pieces if p.kind == kind)
        differences += compare.left_out(question, {a: f"{kind} {a}" for a in absents})
    return replace(findings, differences=differences)


_LEFT_OUT: Mapping[Kind, Question] = {
    "without hospital": "hospital",
    "without granularity": "granularity",
}


def _stacked(
    pieces: Mapping[Piece, Measured], seeds: Sequence[int], sites: Sequence[str]
) -> tuple[dict[str, dict[str, Floats]], dict[str, dict[str, str]]]:
    """Values and reasons by arm and hospital, over seeds."""
    by_seed: dict[tuple[str, str, int], Floats] = {}
    reasons: dict[str, dict[str, str]] = {}
    arms: dict[str, None] = {}
    for piece, measured in pieces.items():
        for arm, by_site in measured.values.items():
            arms[arm] = None
            for site in sites:
                told = measured.reasons[arm].get(site)
                own = _own_name(piece, arm, site)
                arms[own] = None
                if told:
                    reasons.setdefault(own, {}).setdefault(site, told)
                if site in by_site:
                    by_seed[own, site, piece.seed] = by_site[site]
    nothing = np.full(num_resamples_of(len(sites)) + 1, np.nan)
    values = {
        arm: {
            site: np.stack([by_seed.get((arm, site, seed), nothing) for seed in seeds])
            for site in sites
        }
        for arm in arms
    }
    return values, reasons


def _own_name(piece: Piece, arm: str, site: str) -> str:
    """What an arm is called at a hospital: to the one that is left out, it is the others' model."""
    return NOT_JOINED if piece.kind == "without hospital" and piece.absent == site else arm


def _levels(values: Values, people: Mapping[str, People], *, upper: float) -> list[Level]:
    levels, bounds = [], (0.0, upper)
    for arm in (arm for arm in LEVEL_ARMS if arm in values):
        by_site = values[arm]
        for site, values_SR in by_site.items():
            enough = not people[site].too_few
            level = estimate(values_SR, has_interval=enough, bounds=bounds)
            levels.append(Level(arm=arm, scope=site, estimate=level))
        told = [by_site[site] for site in people if not people[site].too_few]
        if len(told) > 1:
            mean = estimate(np.mean(told, axis=0), bounds=bounds)
            levels.append(Level(arm=arm, scope=MEAN, estimate=mean))
    return levels


@dataclass(frozen=True, kw_only=True)
class _Compare:
    """Differences between arms; `sign` makes each a gain, and none is beyond `most`."""

    values: Values
    reasons: Mapping[str, Mapping[str, str]]
    people: Mapping[str, People]
    sign: float
    most: float

    def by_hospital(self, question: Question, arm: str, against: str) -> list[Difference]:
        """At every hospital, judged together; and as the mean of those with enough patients."""
        told = [self._at(question, site, arm, against) for site in self.people]
        return adjusted(told) + self._mean(question, list(self.people), arm, against, scope=MEAN)

    def left_out(self, question: Question, arms: Mapping[str, str]) -> list[Difference]:
        """What is lost without each: as the mean of the (other) hospitals, and at each of them."""
        means: list[Difference] = []
        each: list[Difference] = []
        for absent, against in arms.items():
            sites = [s for s in self.people if question == "granularity" or s != absent]
            scope = MEAN if question == "granularity" else OTHERS
            found = self._mean(question, sites, JOINED, against, scope=scope, absent=absent)
            means += found or [self._nothing(question, scope, against, absent, sites)]
            each += [self._at(question, s, JOINED, against, absent=absent) for s in sites]
        return adjusted(means) + each

    def _at(
        self, question: Question, site: str, arm: str, against: str, *, absent: str = ""
    ) -> Difference:
        after_SR, before_SR = self.values[arm][site], self.values[against][site]
        reason = (
            self.people[site].too_few
            or self._reason(arm, site, after_SR)
            or self._reason(against, site, before_SR)
        )
        found = _difference(question, site, arm, against, absent)
        return replace(
            self._told(found, after_SR, before_SR, has_interval=not reason),
            reason=reason,
            sites=(site,),
        )

    def _told(
        self, asked: Difference, after_SR: Floats, before_SR: Floats, *, has_interval: bool = True
    ) -> Difference:
        """The difference in the seeds in which both arms have a value."""
        gain_SR = self.sign * (after_SR - before_SR)
        is_known_S = np.isfinite(gain_SR[:, 0])
        return replace(
            asked,
            before=estimate(before_SR[is_known_S], has_interval=False).value,
            after=estimate(after_SR[is_known_S], has_interval=False).value,
            gain=estimate(gain_SR, has_interval=has_interval, bounds=(-self.most, self.most)),
        )

    def _reason(self, arm: str, site: str, values_SR: Floats) -> str:
        """Why an arm has no value at a hospital in any seed."""
        if np.isfinite(values_SR[:, 0]).any():
            return ""
        return f"{arm}: {self.reasons.get(arm, {}).get(site, 'it is undefined')}"

    def _mean(
        self,
        question: Question,
        sites: Sequence[str],
        arm: str,
        against: str,
        *,
        scope: str,
        absent: str = "",
    ) -> list[Difference]:
        """The unweighted mean over the hospitals that both arms have a value of; none of one."""
        told = [
            site
            for site in sites
            if not self.people[site].too_few
            and np.isfinite(self.values[arm][site][:, 0] + self.values[against][site][:, 0]).any()
        ]
        if len(told) < (1 if absent else 2):
            return []
        after_SR, before_SR = (
            np.mean([self.values[name][site] for site in told], axis=0) for name in (arm, against)
        )
        asked = _difference(question, scope, arm, against, absent)
        return [replace(self._told(asked, after_SR, before_SR), sites=tuple(told))]

    def _nothing(
        self, question: Question, scope: str, against: str, absent: str, sites: Sequence[str]
    ) -> Difference:
        why = [self._at(question, site, JOINED, against, absent=absent).reason for site in sites]
        reason = next(filter(None, why), "no hospital has enough held-out patients")
        return replace(_difference(question, scope, JOINED, against, absent), reason=reason)


def _difference(question: Question, scope: str, arm: str, against: str, absent: str) -> Difference:
    """What is asked for, before anything is known of it."""
    return Difference(
        question=question,
        scope=scope,
        arm=arm,
        against=against,
        absent=absent,
        before=None,
        after=None,
        gain=Estimate(by_seed=()),
    )


def _failures(
    values: Values, reasons: Mapping[str, Mapping[str, str]], people: Mapping[str, People]
) -> list[str]:
    """Arms that came to nothing in some seeds, where patients are not the reason."""
    told = []
    for arm, by_site in reasons.items():
        for site, reason in by_site.items():
            num_failed = int(np.isnan(values[arm][site][:, 0]).sum())
            if reason != people[site].too_few and num_failed:
                num_seeds = len(values[arm][site])
                told.append(f"{arm}, {site}: {reason} ({num_failed} of {num_seeds} seeds)")
    return told


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """The differences with p values adjusted for all of them that have one."""
    told = [d for d in differences if d.gain.p is not None]
    p_values = holm([d.gain.p for d in told if d.gain.p is not None])
    by_place = dict(zip(map(id, told), p_values, strict=True))
    return [
        replace(d, p_holm=by_place.get(id(d)), num_compared=len(told)) if id(d) in by_place else d
        for d in differences
    ]
